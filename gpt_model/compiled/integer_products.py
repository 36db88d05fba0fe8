"""Matrix products of int8 or int4 weights and float32 columns, compiled.

A column is first written as whole numbers of 16 bits with a scale for each group of 128: its error, 2⁻¹⁶ of the
group's largest number, is nothing beside that of the weights. What is left is whole numbers, which the CPU multiplies
and adds at twice the rate of float32 and more, and exactly: one column or many, by vectors (integer_tile.py) or by the
matrix unit (matrix_unit.py), give the same bits.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit, types
from numba.extending import overload

from gpt_model.compiled.cpu import HAS_MATRIX_UNIT, LANES
from gpt_model.compiled.integer_tile import (
    MOST_COLUMNS,
    TILE_ROWS,
    add_group_of_four,
    add_group_of_one,
    add_group_of_two,
    numbers_in_a_byte,
)
from gpt_model.compiled.layout import GROUP, QUAD, ROWS, SIDE
from gpt_model.compiled.matrix_unit import load_sum, multiply_group, spread_group, store_planes, store_sums
from gpt_model.compiled.simd import (
    absolute,
    fma,
    largest,
    load,
    maximum,
    multiply,
    prefetch,
    splat,
    store,
    store_whole,
    total,
    zero,
)

_AHEAD = 8192  # bytes: without being asked, the memory delivers half as fast
_NEAR_ROWS = 4 * ROWS  # rows that stay in the second cache while all columns pass
_HIGHEST = np.float32(32767)
_NOTHING = np.float32(1e-30)  # a group below this is written as zeros


class Columns(NamedTuple):
    """What a matrix is multiplied by: one column a token. Where weights are no integers, the numbers are all of it."""

    numbers: Any
    """float32 (columns, width)"""
    whole: Any
    """The same as int16 (columns, width)."""
    scales: Any
    """float32 (columns, width / 128), one for each group of numbers of `whole`."""
    planes: Any
    """The bytes of `whole`, uint8 (2, columns, width): the high ones and the low ones."""


class Unit(NamedTuple):
    """A thread's own part of the matrix unit."""

    on: Any
    """Whether this call uses it."""
    sums: Any
    """int32 (4 × 16 × 16,): of one group, 16 columns and 32 rows, of high and of low bytes."""
    out: Any
    """float32 (16 × 32,): the columns' results so far."""
    configuration: Any
    """uint8 (64,): as it was found."""
    bytes: Any
    """int8, room for 128 rows."""


@njit(nogil=True, error_model="numpy")
def write_whole(x, column, first, last):
    """Write x.numbers[column, first:last], whole groups, as int16 numbers and their scales."""
    width = x.numbers.shape[1]
    plane = x.numbers.size
    for group in range(column * width + first, column * width + last, GROUP):
        top, nan = zero(), zero()
        for k in range(group, group + GROUP, LANES):
            v = load(x.numbers, k)
            top, nan = maximum(absolute(v), top), fma(v, zero(), nan)
        highest = largest(top)
        factor = splat(_HIGHEST / highest if highest > _NOTHING else np.float32(0))
        for k in range(group, group + GROUP, LANES):
            whole = multiply(load(x.numbers, k), factor)
            store_whole(x.whole, k, whole)
            if HAS_MATRIX_UNIT:
                store_planes(x.planes, k, plane, whole)
        place = (group - column * width) // GROUP
        x.scales[column, place] = highest / _HIGHEST + total(nan)  # what is no number must not pass for one


@njit(nogil=True, error_model="numpy")
def integer_products(w, w_scales, at, x, columns, y, first, last, unit):
    """y[:columns, first:last] = x · wᵀ for rows first:last, both multiples of 32; x by `write_whole`."""
    if unit.on:
        _by_unit(w, w_scales, at, x, columns, y, first, last, unit)
    else:
        _by_vectors(w, w_scales, at, x, columns, y, first, last)


@njit(nogil=True, error_model="numpy")
def _ask(w, at, size, step):
    """Ask the memory for what comes a while after `size` bytes of weights."""
    for line in range(at + _AHEAD, at + _AHEAD + size, step):
        prefetch(w, line)


@njit(nogil=True, error_model="numpy")
def _by_vectors(w, w_scales, at, x, columns, y, first, last):
    for row in range(first, last, ROWS):
        for column in range(columns):
            for k in range(row, row + ROWS, LANES):
                store(y, column * y.shape[1] + k, zero())
        _block_by_vectors(w, w_scales, at + row * x.whole.shape[1], x, columns, y, row)


