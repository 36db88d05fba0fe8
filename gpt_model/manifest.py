"""MANIFEST.json: sizes and SHA-256 of a checkpoint's files, and whether they are still what was saved. Knows no torch.

What differs is damaged; what cannot be looked at just now is not: a disk that does not answer, too many open files.
"""

import hashlib
import json
from pathlib import Path

from gpt_model.errors import CheckpointError, DamageError

MANIFEST = "MANIFEST.json"


def verify(directory: Path) -> None:
    """Compare a directory with its manifest, if it has one.

    Raises:
        DamageError: a file is missing, cut short or changed.
        CheckpointError: a file cannot be looked at.
    """
    try:
        text = (directory / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise _unreadable(directory / MANIFEST, error) from error
    try:
        entries = {name: (entry["bytes"], entry["sha256"]) for name, entry in json.loads(text)["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamageError(f"The checkpoint {directory} is damaged: its {MANIFEST} cannot be read ({error}).") from error
    for name, (size, digest) in entries.items():
        _verify_file(directory, name, size, digest)


def require_manifest(directory: Path) -> None:
    """Refuse a checkpoint that has no manifest, as every one of a run has.

    Raises:
        DamageError: it has none.
        CheckpointError: that cannot be looked at.
    """
    try:
        (directory / MANIFEST).stat()
    except (FileNotFoundError, NotADirectoryError):
        raise DamageError(f"{directory} has no {MANIFEST}, so nobody knows whether it is whole.") from None
    except OSError as error:
        raise _unreadable(directory / MANIFEST, error) from error


def _verify_file(directory: Path, name: str, size: object, digest: object) -> None:
    try:
        with (directory / name).open("rb") as handle:
            found = handle.seek(0, 2)
            if found != size:
                raise DamageError(
                    f"The checkpoint {directory} is damaged: {name} has {found:,} bytes instead of {size:,}."
                )
            handle.seek(0)
            if hashlib.file_digest(handle, "sha256").hexdigest() != digest:
                raise DamageError(f"The checkpoint {directory} is damaged: {name} differs from what was saved.")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):  # a name that cannot be a file's
        raise DamageError(f"The checkpoint {directory} is damaged: {name} is missing.") from None
    except OSError as error:
        raise _unreadable(directory / name, error) from error


def _unreadable(file: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{file} cannot be read: {error.strerror or error}. Nothing was changed; try again when that is mended."
    )
