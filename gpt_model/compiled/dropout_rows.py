"""Dropout that draws nothing, compiled: whether a number stays is told by its row, its place there and a seed."""

import numpy as np
from numba import njit

from gpt_model.compiled.cpu import LANES
from gpt_model.compiled.layout import DROP_ROW
from gpt_model.compiled.simd import kept, load, multiply, splat, store_as


@njit(nogil=True, error_model="numpy")
def row_key(seed, row):
    """Return 32 bits for a row: Steele et al. 2014, "Fast Splittable Pseudorandom Number Generators", SplitMix64."""
    z = np.uint64(seed) + np.uint64(row + 1) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.int64((z ^ (z >> np.uint64(31))) >> np.uint64(32))


@njit(nogil=True, error_model="numpy")
def drop_rows(source, result, count, first, last, seed, limit, swell):
    """Write what stays of the rows [first, last) of `source`, times swell; of 2^32 numbers, `limit` do not.

    Rows have DROP_ROW numbers, whatever the tensor's shape; there are `count` numbers, a multiple of LANES.
    """
    for row in range(first, last):
        key, start = row_key(seed, row), row * DROP_ROW
        for k in range(0, min(DROP_ROW, count - start), LANES):
            x = multiply(load(source, start + k), splat(swell))
            store_as(result, start + k, kept(key, k, limit, x))
