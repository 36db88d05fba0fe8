"""Token shards: a corpus encoded once into memory-mapped files, checked at every start, made again when damaged.

    data/train.bin, data/val.bin    the tokens, uint16 or uint32
    data/tokenizer.tiktoken         the tokenizer they were made with
    data/data.json                  what they were made of, their counts and checksums; written last, so that with it
                                    the shards are whole
    data/encoding.json              how far the encoding has come, while it is under way

Knows no torch and no model.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpt_model.corpus import Document, read_texts
from gpt_model.encoding import NAMES, Encoded, encode_parts
from gpt_model.errors import DataError
from gpt_model.journal import write_atomically
from gpt_model.splitting import Split
from gpt_model.tokenizer import Tokenizer, build_tokenizer, read_tokenizer

Tokens = np.ndarray[Any, np.dtype[np.uint16 | np.uint32]]
Progress = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done, from 0 to 1."""

_HEADER = "data.json"
_READ_BYTES = 1 << 22


@dataclass(frozen=True)
class Shards:
    """The tokens of a run: what it trains on, and what it is validated on."""

    train: Tokens
    val: Tokens
    tokenizer: Tokenizer
    checksum: str
    """Of all of them; empty for shards of an older version, which have none."""


@dataclass(frozen=True)
class _Header:
    schema: int
    fingerprint: str
    """The tokenizer's."""
    dtype: str
    split: str
    sources: str
    """A hash of the documents' paths, sizes and times of change, as `identify` makes it."""
    train_tokens: int
    val_tokens: int
    train_checksum: str
    """BLAKE2b of the file."""
    val_checksum: str


def prepare_shards(
    directory: Path,
    documents: Callable[[], Sequence[Document]],
    tokenizer: Tokenizer | str,
    split: Split,
    on_progress: Progress = lambda what, share: None,
    on_damage: Callable[[str], object] = lambda message: None,
    expected: str = "",
) -> Shards:
    """Return the shards in `directory`, encoding the documents if they are not there yet.

    Shards that are there are used as they are: a run goes on with the text it began with, though the files have changed
    since. Damaged ones are made again from documents that have not changed, and that is told to `on_damage`. A
    tokenizer that is given as a spec is built here; a `bpe:N` is trained on the training part only. Documents, and
    what a part on the other side of the split has parted, are parted by the end-of-text token. `expected` is the
    checksum of the tokens that were trained on before, if that is known: no others are returned then.

    Raises:
        DataError: a document cannot be read, is not text, or there is no text; the disk is full; shards are damaged
            and the documents are not those that they were made of; the tokens are not the expected ones.
        TokenizerError: the spec is not one.
    """
    shards = _prepare(directory, documents, tokenizer, split, on_progress, on_damage)
    if expected and shards.checksum and shards.checksum != expected:
        (directory / _HEADER).unlink(missing_ok=True)  # so that they are made again when the texts have been restored
        raise DataError(
            f"The texts give other tokens than those that this run was trained on, which were in {directory}. Restore "
            "the texts as they were, or begin a new run from the last checkpoint (init)."
        )
    return shards


def _prepare(
    directory: Path, documents: Callable[[], Sequence[Document]], tokenizer: Tokenizer | str, split: Split,
    on_progress: Progress, on_damage: Callable[[str], object],
) -> Shards:  # fmt: skip
    header = _read_header(directory)
    own = read_tokenizer(directory) if header else None
    if header and own and own.fingerprint == header.fingerprint and _is_for(header, tokenizer):
        damage = _damage(directory, header, on_progress)
        if damage is None:
            return _open(directory, header, own)
        _require_same_sources(header, documents, damage)
        on_damage(f"{damage} The texts are unchanged, so it is made again.")
        tokenizer = own
    found = documents()
    if isinstance(tokenizer, str):
        building = f"building the tokenizer {tokenizer}"
        on_progress(building, 0.0)
        training = (part.text for part in split.parts(found) if not part.is_validation)
        tokenizer = build_tokenizer(tokenizer, lambda: read_texts(training), lambda share: on_progress(building, share))
    return _open(directory, _write(directory, found, tokenizer, split, on_progress), tokenizer)


def open_shards(directory: Path) -> Shards:
    """Return shards that are there, without checking what is in them.

    Raises:
        DataError: there are none, or not whole ones.
    """
    header, tokenizer = _read_header(directory), read_tokenizer(directory)
    if header is None or tokenizer is None or tokenizer.fingerprint != header.fingerprint:
        raise DataError(f"There are no token shards in {directory} yet: the run has not encoded its text.")
    if _sizes_differ(directory, header):
        raise DataError(f"The token shards in {directory} are damaged; resuming the run makes them again.")
    return _open(directory, header, tokenizer)


def require_whole(directory: Path) -> None:
    """Refuse shards that are not as they were written, without making them again.

    Raises:
        DataError: there are none, or they are damaged.
    """
    open_shards(directory)
    header = _read_header(directory)
    damage = _damage(directory, header, lambda what, share: None) if header else None
    if damage:
        raise DataError(f"{damage} Resuming the run makes it again, if the texts are unchanged.")


