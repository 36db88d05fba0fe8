"""Matrix products of float32 or 16-bit weights and float32 columns, compiled; integer_products.py has the others.

A matrix is read once, in the order in which it lies, and made float32 in registers. Every output is summed in one
order, whatever the number of columns: one column or many give the same bits.
"""

from numba import njit

from gpt_model.compiled.cpu import IS_ZEN, LANES
from gpt_model.compiled.layout import ROWS
from gpt_model.compiled.simd import fma, load, prefetch, put, store, totals, zero

_PIECE = 64  # inputs between two requests to the memory
_COLUMNS = 16  # columns that stay in the nearest cache meanwhile
_AHEAD = 3072  # bytes in each of four rows: without being asked, Intel's memory delivers half as fast
_AHEAD_IN_TURN = 4096


@njit(nogil=True, error_model="numpy")
def _rows_together(w, at, x, column, y, first, last):
    """y[column, first:last] = w · x[column], four rows together: the loop that reads the model from memory."""
    width = x.shape[1]
    ahead = _AHEAD // w.itemsize
    for row in range(first, last, 4):
        r0 = at + row * width
        r1, r2, r3 = r0 + width, r0 + 2 * width, r0 + 3 * width
        a0, a1, a2, a3 = zero(), zero(), zero(), zero()
        whole = width - width % _PIECE
        for group in range(0, whole, _PIECE):
            # what is asked for lies ahead in the same row, or else in the row of the next four that follows it
            skip = ahead if group + ahead < width else ahead + 3 * width
            for line in range(group + skip, group + skip + _PIECE, 64 // w.itemsize):
                prefetch(w, r0 + line)
                prefetch(w, r1 + line)
                prefetch(w, r2 + line)
                prefetch(w, r3 + line)
            for k in range(group, group + _PIECE, LANES):
                v = load(x, column * width + k)
                w0, w1, w2, w3 = load(w, r0 + k), load(w, r1 + k), load(w, r2 + k), load(w, r3 + k)
                a0, a1, a2, a3 = fma(w0, v, a0), fma(w1, v, a1), fma(w2, v, a2), fma(w3, v, a3)
        for k in range(whole, width, LANES):
            v = load(x, column * width + k)
            w0, w1, w2, w3 = load(w, r0 + k), load(w, r1 + k), load(w, r2 + k), load(w, r3 + k)
            a0, a1, a2, a3 = fma(w0, v, a0), fma(w1, v, a1), fma(w2, v, a2), fma(w3, v, a3)
        _store_totals(y, column * y.shape[1] + row, 1, a0, a1, a2, a3)


@njit(nogil=True, error_model="numpy")
def _rows_in_turn(w, at, x, column, y, first, last):
    """The same to the bit, a row after the other: a Zen reads one stream a fifth faster than four, an Intel slower."""
    width = x.shape[1]
    for row in range(first, last, 4):
        start = at + row * width
        a0, a1 = _row_sum(w, start, x, column), _row_sum(w, start + width, x, column)
        a2, a3 = _row_sum(w, start + 2 * width, x, column), _row_sum(w, start + 3 * width, x, column)
        _store_totals(y, column * y.shape[1] + row, 1, a0, a1, a2, a3)


@njit(nogil=True, error_model="numpy")
def _row_sum(w, start, x, column):
    width, line_size, ahead = x.shape[1], 64 // w.itemsize, _AHEAD_IN_TURN // w.itemsize
    sums = zero()
    whole = width - width % line_size
    for line in range(0, whole, line_size):
        prefetch(w, start + line + ahead)
        for k in range(line, line + line_size, LANES):
            sums = fma(load(w, start + k), load(x, column * width + k), sums)
    for k in range(whole, width, LANES):
        sums = fma(load(w, start + k), load(x, column * width + k), sums)
    return sums


_row_sums = _rows_in_turn if IS_ZEN else _rows_together


@njit(nogil=True, error_model="numpy")
def _unpack(w, at, width, first, last, unpacked):
    """Write rows first:last of a matrix to `unpacked` as float32."""
    start = at + first * width
    ahead = start + 4 * _AHEAD // w.itemsize
    for group in range(0, (last - first) * width, _PIECE):
        for line in range(ahead + group, ahead + group + _PIECE, 64 // w.itemsize):
            prefetch(w, line)
        for k in range(group, group + _PIECE, LANES):
            store(unpacked, k, load(w, start + k))


@njit(nogil=True, error_model="numpy")
def _tile_of_two(w, at, x, column, y, row):
    """Two rows by four columns in registers."""
    width = x.shape[1]
    x0 = column * width
    x1, x2, x3 = x0 + width, x0 + 2 * width, x0 + 3 * width
    a0, a1, a2, a3 = zero(), zero(), zero(), zero()
    b0, b1, b2, b3 = zero(), zero(), zero(), zero()
    for k in range(0, width, LANES):
        wa, wb = load(w, at + k), load(w, at + width + k)
        v = load(x, x0 + k)
        a0, b0 = fma(wa, v, a0), fma(wb, v, b0)
        v = load(x, x1 + k)
        a1, b1 = fma(wa, v, a1), fma(wb, v, b1)
        v = load(x, x2 + k)
        a2, b2 = fma(wa, v, a2), fma(wb, v, b2)
        v = load(x, x3 + k)
        a3, b3 = fma(wa, v, a3), fma(wb, v, b3)
    stride = y.shape[1]
    _store_totals(y, column * stride + row, stride, a0, a1, a2, a3)
    _store_totals(y, column * stride + row + 1, stride, b0, b1, b2, b3)


@njit(nogil=True, error_model="numpy")
def _tile_of_four(w, at, x, column, y, row):
    """Four rows by four columns, for a machine with 32 registers."""
    width = x.shape[1]
    x0 = column * width
    x1, x2, x3 = x0 + width, x0 + 2 * width, x0 + 3 * width
    a0, a1, a2, a3 = zero(), zero(), zero(), zero()
    b0, b1, b2, b3 = zero(), zero(), zero(), zero()
    c0, c1, c2, c3 = zero(), zero(), zero(), zero()
    d0, d1, d2, d3 = zero(), zero(), zero(), zero()
    for k in range(at, at + width, LANES):
        wa, wb, wc, wd = load(w, k), load(w, k + width), load(w, k + 2 * width), load(w, k + 3 * width)
        v = load(x, x0 + k - at)
        a0, b0, c0, d0 = fma(wa, v, a0), fma(wb, v, b0), fma(wc, v, c0), fma(wd, v, d0)
        v = load(x, x1 + k - at)
        a1, b1, c1, d1 = fma(wa, v, a1), fma(wb, v, b1), fma(wc, v, c1), fma(wd, v, d1)
        v = load(x, x2 + k - at)
        a2, b2, c2, d2 = fma(wa, v, a2), fma(wb, v, b2), fma(wc, v, c2), fma(wd, v, d2)
        v = load(x, x3 + k - at)
        a3, b3, c3, d3 = fma(wa, v, a3), fma(wb, v, b3), fma(wc, v, c3), fma(wd, v, d3)
    stride = y.shape[1]
    place = column * stride + row
    _store_totals(y, place, stride, a0, a1, a2, a3)
    _store_totals(y, place + 1, stride, b0, b1, b2, b3)
    _store_totals(y, place + 2, stride, c0, c1, c2, c3)
    _store_totals(y, place + 3, stride, d0, d1, d2, d3)


@njit(nogil=True, error_model="numpy")
def _store_totals(y, at, stride, a, b, c, d):
    """Write four sums, `stride` apart."""
    t0, t1, t2, t3 = totals(a, b, c, d)
    put(y, at, t0)
    put(y, at + stride, t1)
    put(y, at + 2 * stride, t2)
    put(y, at + 3 * stride, t3)


_tile, _TILE_ROWS = (_tile_of_four, 4) if LANES == 16 else (_tile_of_two, 2)


@njit(nogil=True, error_model="numpy")
def products(w, at, x, columns, y, first, last, unpacked):
    """y[:columns, first:last] = x · wᵀ for rows first:last; both multiples of 4."""
    width = x.shape[1]
    tiled = columns - columns % 4
    step = ROWS if columns > _COLUMNS else 4  # few columns: what is unpacked is used while the memory brings the next
    for block in range(first, last, step):
        end = min(block + step, last)
        if tiled:
            _unpack(w, at, width, block, end, unpacked)
        for side in range(0, tiled, _COLUMNS):
            for row in range(block, end, _TILE_ROWS):
                for column in range(side, min(side + _COLUMNS, tiled), 4):
                    _tile(unpacked, (row - block) * width, x, column, y, row)
        for column in range(tiled, columns):
            _row_sums(w, at, x, column, y, block, end)
