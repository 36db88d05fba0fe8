"""A matrix the other way round: squares of as many rows as a vector has lanes are turned in registers."""

from numba import njit

from gpt_model.compiled.cpu import LANES
from gpt_model.compiled.layout import TURN_ROWS
from gpt_model.compiled.simd import number, put, turn_square


@njit(nogil=True, error_model="numpy")
def transpose_rows(array, rows, width, target, first, last):
    """Write the rows [first, last) of a matrix (rows, width), which begins at 0, as columns of one at `target`."""
    whole = width - width % LANES
    for top in range(first, last, TURN_ROWS):
        bottom = min(top + TURN_ROWS, last)
        squares = bottom - (bottom - top) % LANES
        for column in range(0, whole, LANES):
            for row in range(top, squares, LANES):
                turn_square(array, row * width + column, width, target + column * rows + row, rows)
            for row in range(squares, bottom):
                _turn(array, rows, width, target, row, column, column + LANES)
        for row in range(top, bottom):
            _turn(array, rows, width, target, row, whole, width)


@njit(nogil=True, error_model="numpy")
def _turn(array, rows, width, target, row, first, last):
    for column in range(first, last):
        put(array, target + column * rows + row, number(array, row * width + column))
