"""A block of a product of float32 matrices that lie anywhere and any way round, compiled.

After Goto and van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 34(3): of a panel of B,
two vectors wide, some hundred steps are copied to where the nearest cache keeps them, and multiplied with all of the
block's rows of A before the next. A is read where it lies, unless its columns are what is contiguous. The products that
make a number of C are added in one order, whatever the blocks are.
"""

from typing import NamedTuple

from numba import njit

from gpt_model.compiled.cpu import LANES, TILE_ROWS
from gpt_model.compiled.float_tile import multiply_tile_of_one, multiply_tile_of_two
from gpt_model.compiled.layout import GEMM_GROUP, GEMM_STEPS
from gpt_model.compiled.simd import load, number, prefetch_far, put, store, turn_square, zero

_inner = njit(nogil=True, error_model="numpy")
_PAIR = 2 * LANES
_LINE = 16  # numbers
_GROUP = GEMM_GROUP * LANES


class Product(NamedTuple):
    """C (rows, columns) = A (rows, steps) B (steps, columns), and perhaps + bias (columns,) or + C.

    Places are those of one array. `_row` lies between two rows, `_column` between two columns; one of them is 1.
    """

    a: int
    a_row: int
    a_column: int
    b: int
    b_row: int
    b_column: int
    c: int
    c_row: int
    steps: int
    bias: int
    has_bias: bool
    is_new: bool


