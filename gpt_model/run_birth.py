"""The birth of a run's directory: built hidden under the runs, and given its name only when it is whole.

What fails or is killed on the way blocks no name: a directory that is not finished begins with a dot, and its maker
holds a lock in it, by whose absence those of dead makers are known and swept away.
"""

import errno
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from gpt_model.config import RunConfig
from gpt_model.errors import RunError
from gpt_model.run_lock import RunLock, is_locked

_UNFINISHED = ".new-"
_YOUNG_SECONDS = 60.0
"""So long a directory without a lock may be one whose maker is about to take it."""
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
"""What a rename says when there is something of that name; an empty directory it replaces."""
_GENERIC_STEMS = {"input", "data", "text", "train", "corpus", "all"}


@contextmanager
def unfinished_directory(root: Path) -> Iterator[Path]:
    """Have a hidden directory under `root`, which is made if need be; what has got no name in the end is deleted.

    Raises:
        OSError, RunError: it cannot be made.
    """
    root.mkdir(parents=True, exist_ok=True)
    _sweep(root)
    directory = root / f"{_UNFINISHED}{os.getpid()}-{time.time_ns()}"
    directory.mkdir()
    try:
        with RunLock.take(directory):
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def give_name(unfinished: Path, names: Iterable[str]) -> Path:
    """Rename a directory to the first of `names` that is free beside it; return its path from then on.

    Raises:
        RunError: all are taken.
        OSError: it cannot be renamed.
    """
    directory = unfinished
    for name in names:
        directory = unfinished.with_name(name)
        try:
            return unfinished.rename(directory)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
    if (directory / "config.toml").is_file():
        raise RunError(
            f"There is a run named '{directory.name}' already. Choose another name, or remove that run first."
        )
    raise RunError(f"{directory} is in the way, and is no run. Choose another name, or delete that first.")


def names_after(config: RunConfig) -> Iterator[str]:
    """Yield names for a run that is called after its texts: x, x-2, x-3…"""
    first = Path(config.files[0]) if config.files else Path("python-docs")
    stem = first.parent.name if first.stem.lower() in _GENERIC_STEMS and first.parent.name else first.stem
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:48] or "run"
    yield stem
    yield from (f"{stem}-{number}" for number in count(2))


def _sweep(root: Path) -> None:
    """Delete what makers that were killed have left."""
    for left in root.glob(f"{_UNFINISHED}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _YOUNG_SECONDS and not is_locked(left / "lock"):
                shutil.rmtree(left)
