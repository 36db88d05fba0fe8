"""require_space: whether a disk has room for what is about to be written. Knows no torch."""

import os
from pathlib import Path

from gpt_model.errors import GptError

_SPARE = 1.05
"""Directories, journals and what else is written meanwhile."""


def require_space(directory: Path, needed: int, error: type[GptError], advice: str) -> None:
    """Refuse to begin what would not fit: `needed` bytes under a directory, which need not exist yet.

    Raises:
        GptError: of the type `error`; how much there is, how much is needed and the advice are in the message.
    """
    existing = next(each for each in (directory, *directory.absolute().parents) if each.exists())
    try:
        disk = os.statvfs(existing)
    except OSError:  # a filesystem that does not tell: what does not fit is then told by the writing itself
        return
    free, wanted = disk.f_bavail * disk.f_frsize, int(needed * _SPARE)
    # A filesystem of no size at all does not count its blocks.
    if disk.f_blocks and free < wanted:
        raise error(
            f"The disk of {directory} has {_megabytes(free)} free, but {_megabytes(wanted)} are needed. {advice}"
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
