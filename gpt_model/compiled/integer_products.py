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
    AHEAD,
    LINE,
    MOST_COLUMNS,
    TILE_ROWS,
    add_group_of_four,
    add_group_of_one,
    add_group_of_two,
    numbers_in_a_byte,
)
from gpt_model.compiled.layout import GROUP, QUAD, ROWS, SIDE
from gpt_model.compiled.matrix_unit import (
    begin_slab,
    begin_two,
    end_slab,
    end_two,
    go_on_slab,
    go_on_two,
    spread_group,
    store_planes,
)
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

_ROOM = 4 * SIDE * SIDE  # of a stage's sums
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
    """The bytes of `whole`, uint8: the high ones and the low ones, as the matrix unit reads them."""


class Unit(NamedTuple):
    """A thread's own part of the matrix unit."""

    on: Any
    """Whether this call uses it."""
    sums: Any
    """int32 (2 × 4 × 16 × 16,): of one stage and the one before."""
    out: Any
    """float32 (32 × 32,): the columns' results so far."""
    configuration: Any
    """uint8 (64,): as it was found."""
    bytes: Any
    """int8, room for 128 rows."""


@njit(nogil=True, error_model="numpy")
def write_whole(x, column, first, last, unit):
    """Write x.numbers[column, first:last], whole groups, as 16-bit numbers and their scales, as they will be read."""
    width = x.numbers.shape[1]
    slab = column // SIDE * SIDE * width * 2 + column % SIDE * LINE
    for group in range(first, last, GROUP):
        at = column * width + group
        top, nan = zero(), zero()
        for k in range(at, at + GROUP, LANES):
            v = load(x.numbers, k)
            top, nan = maximum(absolute(v), top), fma(v, zero(), nan)
        highest = largest(top)
        factor = splat(_HIGHEST / highest if highest > _NOTHING else np.float32(0))
        for k in range(0, GROUP, LANES):
            whole = multiply(load(x.numbers, at + k), factor)
            if HAS_MATRIX_UNIT and unit.on:
                store_planes(x.planes, slab + (group + k // LINE * LINE) * SIDE * 2 + k % LINE, whole)
            else:
                store_whole(x.whole, at + k, whole)
        x.scales[column, group // GROUP] = highest / _HIGHEST + total(nan)  # what is no number must not pass for one


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
    for line in range(at + AHEAD, at + AHEAD + size, step):
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
                if column == 0 and left > 1:
                    _ask(w, w_at, size, LINE * ROWS // TILE_ROWS)
                if left >= 4 and MOST_COLUMNS >= 4:
                    add_group_of_four(w, w_at, w_scales, s_at, x.whole, x_at, x.scales, x_scale_at, y, y_at)
                elif left >= 2:
                    add_group_of_two(w, w_at, w_scales, s_at, x.whole, x_at, x.scales, x_scale_at, y, y_at)
                else:
                    add_group_of_one(w, w_at, w_scales, s_at, x.whole, x_at, x.scales, x_scale_at, y, y_at)
            column += 4 if left >= 4 and MOST_COLUMNS >= 4 else 2 if left >= 2 else 1


@njit(nogil=True, error_model="numpy")
def _by_tiles(w, w_scales, at, x, columns, y, first, last, unit):
    """Some rows that stay near, by one or two slabs of columns that stay nearer."""
    width = x.whole.shape[1]
    for begin in range(first, last, _NEAR_ROWS):
        column = 0
        while column < columns:
            count = min(2 * SIDE, columns - column)
            for row in range(begin, min(begin + _NEAR_ROWS, last), ROWS):
                for k in range(0, 2 * SIDE * ROWS, LANES):
                    store(unit.out, k, zero())
                if count > SIDE:
                    _block_by_two(w, w_scales, at + row * width, (row - begin) * width, x, column, unit)
                else:
                    _block_by_slab(w, w_scales, at + row * width, (row - begin) * width, x, column, unit)
                for m in range(count):
                    for k in range(0, ROWS, LANES):
                        store(y, (column + m) * y.shape[1] + row + k, load(unit.out, m * ROWS + k))
            column += count


@njit(nogil=True, error_model="numpy")
def _block_by_slab(w, w_scales, at, room, x, column, unit):
    """Add to unit.out what a block of 32 rows makes of 16 columns."""
    planes, sums, scales, out = x.planes, unit.sums, x.scales, unit.out
    groups, x_at = scales.shape[1], column * x.whole.shape[1] * 2
    s_at, x_scale_at = at // GROUP, column * groups
    rows, place = _bytes(w, at, room, column == 0, unit)
    begin_slab(rows, place, planes, x_at, 0, sums, 0, 0, w_scales, s_at, scales, x_scale_at, out, 0)
    now, before = _ROOM, 0
    for group in range(1, groups):
        size = group * ROWS * GROUP
        rows, place = _bytes(w, at + size, room + size, column == 0, unit)
        go_on_slab(rows, place, planes, x_at + size, 0, sums, now, before, w_scales, s_at, scales, x_scale_at, out, 0)
        now, before = before, now
        s_at, x_scale_at = s_at + ROWS, x_scale_at + 1
    end_slab(rows, place, planes, x_at, 0, sums, 0, before, w_scales, s_at, scales, x_scale_at, out, 0)


@njit(nogil=True, error_model="numpy")
def _block_by_two(w, w_scales, at, room, x, column, unit):
    """Add to unit.out what a block of 32 rows makes of 32 columns: each group, its first half and its second."""
    planes, sums, scales, out = x.planes, unit.sums, x.scales, unit.out
    groups, width = scales.shape[1], x.whole.shape[1]
    x_at, x_step = column * width * 2, SIDE * width * 2
    s_at, x_scale_at = at // GROUP, column * groups
    rows, place = _bytes(w, at, room, column == 0, unit)
    begin_two(rows, place, planes, x_at, x_step, sums, 0, 0, w_scales, s_at, scales, x_scale_at, out, 0)
    for group in range(groups):
        if group > 0:
            size = group * ROWS * GROUP
            rows, place = _bytes(w, at + size, room + size, column == 0, unit)
            go_on_two(
                rows, place, planes, x_at + size, x_step, sums, 0, _ROOM, w_scales, s_at + SIDE - ROWS, scales,
                x_scale_at - 1, out, SIDE,
            )  # fmt: skip
        x_group = x_at + group * ROWS * GROUP
        go_on_two(
            rows, place + LINE, planes, x_group, x_step, sums, _ROOM, 0, w_scales, s_at, scales, x_scale_at, out, 0
        )
        s_at, x_scale_at = s_at + ROWS, x_scale_at + 1
    end_two(
        rows, place, planes, x_at, x_step, sums, 0, _ROOM, w_scales, s_at + SIDE - ROWS, scales, x_scale_at - 1, out,
        SIDE,
    )  # fmt: skip


def _bytes(w, at, to, first, unit):
    """Return where a group of weights stands as bytes; what is asked for the first time comes from memory."""
    raise NotImplementedError


@overload(_bytes, jit_options={"nogil": True, "error_model": "numpy"})
def _choose_bytes(w, at, to, first, unit):
    def themselves(w, at, to, first, unit):
        return w, at

    def spread(w, at, to, first, unit):
        if first:
            _ask(w, at // 2, ROWS * GROUP // 2, LINE)
            spread_group(w, at // 2, unit.bytes, to)
        return unit.bytes, to

    return spread if w.dtype == types.uint8 else themselves


@njit(nogil=True, error_model="numpy")
def _without_unit(w, w_scales, at, x, columns, y, first, last, unit):
    _by_vectors(w, w_scales, at, x, columns, y, first, last)


_by_unit = _by_tiles if HAS_MATRIX_UNIT else _without_unit
