"""Arrays that begin where a line of memory begins: a vector that straddles two lines is read twice."""

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
_LINE = 64


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


def address(array: Array) -> int:
    """Return where an array begins in memory."""
    return int(array.__array_interface__["data"][0])
