"""The compiled forward pass for CPUs: model.py's GPT, written for the memory's speed, tested against it by the logit.

All threads run `forward` together (teamwork.py); a matrix is read once, in the order in which it lies. Every output
is summed in one order, whatever the number of columns, threads or calls: reading a prompt at once or token by token,
alone or among other samples, gives the same bits.

Shapes: M columns, each one token of one row; widths padded with zeros (sizes.py).
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit, types
from numba.extending import overload

from gpt_model.compiled.attention import attend
from gpt_model.compiled.cpu import HAS_MATRIX_UNIT, LANES
from gpt_model.compiled.integer_products import Columns, Unit, integer_products, write_whole
from gpt_model.compiled.layout import GROUP, QUAD, ROWS
from gpt_model.compiled.matrix_unit import begin_tiles, end_tiles
from gpt_model.compiled.products import products
from gpt_model.compiled.simd import (
    add,
    divide,
    exp,
    fma,
    load,
    multiply,
    splat,
    store,
)
from gpt_model.compiled.teamwork import finish, take, wait

_BIAS, _GELU, _RESIDUAL, _NOTHING = 0, 1, 2, 3
_STEP = 64  # rows of a chunk, at least
_OPTIONS = {"nogil": True, "error_model": "numpy"}


class Shape(NamedTuple):
    """Sizes of a packed model; widths are padded."""

    n_layer: int
    n_head: int
    n_embd: int
    """Not padded."""
    width: int
    head: int
    """Of a head, not padded."""
    head_width: int
    attention: int
    """Of all heads side by side."""
    inner: int
    vocab_size: int
    """Not padded."""
    vocab_rows: int
    epsilon: float


class Weights(NamedTuple):
    """A packed model."""

    head: Any
    """1-D: wte (vocab_rows, width), the embedding and the head."""
    head_scales: Any
    """1-D float32, one for each group of 128 numbers of `head`; None where the numbers are the weights."""
    matrices: Any
    """1-D: for each layer qkv, attention's projection, fc, MLP's projection."""
    scales: Any
    """As head_scales, of `matrices`."""
    vectors: Any
    """1-D float32: wpe (block_size, width), then norms and biases."""
    matrix_at: Any
    """(n_layer, 4): where each matrix begins."""
    vector_at: Any
    """(n_layer + 1, 8): where each vector begins; in the last row, the final norm's."""


class Scratch(NamedTuple):
    """Numbers in passing, for up to `columns` columns at a time; padding stays zero."""

    hidden: Any
    """(columns, width) the residual stream."""
    normed: Columns
    """(columns, width)"""
    qkv: Any
    """(columns, 3 × attention)"""
    mixed: Columns
    """(columns, attention)"""
    inner: Columns
    """(columns, inner)"""
    out: Any
    """(columns, width)"""
    unpacked: Any
    """(ROWS × widest input,) this thread's own."""
    scores: Any
    """(4, span) this thread's own."""
    unit: Unit
    """This thread's own; None where the weights are no integers."""


class Crew(NamedTuple):
    """The threads at work on one call (teamwork.py)."""

    board: Any
    call: int
    threads: int