def _read_header(directory: Path) -> _Header | None:
    try:
        values = json.loads((directory / _HEADER).read_bytes())
        if values.get("schema") == 1:  # before splits by blocks and checksums
            values |= {"split": "tail", "sources": "", "train_checksum": "", "val_checksum": ""}
        header = _Header(**values)
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return header if header.schema in (1, 2) else None


def _is_for(header: _Header, tokenizer: Tokenizer | str) -> bool:
    return isinstance(tokenizer, str) or tokenizer.fingerprint == header.fingerprint


def _sizes_differ(directory: Path, header: _Header) -> bool:
    size = np.dtype(header.dtype).itemsize
    for name, count in zip(NAMES, (header.train_tokens, header.val_tokens), strict=True):
        file = directory / name
        if not file.is_file() or file.stat().st_size != count * size:
            return True
    return False


def _damage(directory: Path, header: _Header, on_progress: Progress) -> str | None:
    """Return in a sentence what is wrong with the shards."""
    if _sizes_differ(directory, header):
        return f"The token shards in {directory} are not whole."
    if header.schema == 1:
        return None
    total = sum((directory / name).stat().st_size for name in NAMES)
    done = 0
    for name, expected in zip(NAMES, (header.train_checksum, header.val_checksum), strict=True):
        digest = hashlib.blake2b(digest_size=32)
        try:
            with (directory / name).open("rb") as file:
                while data := file.read(_READ_BYTES):
                    digest.update(data)
                    done += len(data)
                    on_progress("checking the data", done / total)
        except OSError as error:
            return f"{directory / name} cannot be read ({error.strerror})."
        if digest.hexdigest() != expected:
            return f"{directory / name} is damaged: its checksum is not the one it was written with."
    return None


def _require_same_sources(header: _Header, documents: Callable[[], Sequence[Document]], damage: str) -> None:
    why = "an older version made it, and did not note of what"
    changed = header.schema == 1
    try:
        if not changed:
            found = documents()
            nobodys = [replace(document, own_path=None) for document in found]  # as all were for older versions
            changed = header.sources not in (identify(found), identify(nobodys))
            why = "the texts have changed since it was made"
    except DataError as error:
        changed, why = True, str(error).rstrip(".")
    if changed:
        raise DataError(
            f"{damage} It cannot be made again: {why}. Restore the file or the texts, or begin a new run from the last "
            "checkpoint (init); nothing else was changed."
        )


def identify(documents: Sequence[Document]) -> str:
    """Return a hash of the documents' paths, sizes and times of change.

    A run's own texts are known by their contents instead, and are the same where the run is copied or moved to.

    Raises:
        DataError: one of them is gone.
    """
    digest = hashlib.blake2b(digest_size=16)
    for document in documents:
        name, change = (
            (document.name, document.changed_at())
            if document.own_path is None
            else (str(document.own_path), _checksum(document))
        )
        digest.update(json.dumps([name, document.start, document.end, change]).encode())
    return digest.hexdigest()


def _checksum(document: Document) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for block in document.read(_READ_BYTES):
        digest.update(block)
    return digest.hexdigest()


def _write(
    directory: Path, documents: Sequence[Document], tokenizer: Tokenizer, split: Split, on_progress: Progress
) -> _Header:
    """Encode the documents and write the header; what an encoding that was cut short has done is not done again.

    Raises:
        DataError: a document cannot be read or is not text, or the disk refuses.
    """
    dtype = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
    about = {"fingerprint": tokenizer.fingerprint, "dtype": dtype, "sources": identify(documents)}
    about["split"] = f"{split.kind} {split.fraction:g}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / _HEADER).unlink(missing_ok=True)
        train, val = encode_parts(directory, documents, split, tokenizer, about, on_progress)
        tokenizer.save(directory)
        header = _Header(
            2, train_tokens=train.tokens, val_tokens=val.tokens, train_checksum=train.checksum,
            val_checksum=val.checksum, **about,
        )  # fmt: skip
        write_atomically(directory / _HEADER, json.dumps(asdict(header)))
        Encoded.forget(directory)
    except OSError as error:
        raise DataError(f"The encoded text cannot be written to {directory}: {error.strerror or error}.") from error
    return header


def _open(directory: Path, header: _Header, tokenizer: Tokenizer) -> Shards:
    parts: list[Tokens] = []
    for name, count in zip(NAMES, (header.train_tokens, header.val_tokens), strict=True):
        dtype = np.dtype(header.dtype)
        parts.append(np.memmap(directory / name, dtype, mode="r") if count else np.empty(0, dtype))
    checksum = hashlib.blake2b((header.train_checksum + header.val_checksum).encode(), digest_size=6).hexdigest()
    return Shards(parts[0], parts[1], tokenizer, checksum if header.train_checksum else "")
