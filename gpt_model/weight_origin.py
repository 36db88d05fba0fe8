"""origin_of: what tells whether a checkpoint's weights are still those that something was made of.

It is the hashes of its files. They are computed again only where what the system tells of a file (its size, its times,
its number) is not what it was: a copy is known as one, and a file that was replaced is noticed.
"""

import hashlib
from pathlib import Path
from typing import Any


def origin_of(checkpoint: Path, known: Any = None) -> dict[str, Any]:
    """Return it, as JSON takes it; `known` is an earlier one, whose hashes hold while the files are untouched.

    Raises:
        OSError: a file cannot be read.
    """
    files = [checkpoint]
    if checkpoint.is_dir():
        files = sorted([*checkpoint.glob("*.safetensors"), *checkpoint.glob("*.bin"), checkpoint / "config.json"])
    seen = {path.name: _seen(path) for path in files}
    if isinstance(known, dict) and known.get("seen") == seen:
        return known
    return {"sha256": {path.name: hash_of(path) for path in files}, "seen": seen}


def hash_of(file: Path) -> str:
    """Return a file's SHA-256."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _seen(file: Path) -> list[int]:
    told = file.stat()
    return [told.st_size, told.st_mtime_ns, told.st_ctime_ns, told.st_ino]