@njit(nogil=True, error_model="numpy")
def _linear(crew, phase, w, scales, at, x, columns, y, rows, then, vectors, bias_at, residual, scratch):
    """One phase: y = x · wᵀ, and what follows it on the same numbers; what comes after GELU is the next one's x."""
    step = GROUP if then == _GELU else _STEP
    size = max(step, rows // (8 * crew.threads) // step * step)
    chunks = (rows + size - 1) // size
    chunk = take(crew.board, crew.call, phase, chunks)
    while chunk >= 0:
        first = _place(chunk, chunks, crew.threads) * size
        last = min(first + size, rows)
        _multiply(w, scales, at, x, columns, y, first, last, scratch)
        if then != _NOTHING:
            for column in range(columns):
                _finish_rows(vectors, bias_at, y, column, first, last, then, residual)
                if then == _GELU:
                    _keep_whole(scratch.inner, column, first, last, scratch.unit)
        finish(crew.board, phase)
        chunk = take(crew.board, crew.call, phase, chunks)
    wait(crew.board, crew.call, phase, chunks)


@njit(nogil=True, error_model="numpy")
def _place(chunk, chunks, threads):
    """Return where a chunk stands, so that who takes every n-th of n threads reads on where it has just read.

    What the memory was asked for ahead is then not what another thread reads, and the start of a chunk not a surprise.
    """
    part = chunks // threads
    return chunk % threads * part + chunk // threads if chunk < part * threads else chunk


def _multiply(w, scales, at, x, columns, y, first, last, scratch):
    """y[:columns, first:last] = x · wᵀ, by what the weights are."""
    raise NotImplementedError


@overload(_multiply, jit_options=_OPTIONS)
def _choose_multiply(w, scales, at, x, columns, y, first, last, scratch):
    if scales is types.none:
        return lambda w, scales, at, x, columns, y, first, last, scratch: products(
            w, at, x.numbers, columns, y, first, last, scratch.unpacked
        )
    return lambda w, scales, at, x, columns, y, first, last, scratch: integer_products(
        w, scales, at, x, columns, y, first, last, scratch.unit
    )


def _keep_whole(x, column, first, last, unit):
    """Have what is now known of a column as the next matrix reads it."""
    raise NotImplementedError


@overload(_keep_whole, jit_options=_OPTIONS)
def _choose_keep_whole(x, column, first, last, unit):
    if x[1] is types.none:
        return lambda x, column, first, last, unit: None
    return lambda x, column, first, last, unit: write_whole(x, column, first, last, unit)


@njit(nogil=True, error_model="numpy")
def _finish_rows(vectors, bias_at, y, column, first, last, then, residual):
    """Add the bias; then GELU, or add to the residual stream."""
    start = column * y.shape[1]
    for k in range(first, last, LANES):
        value = add(load(y, start + k), load(vectors, bias_at + k))
        if then == _GELU:  # a/2 · (1 + tanh u) = a / (1 + e^-2u), u = √(2/π) (a + 0.044715 a³)
            cube = multiply(multiply(value, value), value)
            bracket = fma(cube, splat(np.float32(0.044715)), value)
            power = exp(multiply(bracket, splat(np.float32(-2 * math.sqrt(2 / math.pi)))))
            value = divide(value, add(power, splat(np.float32(1))))
        if then == _RESIDUAL:
            store(residual, start + k, add(load(residual, start + k), value))
        else:
            store(y, start + k, value)


@njit(nogil=True, error_model="numpy", fastmath=True)
def _normalise(shape, x, source, y, target, vectors, gain_at, bias_at):
    """LayerNorm of one column."""
    row, out = x[source], y[target]
    mean = np.float32(0)
    for k in range(shape.n_embd):
        mean += row[k]
    mean /= np.float32(shape.n_embd)
    variance = np.float32(0)
    for k in range(shape.n_embd):
        variance += (row[k] - mean) * (row[k] - mean)
    scale = np.float32(1) / np.sqrt(variance / np.float32(shape.n_embd) + np.float32(shape.epsilon))
    for k in range(shape.n_embd):
        out[k] = (row[k] - mean) * scale * vectors[gain_at + k] + vectors[bias_at + k]


@njit(nogil=True, error_model="numpy")
def _norm(crew, phase, shape, x, y, columns, every, vectors, gain_at, bias_at, unit):
    """One phase: LayerNorm of `columns` columns: all, or the last of every `every`."""
    column = take(crew.board, crew.call, phase, columns)
    while column >= 0:
        _normalise(shape, x, column * every + every - 1, y.numbers, column, vectors, gain_at, bias_at)
        _keep_whole(y, column, 0, shape.width, unit)
        finish(crew.board, phase)
        column = take(crew.board, crew.call, phase, columns)
    wait(crew.board, crew.call, phase, columns)


def _write_row(w, scales, row, target):
    """target = a row of the embedding."""
    raise NotImplementedError


@overload(_write_row, jit_options=_OPTIONS)
def _choose_write_row(w, scales, row, target):
    def by_row(w, scales, row, target):
        for k in range(0, target.size, LANES):
            store(target, k, load(w, row * target.size + k))

    def by_block(w, scales, row, target):  # of 32 rows, quad by quad (packing.py)
        block, place = row // ROWS * ROWS * target.size, row % ROWS
        for k in range(target.size):
            number = w[block + (k // QUAD * ROWS + place) * QUAD + k % QUAD]
            target[k] = np.float32(number) * scales[block // GROUP + k // GROUP * ROWS + place]

    return by_row if scales is types.none else by_block


@njit(nogil=True, error_model="numpy")
def _embed(crew, w, scales, vectors, ids, past, hidden):
    """The first phase: a token's row of the embedding plus its position's."""
    T, width = ids.shape[1], hidden.shape[1]
    column = take(crew.board, crew.call, 0, ids.size)
    while column >= 0:
        _write_row(w, scales, ids[column // T, column % T], hidden[column])
        position_at = (past + column % T) * width
        for k in range(0, width, LANES):
            at = column * width + k
            store(hidden, at, add(load(hidden, at), load(vectors, position_at + k)))
        finish(crew.board, 0)
        column = take(crew.board, crew.call, 0, ids.size)
    wait(crew.board, crew.call, 0, ids.size)


def _heads_at_once(mixed, head_width):
    raise NotImplementedError


@overload(_heads_at_once, jit_options=_OPTIONS)
def _choose_heads_at_once(mixed, head_width):
    if mixed[1] is types.none:
        return lambda mixed, head_width: 1
    return lambda mixed, head_width: GROUP // math.gcd(head_width, GROUP)


@njit(nogil=True, error_model="numpy")
def _attention(crew, phase, shape, keys, values, layer, first_row, shared, past, ids, qkv, mixed, scores, unit):
    """One phase: a chunk is one head of one row, or so many as fill whole groups."""
    rows, T = ids.shape
    some = _heads_at_once(mixed, shape.head_width)
    parts = (shape.n_head + some - 1) // some
    task = take(crew.board, crew.call, phase, rows * parts)
    while task >= 0:
        row, part = task // parts, task % parts
        for head in range(part * some, min(part * some + some, shape.n_head)):
            slot = first_row + row
            attend(shape, keys, values, layer, slot, shared, head, past, qkv, row * T, T, mixed.numbers, scores)
        begin = part * some * shape.head_width
        end = min(begin + some * shape.head_width, shape.attention)
        for column in range(row * T, row * T + T):
            _keep_whole(mixed, column, begin, end, unit)
        finish(crew.board, phase)
        task = take(crew.board, crew.call, phase, rows * parts)
    wait(crew.board, crew.call, phase, rows * parts)


def _begin(unit):
    """Take the matrix unit for a call."""
    raise NotImplementedError


def _end(unit):
    """Give it back."""
    raise NotImplementedError


def _for_unit(action):
    def choose(unit):
        if unit is types.none or not HAS_MATRIX_UNIT:
            return lambda unit: None

        def at_work(unit):
            if unit.on:
                action(unit.configuration)

        return at_work

    return choose


overload(_begin, jit_options=_OPTIONS)(_for_unit(begin_tiles))
overload(_end, jit_options=_OPTIONS)(_for_unit(end_tiles))


@njit(nogil=True, error_model="numpy")
def forward(crew, shape, weights, scratch, keys, values, ids, first_row, past, shared, logits, last_only):
    """Read ids (rows, T) at positions past … past + T - 1 of rows first_row …; write logits of their successors.

    keys: float32 (n_layer, slots, n_head, span / 16, head_width, 16), values: (n_layer, slots, n_head, span,
    head_width). shared: a multiple of 16.
    logits: (columns, vocab_rows) with rows × T columns, or `rows` when only each row's last token is asked for.
    """
    rows, T = ids.shape
    columns = rows * T
    table, table_scales, w, scales, vectors, _, _ = weights
    hidden, normed, qkv, mixed, inner, out, _, scores, unit = scratch
    _begin(unit)
    _embed(crew, table, table_scales, vectors, ids, past, hidden)
    phase = 1
    for layer in range(shape.n_layer):
        m, v = weights.matrix_at[layer], weights.vector_at[layer]
        _norm(crew, phase, shape, hidden, normed, columns, 1, vectors, v[0], v[1], unit)
        _linear(crew, phase + 1, w, scales, m[0], normed, columns, qkv, qkv.shape[1],
                _BIAS, vectors, v[2], hidden, scratch)  # fmt: skip
        _attention(crew, phase + 2, shape, keys, values, layer, first_row, shared, past, ids, qkv, mixed, scores, unit)
        _linear(crew, phase + 3, w, scales, m[1], mixed, columns, out, shape.width,
                _RESIDUAL, vectors, v[3], hidden, scratch)  # fmt: skip
        _norm(crew, phase + 4, shape, hidden, normed, columns, 1, vectors, v[4], v[5], unit)
        _linear(crew, phase + 5, w, scales, m[2], normed, columns, inner.numbers, shape.inner,
                _GELU, vectors, v[6], hidden, scratch)  # fmt: skip
        _linear(crew, phase + 6, w, scales, m[3], inner, columns, out, shape.width,
                _RESIDUAL, vectors, v[7], hidden, scratch)  # fmt: skip
        phase += 7
    v = weights.vector_at[shape.n_layer]
    wanted, every = (rows, T) if last_only else (columns, 1)
    _norm(crew, phase, shape, hidden, normed, wanted, every, vectors, v[0], v[1], unit)
    _linear(crew, phase + 1, table, table_scales, 0, normed, wanted, logits, shape.vocab_rows,
            _NOTHING, vectors, 0, hidden, scratch)  # fmt: skip
    _end(unit)
