"""encode_parts: a corpus becomes two files of tokens, in constant memory and on every core.

An encoding that was cut short goes on where it was.
Knows no shards: what the files are good for is shards.py's.
"""

import contextlib
import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt_model.corpus import Document
from gpt_model.disk_space import require_space
from gpt_model.errors import DataError
from gpt_model.journal import write_atomically
from gpt_model.splitting import Split
from gpt_model.tokenizer import Tokenizer

NAMES = ("train.bin", "val.bin")
SAVE_BYTES = 64 << 20
"""Bytes of text after which it is written down how far the encoding has come."""
PIECE_BYTES = 1 << 20
"""Bytes of text that are encoded at once."""
_POSITION = "encoding.json"
_READ_BYTES = 1 << 22


@dataclass(frozen=True)
class Encoded:
    """One of the files, finished."""

    tokens: int
    checksum: str
    """BLAKE2b of its bytes."""

    @staticmethod
    def forget(directory: Path) -> None:
        """Delete the note of how far the encoding has come, when it is finished."""
        (directory / _POSITION).unlink(missing_ok=True)


@dataclass(frozen=True)
class _Piece:
    """Text that is encoded at once."""

    side: int
    """Which of the files it goes into."""
    opens: bool
    """Whether it begins a part of the corpus: what went before it in the file ends with end-of-text."""
    document: int
    end: int
    """The byte of the document after it."""
    text: str
    size: int


def encode_parts(
    directory: Path, documents: Sequence[Document], split: Split, tokenizer: Tokenizer, about: Mapping[str, str],
    on_progress: Callable[[str, float], None],
) -> tuple[Encoded, Encoded]:  # fmt: skip
    """Write the tokens of a corpus into train.bin and val.bin, with end-of-text between two parts of it.

    Args:
        directory: Where the files are.
        documents: The corpus.
        split: What goes into which file.
        tokenizer: What encodes it.
        about: What the files are made of: an encoding that was cut short goes on only if that is still the same.
        on_progress: Told how far it is; whatever it raises ends the encoding, which can go on from there.

    Raises:
        DataError: a document cannot be read or is not text, or the disk has no room.
        OSError: the files cannot be written.
    """
    total = sum(document.size for document in documents)
    width = np.dtype(about["dtype"]).itemsize
    # Only bytes make as many tokens as there are bytes; of other vocabularies a token has more than four at best.
    least = total * width if tokenizer.vocab_size == 257 else total * width // 5
    with _Encoding(directory, about) as encoding:
        advice = "Free some space, or put the runs elsewhere (GPT_TUI_HOME)."
        require_space(directory, max(least - encoding.size, 0), DataError, advice)
        done = sum(document.size for document in documents[: encoding.document])
        pieces = _pieces(documents, split, encoding.document, encoding.end)
        for piece, tokens in _encode_ahead(pieces, tokenizer):
            on_progress("encoding the text", min((done + piece.end) / max(total, 1), 1.0))
            if piece.document > encoding.document:
                done = sum(document.size for document in documents[: piece.document])
            encoding.add(piece, tokens, tokenizer.end_of_text)
        return encoding.finish()


def _pieces(documents: Sequence[Document], split: Split, document: int, end: int) -> Iterator[_Piece]:
    """Yield the pieces of a corpus from byte `end` of a document on."""
    for part in split.parts(documents):
        text = part.text
        if part.document < document or (part.document == document and text.end <= end):
            continue
        opens = part.document > document or text.start >= end
        at = text.start if opens else end
        for chunk in replace(text, start=at).chunks(PIECE_BYTES):
            size = len(chunk.encode())
            at += size
            yield _Piece(int(part.is_validation), opens, part.document, at, chunk, size)
            opens = False


def _encode_ahead(pieces: Iterator[_Piece], tokenizer: Tokenizer) -> Iterator[tuple[_Piece, NDArray[np.uint32]]]:
    """Yield pieces in order with their tokens, while other threads encode later ones: tiktoken lets go of the GIL."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ahead: deque[tuple[_Piece, Future[NDArray[np.uint32]]]] = deque()
    with ThreadPoolExecutor(cores, thread_name_prefix="encoding") as threads:
        try:
            for piece in pieces:
                ahead.append((piece, threads.submit(tokenizer.encode_array, piece.text)))
                if len(ahead) > 2 * cores:
                    first, tokens = ahead.popleft()
                    yield first, tokens.result()
            while ahead:
                first, tokens = ahead.popleft()
                yield first, tokens.result()
        finally:
            threads.shutdown(cancel_futures=True)


class _Encoding:
    """The two files while they are written, and how far they have come."""

    def __init__(self, directory: Path, about: Mapping[str, str]) -> None:
        self._directory, self._about = directory, dict(about)
        self._dtype = np.dtype(about["dtype"])
        position = self._read_position()
        self.document, self.end = position.get("document", 0), position.get("end", 0)
        """What was written last ended at this byte of this document."""
        self._unsaved = 0
        self._counts: list[int] = position.get("counts", [0, 0])
        self._digests = [hashlib.blake2b(digest_size=32) for _ in NAMES]
        self._files = [(directory / name).open("r+b" if position else "w+b") for name in NAMES]
        for file, count, digest in zip(self._files, self._counts, self._digests, strict=True):
            file.truncate(count * self._dtype.itemsize)  # what was written after the position counts for nothing
            while data := file.read(_READ_BYTES):
                digest.update(data)

    @property
    def size(self) -> int:
        """Bytes in both files."""
        return sum(self._counts) * self._dtype.itemsize

    def add(self, piece: _Piece, tokens: NDArray[np.uint32], end_of_text: int) -> None:
        """Append a piece's tokens."""
        if piece.opens and self._counts[piece.side]:
            tokens = np.concatenate((np.array([end_of_text], dtype=tokens.dtype), tokens))
        data = tokens.astype(self._dtype).tobytes()
        self._files[piece.side].write(data)
        self._digests[piece.side].update(data)
        self._counts[piece.side] += len(tokens)
        self.document, self.end = piece.document, piece.end
        self._unsaved += piece.size
        if self._unsaved >= SAVE_BYTES:
            self._save()

    def finish(self) -> tuple[Encoded, Encoded]:
        """Flush both files to disk and return what they hold."""
        self._flush()
        train, val = (
            Encoded(count, digest.hexdigest()) for count, digest in zip(self._counts, self._digests, strict=True)
        )
        return train, val

    def __enter__(self) -> "_Encoding":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            if error is not None:
                self._save()
        for file in self._files:
            with contextlib.suppress(OSError):  # of a full disk, which was told by what came first
                file.close()

    def _flush(self) -> None:
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())

    def _save(self) -> None:
        self._flush()
        position = {"about": self._about, "document": self.document, "end": self.end, "counts": self._counts}
        write_atomically(self._directory / _POSITION, json.dumps(position))
        self._unsaved = 0

    def _read_position(self) -> dict[str, Any]:
        """Return how far an encoding of the same has come; nothing when there is none, or its files are shorter."""
        try:
            position: dict[str, Any] = json.loads((self._directory / _POSITION).read_bytes())
            same = position["about"] == self._about
            sizes = [(self._directory / name).stat().st_size for name in NAMES]
            whole = all(
                size >= count * self._dtype.itemsize for size, count in zip(sizes, position["counts"], strict=True)
            )
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return position if same and whole else {}
