"""Token shards and batches: a corpus encoded once into memory-mapped files; a batch is a pure function of its step.

    data/train.bin, data/val.bin    the tokens, uint16 or uint32
    data/tokenizer.tiktoken         the tokenizer they were made with
    data/data.json                  its fingerprint and the counts; written last, so that with it the shards are whole

Knows no torch and no model.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt_model.corpus import Document, read_texts
from gpt_model.errors import DataError
from gpt_model.journal import write_atomically
from gpt_model.tokenizer import Tokenizer, build_tokenizer, read_tokenizer

Tokens = np.ndarray[Any, np.dtype[np.uint16 | np.uint32]]
Batch = tuple[NDArray[np.int64], NDArray[np.int64]]
"""ids and targets, both (B, T): targets[b, t] follows ids[b, t]."""
Progress = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done, from 0 to 1."""

_HEADER = "data.json"


@dataclass(frozen=True)
class Shards:
    """The tokens of a run: what it trains on, and the end of the text, which it is validated on."""

    train: Tokens
    val: Tokens
    tokenizer: Tokenizer


@dataclass(frozen=True)
class _Header:
    schema: int
    fingerprint: str
    dtype: str
    train_tokens: int
    val_tokens: int


def prepare_shards(
    directory: Path,
    documents: Callable[[], list[Document]],
    tokenizer: Tokenizer | str,
    val_fraction: float,
    on_progress: Progress = lambda what, share: None,
) -> Shards:
    """Return the shards in `directory`, encoding the documents if they are not there yet.

    Shards that are there are used as they are: a run goes on with the text it began with, though the files have changed
    since. A tokenizer that is given as a spec is built here; a `bpe:N` is trained on the training part only. Documents
    are parted by the end-of-text token; the last `val_fraction` of the bytes of text is the validation split, cut where
    nanoGPT cuts.

    Raises:
        DataError: a document cannot be read, is not text, or there is no text.
        TokenizerError: the spec is not one.
    """
    shards = _open_shards(directory)
    if shards is None or (isinstance(tokenizer, Tokenizer) and tokenizer.fingerprint != shards.tokenizer.fingerprint):
        train, val = split_documents(documents(), val_fraction)
        if isinstance(tokenizer, str):
            on_progress(f"building the tokenizer {tokenizer}", 0.0)
            tokenizer = build_tokenizer(tokenizer, lambda: read_texts(train))
        _write_shards(directory, train, val, tokenizer, on_progress)
        shards = _open_shards(directory)
        if shards is None:
            raise DataError(f"The token shards in {directory} are not what was just written: the disk is not reliable.")
    return shards


def split_documents(documents: list[Document], val_fraction: float) -> tuple[list[Document], list[Document]]:
    """Return the training part and the validation part, which is the last `val_fraction` of the bytes of text."""
    total = sum(document.size for document in documents)
    left = int(total * (1 - val_fraction))  # nanoGPT: int(n * 0.9)
    train, val = [], []
    for document in documents:
        before, after = document.split(document.start + min(max(left, 0), document.size))
        left -= document.size
        train += [before] if before.size else []
        val += [after] if after.size else []
    return train, val


