"""A matrix the other way round: squares of as many rows as a vector has lanes are turned in registers."""

from numba import njit

from gpt_model.compiled.cpu import LANES
from gpt_model.compiled.simd import number, put, turn_square


@njit(nogil=True, error_model="numpy")
def transpose_rows(array, rows, width, step, target, first, last):
    """Write the rows [first, last) of a matrix (rows, width), which begins at 0, as columns of one at `target`.

    `step` numbers lie between two of its rows' beginnings; the other has no gaps.
    """
    whole = width - width % LANES
    squares = last - (last - first) % LANES
    for column in range(0, whole, LANES):
        for row in range(first, squares, LANES):
            turn_square(array, row * step + column, step, target + column * rows + row, rows)
        for row in range(squares, last):
            _turn(array, rows, step, target, row, column, column + LANES)
    for row in range(first, last):
        _turn(array, rows, step, target, row, whole, width)


@njit(nogil=True, error_model="numpy")
def _turn(array, rows, step, target, row, first, last):
    for column in range(first, last):
        put(array, target + column * rows + row, number(array, row * step + column))
