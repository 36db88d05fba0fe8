"""Where packed weights lie, and reading them ahead, while torch is still being imported. Knows no torch.

To read and to verify 250 MB takes a third of the time of that import, on another core.
"""

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from gpt_model.cache_directory import cache_directory
from gpt_model.compiled.layout import PackedDtype
from gpt_model.compiled.memory import Array, read_array

_begun: dict[Path, Future[tuple[Array, str]]] = {}


def places(checkpoint: Path, dtype: PackedDtype) -> list[Path]:
    """Return where the packed form of a checkpoint may lie, best first."""
    beside = checkpoint / "packed" if checkpoint.is_dir() else checkpoint.with_name(checkpoint.name + ".packed")
    name = hashlib.sha256(str(checkpoint.resolve()).encode()).hexdigest()[:16]
    return [beside / dtype, cache_directory() / "packed" / name / dtype]


def begin_reading(checkpoint: Path, dtype: PackedDtype) -> None:
    """Read in another thread what `read` will probably be asked for, if there is anything."""
    for place in places(checkpoint, dtype):
        if files := sorted(place.glob("*.npy")):
            pool = ThreadPoolExecutor(1, "read-ahead")
            _begun.update({file: pool.submit(read_array, file) for file in files})
            pool.shutdown(wait=False)
            return


def read(file: Path) -> tuple[Array, str]:
    """Return what `read_array` does, which may have been begun.

    Raises:
        OSError, ValueError: as `read_array`.
    """
    begun = _begun.pop(file, None)
    return begun.result() if begun is not None else read_array(file)


def forget() -> None:
    """Give up what was read and not asked for."""
    for begun in _begun.values():
        begun.cancel()
    _begun.clear()