@_inner
def multiply_block(array, product, top, bottom, left, right, room):
    """Write the rows [top, bottom) and the columns [left, right) of C; `room` is a place; see gemm._room_size."""
    turned_a = product.a_column != 1
    panel = room
    few = panel + GEMM_STEPS * _PAIR  # the last rows of A, and a tile of C that is not whole
    tile = few + GEMM_STEPS * TILE_ROWS
    packed = tile + TILE_ROWS * _PAIR
    if product.has_bias:
        _write_bias(array, product, top, bottom, left, right)
    whole = bottom - (bottom - top) % TILE_ROWS
    for first in range(0, product.steps, GEMM_STEPS):
        steps = min(GEMM_STEPS, product.steps - first)
        is_new = product.is_new and first == 0
        if turned_a:
            _pack_rows(array, product, top, bottom, first, steps, packed)
        elif whole < bottom:
            _pack_few(array, product, whole, bottom, first, steps, few)
        tiles = -(-(bottom - top) // TILE_ROWS)
        for column in range(left, right, _PAIR):
            width = min(_PAIR, right - column)
            _pack_panel(array, product, first, steps, column, width, panel)
            for row in range(top, bottom, TILE_ROWS):
                c = product.c + row * product.c_row + column
                if row + TILE_ROWS < whole:
                    _ask_ahead(array, product, row + TILE_ROWS, first, c + TILE_ROWS * product.c_row)
                if column + _PAIR < right:
                    _ask_panel(array, product, first, steps, column + _PAIR, (row - top) // TILE_ROWS, tiles)
                rows = min(bottom - row, TILE_ROWS)
                if rows < TILE_ROWS or width % LANES:
                    if turned_a:
                        _multiply_packed(array, packed, row - top, panel, _PAIR, tile, _PAIR, steps, True)
                    elif rows < TILE_ROWS:
                        _multiply(array, few, GEMM_STEPS, panel, _PAIR, tile, _PAIR, steps, True)
                    else:
                        a = product.a + row * product.a_row + first
                        _multiply(array, a, product.a_row, panel, _PAIR, tile, _PAIR, steps, True)
                    _copy_part(array, tile, c, product.c_row, rows, width, is_new)
                elif turned_a:
                    _multiply_packed(array, packed, row - top, panel, width, c, product.c_row, steps, is_new)
                else:
                    a = product.a + row * product.a_row + first
                    _multiply(array, a, product.a_row, panel, width, c, product.c_row, steps, is_new)


@_inner
def _ask_ahead(array, product, row, first, c):
    """Ask for the next tile's rows of C, and for where its rows of A begin: the rest of those the cache foresees."""
    for place in range(c, c + TILE_ROWS * product.c_row, product.c_row):
        prefetch_far(array, place)
        prefetch_far(array, place + LANES)
    if product.a_column == 1:
        for lane in range(TILE_ROWS):
            a = product.a + (row + lane) * product.a_row + first
            prefetch_far(array, a)
            prefetch_far(array, a + _LINE)


@_inner
def _ask_panel(array, product, first, steps, column, part, parts):
    """Ask for one of so many parts of the next panel of B."""
    b = product.b + first * product.b_row + column * product.b_column
    if product.b_column == 1:
        share = -(-steps // parts)
        for k in range(part * share, min((part + 1) * share, steps)):
            for lane in range(0, _PAIR, _LINE):
                prefetch_far(array, b + k * product.b_row + lane)
    else:
        share = -(-_PAIR // parts)
        for lane in range(part * share, min((part + 1) * share, _PAIR)):
            for k in range(0, steps, _LINE):
                prefetch_far(array, b + k + lane * product.b_column)


@_inner
def _multiply(array, a, a_row, panel, width, c, c_row, steps, is_new):
    """Multiply a tile's rows of A, which are contiguous, with one or two vectors of a panel."""
    if width == _PAIR:
        multiply_tile_of_two(array, a, a_row, 1, panel, _PAIR, c, c_row, steps, is_new)
    else:
        multiply_tile_of_one(array, a, a_row, 1, panel, _PAIR, c, c_row, steps, is_new)


@_inner
def _multiply_packed(array, packed, row, panel, width, c, c_row, steps, is_new):
    a = packed + row // LANES * _GROUP + row % LANES
    if width == _PAIR:
        multiply_tile_of_two(array, a, 1, LANES, panel, _PAIR, c, c_row, steps, is_new)
    else:
        multiply_tile_of_one(array, a, 1, LANES, panel, _PAIR, c, c_row, steps, is_new)


@_inner
def _write_bias(array, product, top, bottom, left, right):
    whole = right - (right - left) % LANES
    for row in range(top, bottom):
        c = product.c + row * product.c_row
        for k in range(left, whole, LANES):
            store(array, c + k, load(array, product.bias + k))
        for k in range(whole, right):
            put(array, c + k, number(array, product.bias + k))


@_inner
def _pack_rows(array, product, top, bottom, first, steps, packed):
    """Copy rows of an A whose columns are contiguous, LANES of them after each other, with zeros below the last."""
    whole = bottom - (bottom - top) % LANES
    for k in range(steps):
        a, to = product.a + (first + k) * product.a_column, packed + k * LANES
        for row in range(top, whole, LANES):
            store(array, to, load(array, a + row))
            to += _GROUP
        if whole < bottom:
            store(array, to, zero())
            for row in range(whole, bottom):
                put(array, to + row - whole, number(array, a + row))


@_inner
def _pack_few(array, product, top, bottom, first, steps, few):
    """Copy fewer rows of A than a tile has, with zeros below them."""
    for row in range(TILE_ROWS):
        a, to = product.a + (top + row) * product.a_row + first, few + row * GEMM_STEPS
        for k in range(steps):
            put(array, to + k, number(array, a + k) if top + row < bottom else 0)


@_inner
def _pack_panel(array, product, first, steps, column, width, panel):
    """Copy up to two vectors of columns of B, with zeros behind them."""
    b = product.b + first * product.b_row + column * product.b_column
    if width < _PAIR:
        for k in range(0, steps * _PAIR, LANES):
            store(array, panel + k, zero())
        for k in range(steps):
            for lane in range(width):
                place = b + k * product.b_row + lane * product.b_column
                put(array, panel + k * _PAIR + lane, number(array, place))
    elif product.b_column == 1:
        for k in range(steps):
            for lane in range(0, _PAIR, LANES):
                store(array, panel + k * _PAIR + lane, load(array, b + k * product.b_row + lane))
    else:
        whole = steps - steps % LANES
        for k in range(0, whole, LANES):
            for lane in range(0, _PAIR, LANES):
                source = b + k + lane * product.b_column
                turn_square(array, source, product.b_column, panel + k * _PAIR + lane, _PAIR)
        for k in range(whole, steps):
            for lane in range(_PAIR):
                put(array, panel + k * _PAIR + lane, number(array, b + k + lane * product.b_column))


@_inner
def _copy_part(array, tile, c, c_row, rows, width, is_new):
    for row in range(rows):
        for k in range(width):
            found = number(array, tile + row * _PAIR + k)
            place = c + row * c_row + k
            put(array, place, found if is_new else number(array, place) + found)
