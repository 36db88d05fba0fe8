"""The polar factor of one matrix, as polar.py approaches it, by one thread, in whose cache a small one stays.

The powers of X·Xᵀ are symmetric, and so is what is made of them: of such a product only the tiles on and above the
diagonal are computed, and the others are their mirror image.
"""

import math

import numpy as np
from numba import njit

from gpt_model.compiled.cpu import LANES, TILE_ROWS
from gpt_model.compiled.float_tile import multiply_tile_of_one, multiply_tile_of_two
from gpt_model.compiled.simd import fma, load, multiply, number, put, splat, store, total, turn_square, zero

_inner = njit(nogil=True, error_model="numpy")
_PAIR = 2 * LANES


@_inner
def row_step(width):
    """Return what lies between two rows: an odd number of vectors, so that rows do not compete for lines of a cache."""
    return (width // LANES | 1) * LANES


@_inner
def _multiply(room, a, a_row, b, b_step, c, c_row, rows, columns, steps, is_symmetric):
    """C (rows, columns) = A (rows, steps) B (steps, columns), which all lie in the room.

    Of a symmetric one, the tiles below the diagonal are taken from above it.
    """
    for column in range(0, columns, _PAIR):
        last = min(column + _PAIR, rows) if is_symmetric else rows
        for row in range(0, last, TILE_ROWS):
            if column + _PAIR <= columns:
                multiply_tile_of_two(
                    room, a + row * a_row, a_row, 1, b + column, b_step, c + row * c_row + column, c_row, steps, True
                )
            else:
                multiply_tile_of_one(
                    room, a + row * a_row, a_row, 1, b + column, b_step, c + row * c_row + column, c_row, steps, True
                )
    if is_symmetric:
        for row in range(_PAIR, rows, LANES):
            for column in range(0, row - row % _PAIR, LANES):
                turn_square(room, c + column * c_row + row, c_row, c + row * c_row + column, c_row)


@_inner
def _polynomial(room, square, target, size, step, terms, iteration):
    """Write a + b·S + c·S² of a symmetric S (size, size) to the target."""
    a, b, c = terms[iteration, 0], terms[iteration, 1], terms[iteration, 2]
    _multiply(room, square, step, square, step, target, step, size, size, size, True)
    for row in range(size):
        for k in range(row * step, row * step + size, LANES):
            store(room, target + k, fma(splat(b), load(room, square + k), multiply(splat(c), load(room, target + k))))
        diagonal = target + row * step + row
        put(room, diagonal, number(room, diagonal) + a)


@_inner
def _square(room, matrix, turned, target, short, long):
    """Write X·Xᵀ of X (short, long) to the target; `turned` is room for Xᵀ."""
    step, turned_step = row_step(long), row_step(short)
    for row in range(0, short, LANES):
        for k in range(0, long, LANES):
            turn_square(room, matrix + row * step + k, step, turned + k * turned_step + row, turned_step)
    _multiply(room, matrix, step, turned, turned_step, target, turned_step, short, short, long, True)


@_inner
def _read(matrices, at, short, long, rounding, tiny, room, to):
    """Copy a matrix (short, long) so that no singular value is above 1."""
    sums = zero()
    for k in range(at, at + short * long, LANES):
        x = load(matrices, k)
        sums = fma(x, x, sums)
    share = splat(np.float32(1) / (np.float32(math.sqrt(total(sums))) * rounding + tiny))
    step = row_step(long)
    for row in range(short):
        for k in range(0, long, LANES):
            store(room, to + row * step + k, multiply(load(matrices, at + row * long + k), share))


@_inner
def _write(matrices, at, short, long, room, source):
    step = row_step(long)
    for row in range(short):
        for k in range(0, long, LANES):
            store(matrices, at + row * long + k, load(room, source + row * step + k))


@_inner
def _factor(room, square, factor, polynomial, spare, short, terms):
    """Return where the room then has what X is to be multiplied with; see polar.PolarFactor. Four squares are used."""
    step = row_step(short)
    _polynomial(room, square, factor, short, step, terms, 0)
    latest = factor
    for iteration in range(1, len(terms) - 1):
        _multiply(room, square, step, latest, step, spare, step, short, short, short, True)
        _multiply(room, spare, step, latest, step, square, step, short, short, short, True)
        latest = polynomial
        _polynomial(room, square, latest, short, step, terms, iteration)
        _multiply(room, latest, step, factor, step, spare, step, short, short, short, True)
        factor, spare = spare, factor
    return factor


@_inner
def replace_by_polar_factor(matrices, at, short, long, terms, room):
    """Put the polar factor of the matrix (short, long) at matrices[at:] in its place. Both are multiples of LANES.

    `terms` has polar.POLYNOMIALS, and in its last row ROUNDING and TINY.
    The room has 2 · short · row_step(long) + (long + 4 · short) · row_step(short) numbers.
    """
    step, side = row_step(long), row_step(short)
    matrix, other, turned = 0, short * step, 2 * short * step
    square = turned + long * side
    squares = (square + short * side, square + 2 * short * side, square + 3 * short * side)
    _read(matrices, at, short, long, terms[-1, 0], terms[-1, 1], room, matrix)
    if long >= 2 * short:
        _square(room, matrix, turned, square, short, long)
        factor = _factor(room, square, *squares, short, terms)
        _multiply(room, factor, side, matrix, step, other, step, short, long, short, False)
        matrix = other
    else:
        for iteration in range(len(terms) - 1):
            _square(room, matrix, turned, square, short, long)
            _polynomial(room, square, squares[0], short, side, terms, iteration)
            _multiply(room, squares[0], side, matrix, step, other, step, short, long, short, False)
            matrix, other = other, matrix
    _write(matrices, at, short, long, room, matrix)
