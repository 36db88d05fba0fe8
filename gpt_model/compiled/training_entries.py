"""The ways into the compiled parts of a training step: an OpenMP pool's threads share one call's work. See entry.py."""

import numpy as np
from numba import carray, njit

from gpt_model.compiled import layout as at
from gpt_model.compiled.attention_rows import Head, attend_head, attend_head_gradient
from gpt_model.compiled.cross_entropy_rows import loss_rows
from gpt_model.compiled.dropout_rows import drop_rows
from gpt_model.compiled.gelu_rows import gelu_gradient_rows, gelu_rows
from gpt_model.compiled.gemm_blocks import Product, multiply_block
from gpt_model.compiled.polar_rows import replace_by_polar_factor
from gpt_model.compiled.simd import pointer
from gpt_model.compiled.teamwork import take

_entry = njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
_inner = njit(nogil=True, error_model="numpy")


@_inner
def numbers(address):
    """Return the float32 numbers at an address."""
    return carray(pointer(address), (1,), np.float32)  # indices are unchecked: its length is nobody's business


@_entry
def _gelu(address, thread):
    t = carray(pointer(address), (at.SHARED_TABLE,), np.int64)
    board, call, rows = carray(pointer(t[at.GELU_BOARD]), (1,), np.int64), t[at.GELU_CALL], t[at.GELU_CHUNK_ROWS]
    chunks = -(-t[at.GELU_ROWS] // rows)
    chunk = take(board, call, 0, chunks)
    while chunk >= 0:
        last = min((chunk + 1) * rows, t[at.GELU_ROWS])
        if t[at.GELU_IS_LOW]:
            _gelu_chunk(_low_numbers, t, chunk, chunk * rows, last)
        else:
            _gelu_chunk(numbers, t, chunk, chunk * rows, last)
        chunk = take(board, call, 0, chunks)


@_inner
def _low_numbers(address):
    return carray(pointer(address), (1,), np.uint16)


@_inner
def _gelu_chunk(read, t, chunk, first, last):
    product, bias, width = read(t[at.GELU_INPUT]), numbers(t[at.GELU_BIAS]), t[at.GELU_WIDTH]
    result = read(t[at.GELU_OUTPUT])
    if t[at.GELU_GRADIENT]:
        gradient, sums = read(t[at.GELU_GRADIENT]), numbers(t[at.GELU_SUMS])
        gelu_gradient_rows(product, bias, width, gradient, result, first, last, sums, chunk * width)
    else:
        gelu_rows(product, bias, width, result, first, last)


@_entry
def _attention(address, thread):
    t = carray(pointer(address), (at.SHARED_TABLE,), np.int64)
    board, call = carray(pointer(t[at.HEAD_BOARD]), (1,), np.int64), t[at.HEAD_CALL]
    room = numbers(t[at.HEAD_ROOM] + 4 * t[at.HEAD_ROOM_SIZE] * take(board, call, 1, t[at.HEAD_THREADS]))
    heads = t[at.HEAD_SEQUENCES] * t[at.HEAD_COUNT]
    which = take(board, call, 0, heads)
    while which >= 0:
        if t[at.HEAD_IS_LOW]:
            _attend(_low_numbers, t, which, room)
        else:
            _attend(numbers, t, which, room)
        which = take(board, call, 0, heads)


@_inner
def _attend(read, t, which, room):
    count, D, factors = t[at.HEAD_COUNT], t[at.HEAD_SIZE], numbers(t[at.HEAD_FACTORS])
    head = Head(
        t[at.HEAD_LENGTH], D, count, 3 * count * D, factors[0], t[at.HEAD_LIMIT], factors[1], t[at.HEAD_SEED]
    )  # fmt: skip
    sequence, own = which // count, which % count
    product, bias, result = read(t[at.HEAD_INPUT]), numbers(t[at.HEAD_BIAS]), read(t[at.HEAD_OUTPUT])
    norms = numbers(t[at.HEAD_NORMS])
    if t[at.HEAD_GRADIENT]:
        gradient, sums = read(t[at.HEAD_GRADIENT]), numbers(t[at.HEAD_SUMS])
        attend_head_gradient(head, sequence, own, product, bias, gradient, norms, result, sums, room)
    else:
        attend_head(head, sequence, own, product, bias, result, norms, room)


@_entry
def _dropout(address, thread):
    t = carray(pointer(address), (at.SHARED_TABLE,), np.int64)
    board, call, rows = carray(pointer(t[at.DROP_BOARD]), (1,), np.int64), t[at.DROP_CALL], t[at.DROP_COUNT]
    chunks = -(-rows // at.DROP_ROWS)
    chunk = take(board, call, 0, chunks)
    while chunk >= 0:
        last = min((chunk + 1) * at.DROP_ROWS, rows)
        if t[at.DROP_IS_LOW]:
            _drop(_low_numbers, t, chunk * at.DROP_ROWS, last)
        else:
            _drop(numbers, t, chunk * at.DROP_ROWS, last)
        chunk = take(board, call, 0, chunks)


@_inner
def _drop(read, t, first, last):
    source, result, swell = read(t[at.DROP_INPUT]), read(t[at.DROP_OUTPUT]), numbers(t[at.DROP_SWELL])[0]
    drop_rows(source, result, t[at.DROP_NUMBERS], first, last, t[at.DROP_SEED], t[at.DROP_LIMIT], swell)


@_entry
def _cross_entropy(address, thread):
    t = carray(pointer(address), (at.SHARED_TABLE,), np.int64)
    board, call, rows = carray(pointer(t[at.LOSS_BOARD]), (1,), np.int64), t[at.LOSS_CALL], t[at.LOSS_CHUNK_ROWS]
    count, z_loss = t[at.LOSS_ROWS], numbers(t[at.LOSS_Z])[0]
    targets = carray(pointer(t[at.LOSS_TARGETS]), (1,), np.int64)
    chunks = -(-count // rows)
    chunk = take(board, call, 0, chunks)
    while chunk >= 0:
        first, last = chunk * rows, min((chunk + 1) * rows, count)
        logits, losses = numbers(t[at.LOSS_LOGITS]), numbers(t[at.LOSS_LOSSES])
        loss_rows(logits, t[at.LOSS_WIDTH], targets, z_loss, t[at.LOSS_IN_PLACE] != 0, losses, first, last)
        chunk = take(board, call, 0, chunks)


@_entry
def _polar(address, thread):
    t = carray(pointer(address), (at.SHARED_TABLE,), np.int64)
    board, call = carray(pointer(t[at.POLAR_BOARD]), (1,), np.int64), t[at.POLAR_CALL]
    short, long = t[at.POLAR_SHORT], t[at.POLAR_LONG]
    room = numbers(t[at.POLAR_ROOM] + 4 * t[at.POLAR_ROOM_SIZE] * take(board, call, 1, t[at.POLAR_THREADS]))
    which = take(board, call, 0, t[at.POLAR_COUNT])
    while which >= 0:
        matrices = numbers(t[at.POLAR_MATRICES])
        terms = carray(pointer(t[at.POLAR_TERMS]), (t[at.POLAR_ITERATIONS] + 1, 3), np.float32)
        replace_by_polar_factor(matrices, which * short * long, short, long, terms, room)
        which = take(board, call, 0, t[at.POLAR_COUNT])


@_entry
def _gemm(address, thread):
    t = carray(pointer(address), (at.SHARED_TABLE,), np.int64)
    board, call, base = carray(pointer(t[at.GEMM_BOARD]), (1,), np.int64), t[at.GEMM_CALL], t[at.GEMM_A]
    thread = take(board, call, 1, t[at.GEMM_THREADS])
    room = (t[at.GEMM_ROOM] - base) // 4 + thread * t[at.GEMM_ROOM_SIZE]  # all in one array, which begins where A does
    product = Product(
        0, t[at.GEMM_A_ROW], t[at.GEMM_A_COLUMN], (t[at.GEMM_B] - base) // 4, t[at.GEMM_B_ROW], t[at.GEMM_B_COLUMN],
        (t[at.GEMM_C] - base) // 4, t[at.GEMM_C_ROW], t[at.GEMM_INNER], (t[at.GEMM_BIAS] - base) // 4,
        t[at.GEMM_BIAS] != 0, t[at.GEMM_IS_NEW] != 0,
    )  # fmt: skip
    rows, columns, height, width = t[at.GEMM_ROWS], t[at.GEMM_COLUMNS], t[at.GEMM_BLOCK_ROWS], t[at.GEMM_BLOCK_COLUMNS]
    across = -(-columns // width)
    blocks = -(-rows // height) * across
    block = take(board, call, 0, blocks)
    while block >= 0:
        top, left = block // across * height, block % across * width
        bottom, right = min(top + height, rows), min(left + width, columns)
        multiply_block(numbers(base), product, top, bottom, left, right, room)
        block = take(board, call, 0, blocks)


SHARED = {
    "gelu": _gelu, "attention": _attention, "dropout": _dropout,
    "cross_entropy": _cross_entropy, "polar": _polar, "gemm": _gemm,
}  # fmt: skip
"""Entries that an OpenMP pool calls, as C does and with nothing but the table's address."""