class Batches:
    """The batches of a run. The order is a pure function of (seed, step), so that resuming needs no loader's state.

    In every epoch the text is cut into windows of T tokens that do not overlap, from a new random start, and every
    window is drawn once, in a new random order.
    """

    def __init__(self, tokens: Tokens, batch_size: int, sequence_length: int, seed: int) -> None:
        """Take the tokens to draw from.

        Raises:
            DataError: there are fewer than one window and its target.
        """
        needed = sequence_length + 1
        if len(tokens) < needed:
            raise DataError(
                f"The training text has {len(tokens):,} tokens, but one sequence needs {needed:,}. Train on more text, "
                f"or set sequence_length (or the model's block_size) to {max(len(tokens) - 1, 1):,} or less."
            )
        self._tokens = tokens
        self._batch_size = batch_size
        self._length = sequence_length
        self._seed = seed
        # One window fewer than would fit, so that every epoch has room to start somewhere else and all have as many.
        self.windows_per_epoch = max((len(tokens) - 1) // sequence_length - 1, 1)
        self._slack = min(len(tokens) - 1 - self.windows_per_epoch * sequence_length, sequence_length - 1)
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)  # a batch can reach from one epoch into the next

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one batch predicts."""
        return self._batch_size * self._length

    def batch(self, step: int) -> Batch:
        """Return ids and targets (B, T) of the update after `step` updates."""
        samples = np.arange(step * self._batch_size, (step + 1) * self._batch_size)
        return read_windows(self._tokens, np.array([self._start(int(sample)) for sample in samples]), self._length)

    def _start(self, sample: int) -> int:
        epoch, place = divmod(sample, self.windows_per_epoch)
        offset, order = self._epoch(epoch)
        return offset + int(order[place]) * self._length

    def _draw_epoch(self, epoch: int) -> tuple[int, NDArray[np.int64]]:
        random = np.random.Generator(np.random.Philox(key=np.array([self._seed, epoch], dtype=np.uint64)))
        return int(random.integers(self._slack + 1)), random.permutation(self.windows_per_epoch)


def evaluation_batches(tokens: Tokens, batch_size: int, sequence_length: int, count: int) -> list[Batch]:
    """Return up to `count` batches, always the same, of windows evenly spaced over the tokens.

    Fewer tokens than a window make one shorter window; fewer than two tokens none.
    """
    if len(tokens) < 2:
        return []
    length = min(sequence_length, len(tokens) - 1)
    windows = (len(tokens) - 1) // length
    taken = min(windows, batch_size * count)
    starts = np.arange(taken) * windows // taken * length
    return [read_windows(tokens, starts[at : at + batch_size], length) for at in range(0, taken, batch_size)]


def read_windows(tokens: Tokens, starts: NDArray[np.int64], length: int) -> Batch:
    """Return ids and targets (B, length) of the windows that begin at `starts` (B,)."""
    windows = tokens[starts[:, None] + np.arange(length + 1)].astype(np.int64)  # (B, length + 1)
    return windows[:, :-1], windows[:, 1:]


def _open_shards(directory: Path) -> Shards | None:
    try:
        header = _Header(**json.loads((directory / _HEADER).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    tokenizer = read_tokenizer(directory)
    if header.schema != 1 or tokenizer is None or tokenizer.fingerprint != header.fingerprint:
        return None
    parts: list[Tokens] = []
    for name, count in (("train", header.train_tokens), ("val", header.val_tokens)):
        file, dtype = directory / f"{name}.bin", np.dtype(header.dtype)
        if not file.is_file() or file.stat().st_size != count * dtype.itemsize:
            return None
        parts.append(np.memmap(file, dtype, mode="r") if count else np.empty(0, dtype))
    return Shards(parts[0], parts[1], tokenizer)


def _write_shards(
    directory: Path, train: list[Document], val: list[Document], tokenizer: Tokenizer, on_progress: Progress
) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / _HEADER).unlink(missing_ok=True)
    dtype = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
    total = sum(document.size for document in (*train, *val))
    counts, done = [], 0

    def tell(text: str) -> None:
        nonlocal done
        done += len(text.encode())
        on_progress("encoding the text", min(done / total, 1.0))

    for name, documents in (("train", train), ("val", val)):
        with (directory / f"{name}.bin").open("wb") as file:
            for block in _encode(documents, tokenizer, tell):
                file.write(block.astype(dtype).tobytes())
            counts.append(file.tell() // np.dtype(dtype).itemsize)
    tokenizer.save(directory)
    header = _Header(1, tokenizer.fingerprint, dtype, *counts)
    write_atomically(directory / _HEADER, json.dumps(asdict(header)))


def _encode(
    documents: Iterable[Document], tokenizer: Tokenizer, tell: Callable[[str], None]
) -> Iterable[NDArray[np.uint32]]:
    """Yield the tokens of documents with the end of text between two of them, and neither before nor after them all."""
    for number, document in enumerate(documents):
        if number:
            yield np.array([tokenizer.end_of_text], dtype=np.uint32)
        for text in document.chunks():
            yield tokenizer.encode_array(text)
            tell(text)
