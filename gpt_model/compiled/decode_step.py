"""The compiled forward pass for CPUs: model.py's GPT, written for the memory's speed, tested against it by the logit.

All threads run `forward` together (teamwork.py); a matrix is read once, in the order in which it lies, and made
float32 in registers. Every output is summed in one order, whatever the number of columns, threads or calls: reading a
prompt at once or token by token, alone or among other samples, gives the same bits.

Shapes: M columns, each one token of one row; widths padded with zeros to a multiple of 64 (`quantize.py` packs them).
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from gpt_model.compiled.attention import attend
from gpt_model.compiled.products import GROUP, ROWS, products
from gpt_model.compiled.simd import LANES, add, divide, exp, fma, load, multiply, splat, store
from gpt_model.compiled.teamwork import finish, take, wait

_BIAS, _GELU, _RESIDUAL, _NOTHING = 0, 1, 2, 3


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
    vocab_rows: int
    block_size: int
    epsilon: float


class Weights(NamedTuple):
    """A packed model."""

    head: Any
    """1-D: wte (vocab_rows, width), the embedding and the head."""
    head_scales: Any
    """1-D float32, one for each group of 64 numbers of `head`; None where the numbers are the weights."""
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
    """Numbers in passing, for up to `columns` columns at a time."""

    hidden: Any
    """(columns, width) the residual stream."""
    normed: Any
    """(columns, width)"""
    qkv: Any
    """(columns, 3 × attention)"""
    mixed: Any
    """(columns, attention)"""
    inner: Any
    """(columns, inner)"""
    out: Any
    """(columns, width)"""


@njit(nogil=True, cache=True)
def _linear(board, call, phase, threads, w, scales, at, vectors, bias_at, x, columns, y, rows, then, residual):
    """One phase: y = x · wᵀ, and what follows it on the same numbers."""
    size = max(ROWS, rows // (8 * threads) // ROWS * ROWS)
    chunks = (rows + size - 1) // size
    unpacked = np.empty(ROWS * x.shape[1] if columns >= 4 else 0, np.float32)
    chunk = take(board, call, phase, chunks)
    while chunk >= 0:
        first, last = chunk * size, min(chunk * size + size, rows)
        products(w, scales, at, x, columns, y, first, last, unpacked)
        if then != _NOTHING:
            for column in range(columns):
                _finish_rows(vectors, bias_at, y, column, first, last, then, residual)
        finish(board, phase)
        chunk = take(board, call, phase, chunks)
    wait(board, call, phase, chunks)


@njit(nogil=True, cache=True)
def _finish_rows(vectors, bias_at, y, column, first, last, then, residual):
    start = column * y.shape[1]
    for k in range(first, last - LANES + 1, LANES):
        value = add(load(y, start + k), load(vectors, bias_at + k))
        if then == _GELU:  # a/2 · (1 + tanh u) = a / (1 + e^-2u), u = √(2/π) (a + 0.044715 a³)
            square = multiply(value, value)
            bracket = fma(multiply(square, value), splat(np.float32(0.044715)), value)
            power = exp(multiply(bracket, splat(np.float32(-2 * math.sqrt(2 / math.pi)))))
            value = divide(value, add(power, splat(np.float32(1))))
        if then == _RESIDUAL:
            store(residual, start + k, add(load(residual, start + k), value))
        else:
            store(y, start + k, value)


@njit(nogil=True, cache=True, fastmath=True)
def _normalise(x, y, column, size, gain_at, bias_at, vectors, epsilon):
    row, out = x[column], y[column]
    mean = np.float32(0)
    for k in range(size):
        mean += row[k]
    mean /= np.float32(size)
    variance = np.float32(0)
    for k in range(size):
        variance += (row[k] - mean) * (row[k] - mean)
    scale = np.float32(1) / np.sqrt(variance / np.float32(size) + np.float32(epsilon))
    for k in range(size):
        out[k] = (row[k] - mean) * scale * vectors[gain_at + k] + vectors[bias_at + k]


@njit(nogil=True, cache=True)
def _embed(board, call, w, scales, vectors, ids, past, hidden):
    """The first phase: a token's row of the embedding plus its position's."""
    T, width = ids.shape[1], hidden.shape[1]
    column = take(board, call, 0, ids.size)
    while column >= 0:
        at, position = ids[column // T, column % T] * width, past + column % T
        for k in range(0, width, LANES):
            value = load(w, at + k)
            if scales is not None:
                value = multiply(value, splat(scales[(at + k) // GROUP]))
            store(hidden, column * width + k, add(value, load(vectors, position * width + k)))
        finish(board, 0)
        column = take(board, call, 0, ids.size)
    wait(board, call, 0, ids.size)


@njit(nogil=True, cache=True)
def _norm(board, call, phase, shape, x, columns, y, gain_at, bias_at, vectors):
    column = take(board, call, phase, columns)
    while column >= 0:
        _normalise(x, y, column, shape.n_embd, gain_at, bias_at, vectors, shape.epsilon)
        finish(board, phase)
        column = take(board, call, phase, columns)
    wait(board, call, phase, columns)


@njit(nogil=True, cache=True)
def forward(
    board, call, threads, shape, weights, scratch, keys, values, ids, first_row, past, shared, logits, last_only
):
    """Read ids (rows, T) at positions past … past + T - 1 of rows first_row …; write logits of their successors.

    cache: float32 (n_layer, 2, slots, n_head, block_size, head_width). logits: (columns, vocab_rows) with rows × T
    columns, or with `rows` of them when only each row's last token is asked for.
    """
    rows, T = ids.shape
    columns = rows * T
    w, scales, vectors, C = weights.matrices, weights.scales, weights.vectors, shape.width
    table, table_scales = weights.head, weights.head_scales
    hidden, normed, qkv, mixed, inner, out = scratch
    _embed(board, call, table, table_scales, vectors, ids, past, hidden)
    phase = 1
    for layer in range(shape.n_layer):
        m, v = weights.matrix_at[layer], weights.vector_at[layer]
        _norm(board, call, phase, shape, hidden, columns, normed, v[0], v[1], vectors)
        _linear(
            board,
            call,
            phase + 1,
            threads,
            w,
            scales,
            m[0],
            vectors,
            v[2],
            normed,
            columns,
            qkv,
            qkv.shape[1],
            _BIAS,
            hidden,
        )
        task = take(board, call, phase + 2, rows * shape.n_head)
        while task >= 0:
            row, head = task // shape.n_head, task % shape.n_head
            attend(shape, keys, values, layer, first_row + row, shared, head, past, qkv, row * T, T, mixed)
            finish(board, phase + 2)
            task = take(board, call, phase + 2, rows * shape.n_head)
        wait(board, call, phase + 2, rows * shape.n_head)
        _linear(
            board, call, phase + 3, threads, w, scales, m[1], vectors, v[3], mixed, columns, out, C, _RESIDUAL, hidden
        )
        _norm(board, call, phase + 4, shape, hidden, columns, normed, v[4], v[5], vectors)
        _linear(
            board,
            call,
            phase + 5,
            threads,
            w,
            scales,
            m[2],
            vectors,
            v[6],
            normed,
            columns,
            inner,
            shape.inner,
            _GELU,
            hidden,
        )
        _linear(
            board, call, phase + 6, threads, w, scales, m[3], vectors, v[7], inner, columns, out, C, _RESIDUAL, hidden
        )
        phase += 7
    v = weights.vector_at[shape.n_layer]
    wanted = rows if last_only else columns
    column = take(board, call, phase, wanted)
    while column >= 0:
        source = column * T + T - 1 if last_only else column
        _normalise(
            hidden[source : source + 1],
            normed[column : column + 1],
            0,
            shape.n_embd,
            v[0],
            v[1],
            vectors,
            shape.epsilon,
        )
        finish(board, phase)
        column = take(board, call, phase, wanted)
    wait(board, call, phase, wanted)
    _linear(
        board,
        call,
        phase + 1,
        threads,
        table,
        table_scales,
        0,
        vectors,
        0,
        normed,
        wanted,
        logits,
        shape.vocab_rows,
        _NOTHING,
        hidden,
    )
