"""Arrays that begin where a line of memory begins: a vector that straddles two lines is read twice."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
_LINE = 64
_PIECE = 2**26  # bytes that are read and hashed at a time: between two, the reader wants Python back from an import


def aligned_zeros(shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """Return zeros; memory is taken only where something else is written."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + _LINE, np.uint8)
    start = -address(raw) % _LINE
    array: Array = raw[start : start + size].view(dtype).reshape(shape)
    return array


def joined(arrays: Sequence[Array]) -> Array:
    """Return flat arrays one after another."""
    result = aligned_zeros((sum(len(each) for each in arrays),), arrays[0].dtype)
    return np.concatenate(arrays, out=result)


def read_array(path: Path) -> tuple[Array, str]:
    """Return the array of a .npy file, and the file's SHA-256.

    In memory of its own, for which numpy asks the system for large pages: mapped, a file comes in pages of 4 KiB, and
    the CPU's look-ups of them take a tenth of a token's time.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file, or is cut short.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if np.lib.format.read_magic(file) != (1, 0):  # what np.save writes
            raise ValueError(f"{path} is of another format")
        shape, _, kind = np.lib.format.read_array_header_1_0(file)
        begin = file.tell()
        file.seek(0)
        digest.update(file.read(begin))
        array = aligned_zeros(shape, kind)
        whole = memoryview(array.view(np.uint8).reshape(-1))  # type: ignore[arg-type]
        for first in range(0, len(whole), _PIECE):
            part = whole[first : first + _PIECE]
            if file.readinto(part) != len(part):
                raise ValueError(f"{path} is cut short")
            digest.update(part)
        digest.update(file.read())
    return array, digest.hexdigest()


def address(array: Array) -> int:
    """Return where an array begins in memory."""
    return int(array.__array_interface__["data"][0])