@njit(nogil=True, error_model="numpy")
def _block_by_vectors(w, w_scales, at, x, columns, y, row):
    """Add a block of 32 rows, a tile of some columns after the other."""
    groups = x.scales.shape[1]
    size = ROWS * GROUP // numbers_in_a_byte(w)
    for part in range(0, ROWS, TILE_ROWS):
        column = 0
        while column < columns:
            left = columns - column
            y_at = column * y.shape[1] + row + part
            for group in range(groups):
                w_at = at // numbers_in_a_byte(w) + group * size + part * QUAD
                s_at = at // GROUP + group * ROWS + part
                x_at, x_scale_at = column * x.whole.shape[1] + group * GROUP, column * groups + group
                if column == 0:
                    _ask(w, w_at, size, 64 * ROWS // TILE_ROWS)
                if left >= 4 and MOST_COLUMNS >= 4:
                    add_group_of_four(w, w_at, w_scales, s_at, x.whole, x_at, x.scales, x_scale_at, y, y_at)
                elif left >= 2:
                    add_group_of_two(w, w_at, w_scales, s_at, x.whole, x_at, x.scales, x_scale_at, y, y_at)
                else:
                    add_group_of_one(w, w_at, w_scales, s_at, x.whole, x_at, x.scales, x_scale_at, y, y_at)
            column += 4 if left >= 4 and MOST_COLUMNS >= 4 else 2 if left >= 2 else 1


@njit(nogil=True, error_model="numpy")
def _by_tiles(w, w_scales, at, x, columns, y, first, last, unit):
    """Some rows that stay near, by 16 columns that stay nearer."""
    width = x.whole.shape[1]
    for begin in range(first, last, _NEAR_ROWS):
        for column in range(0, columns, SIDE):
            count = min(SIDE, columns - column)
            for row in range(begin, min(begin + _NEAR_ROWS, last), ROWS):
                _block_by_tiles(w, w_scales, at + row * width, (row - begin) * width, x, column, count, unit)
                for m in range(count):
                    for k in range(0, ROWS, LANES):
                        store(y, (column + m) * y.shape[1] + row + k, load(unit.out, m * ROWS + k))


@njit(nogil=True, error_model="numpy")
def _block_by_tiles(w, w_scales, at, room, x, column, count, unit):
    """Write to unit.out what a block of 32 rows makes of `count` columns."""
    groups, width = x.scales.shape[1], x.whole.shape[1]
    size = ROWS * GROUP
    for k in range(0, count * ROWS, LANES):
        store(unit.out, k, zero())
    for group in range(groups):
        w_at, x_at = at + group * size, column * width + group * GROUP
        if column == 0:
            _ask(w, w_at // numbers_in_a_byte(w), size // numbers_in_a_byte(w), 64)
        _multiply_group(w, w_at, room + group * size, column == 0, x.planes, x_at, x.whole.size, width, unit)
        if group > 0:  # the unit takes its time: meanwhile, the sums before these
            _add_sums(w_scales, at // GROUP + (group - 1) * ROWS, x.scales, column, group - 1, count, unit)
        store_sums(unit.sums)
    _add_sums(w_scales, at // GROUP + (groups - 1) * ROWS, x.scales, column, groups - 1, count, unit)


@njit(nogil=True, error_model="numpy")
def _add_sums(w_scales, s_at, x_scales, column, group, count, unit):
    """Add the sums of a group, by the scales of both sides, to what `count` columns have."""
    upper, lower = load(w_scales, s_at), load(w_scales, s_at + SIDE)
    for m in range(count):
        x_scale = splat(x_scales[column + m, group])
        first, second = load_sum(unit.sums, m * SIDE), load_sum(unit.sums, (2 * SIDE + m) * SIDE)
        store(unit.out, m * ROWS, fma(first, multiply(upper, x_scale), load(unit.out, m * ROWS)))
        store(unit.out, m * ROWS + SIDE, fma(second, multiply(lower, x_scale), load(unit.out, m * ROWS + SIDE)))


def _multiply_group(w, at, to, first, planes, x_at, plane, step, unit):
    """Multiply the group of weights at `at`; four-bit ones are spread as bytes on the first time."""
    raise NotImplementedError


@overload(_multiply_group, jit_options={"nogil": True, "error_model": "numpy"})
def _choose_multiply_group(w, at, to, first, planes, x_at, plane, step, unit):
    def from_bytes(w, at, to, first, planes, x_at, plane, step, unit):
        multiply_group(w, at, planes, x_at, plane, step)

    def from_nibbles(w, at, to, first, planes, x_at, plane, step, unit):
        if first:
            spread_group(w, at // 2, unit.bytes, to)
        multiply_group(unit.bytes, to, planes, x_at, plane, step)

    return from_nibbles if w.dtype == types.uint8 else from_bytes


@njit(nogil=True, error_model="numpy")
def _without_unit(w, w_scales, at, x, columns, y, first, last, unit):
    _by_vectors(w, w_scales, at, x, columns, y, first, last)


_by_unit = _by_tiles if HAS_MATRIX_UNIT else _without_unit
