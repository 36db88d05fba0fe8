"""Causal attention of one head of one sequence, and its gradient, compiled: for training, where all positions are new.

A head's numbers are first unpacked into room of the thread's own, where all products run over neighbouring numbers:
queries (scaled), keys and values as (P, D), and keys as (D, S). P positions: T, filled up with zeros to whole blocks;
S: a row's step. A block of queries sees its own positions and those before, so half of the scores are never computed.
The rest of a row is as in Dao et al. 2022, "FlashAttention", arXiv 2205.14135: of the scores only each row's largest
and sum are kept, and the way back computes them again.

Dropout draws nothing: whether a weight stays is told by its place and the call's seed (simd.kept).
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from gpt_model.compiled.cpu import LANES, TILE_ROWS
from gpt_model.compiled.dropout_rows import row_key
from gpt_model.compiled.float_tile import multiply_tile_of_one, multiply_tile_of_two
from gpt_model.compiled.simd import (
    add,
    at_least,
    exp,
    first_lanes,
    fma,
    kept,
    largest,
    load,
    maximum,
    multiply,
    splat,
    store,
    store_as,
    total,
    turn_square,
    zero,
)

_BLOCK = LANES  # queries of a block
_inner = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)  # called by compiled code alone
_SMALLEST = np.float32(-80)  # e to the power of less would be no normal number beside 1
_NEVER = np.float32(-1e30)


class Head(NamedTuple):
    """What one call is about."""

    T: int
    D: int
    heads: int
    """Of a sequence."""
    step: int
    """Numbers between two positions of queries, keys and values: 3 · heads · D."""
    scale: float
    limit: int
    """How many of 2^32 weights of the mixture are dropped."""
    swell: float
    """What the others are multiplied by."""
    seed: int


@_inner
def _sizes(head):
    """Return P and S: an odd number of vectors, so that rows do not compete for the same lines of the cache."""
    blocks = -(-head.T // _BLOCK)
    return blocks * _BLOCK, (blocks | 1) * LANES


@_inner
def _read(head, source, at, step, bias, bias_at, scale, room, to):
    """Unpack one head's rows, (source + bias) · scale or, without a bias, the source, to room[to:] as (P, D)."""
    D, (P, _) = head.D, _sizes(head)
    for row in range(head.T):
        for k in range(0, D, LANES):
            x = load(source, at + row * step + k)
            if bias is not None:
                x = multiply(add(x, load(bias, bias_at + k)), splat(scale))
            store(room, to + row * D + k, x)
    for k in range(head.T * D, P * D, LANES):
        store(room, to + k, zero())


@_inner
def _write(head, room, at, scale, target, to, step):
    """Write (T, D) from room[at:], times scale, to one head's rows."""
    D = head.D
    for row in range(head.T):
        for k in range(0, D, LANES):
            store_as(target, to + row * step + k, multiply(load(room, at + row * D + k), splat(scale)))


@_inner
def _sum(head, room, at, scale, sums, to):
    """Write the sums over the rows (T, D) from room[at:], times scale."""
    for k in range(0, head.D, LANES):
        sum_ = zero()
        for place in range(at + k, at + k + head.T * head.D, head.D):
            sum_ = add(sum_, load(room, place))
        store(sums, to + k, multiply(sum_, splat(scale)))


@_inner
def _turn(head, room, at, to):
    """Write (P, D) from room[at:] to room[to:] as (D, S)."""
    D, (P, S) = head.D, _sizes(head)
    for row in range(0, P, LANES):
        for k in range(0, D, LANES):
            turn_square(room, at + row * D + k, D, to + k * S + row, S)


@_inner
def _multiply(room, a_at, a_row, a_step, b_at, b_step, c_at, c_row, rows, columns, steps, is_new):
    """C (rows, columns) = or += A (rows, steps) B (steps, columns); see float_tile.py."""
    for row in range(0, rows, TILE_ROWS):
        a, c = a_at + row * a_row, c_at + row * c_row
        whole = columns - columns % (2 * LANES)
        for k in range(0, whole, 2 * LANES):
            multiply_tile_of_two(room, a, a_row, a_step, b_at + k, b_step, c + k, c_row, steps, is_new)
        if whole < columns:
            multiply_tile_of_one(room, a, a_row, a_step, b_at + whole, b_step, c + whole, c_row, steps, is_new)


@_inner
def _power(room, at, top, count):
    """Return e to the scores less the row's largest; of the first `count` lanes, 0 in the others."""
    x = first_lanes(count, add(load(room, at), splat(-top)), splat(_NEVER))
    return fma(x, zero(), at_least(x, splat(_SMALLEST), exp(x)))  # what is no number stays none


@_inner
def attend_head(head, sequence, which, product, bias, mixed, norms, room):
    """Write one head's mixture of values.

    product: (B, T, 3 · heads · D) and bias: queries, keys and values are their sum. mixed: (B, T, heads · D). norms:
    (B · heads, T, 2), each row's largest score and 1 / sum, for the way back. room: this thread's own.
    """
    D, (P, _) = head.D, _sizes(head)
    width = head.heads * D
    _read_all(head, sequence, which, product, bias, room)
    _mix(head, (sequence * head.heads + which) * head.T, norms, room, 3 * P * D)
    _write(head, room, 0, np.float32(1), mixed, sequence * head.T * width + which * D, width)


@_inner
def _read_all(head, sequence, which, product, bias, room):
    """Unpack queries, keys and values, one after the other."""
    D, (P, _) = head.D, _sizes(head)
    for part, scale in ((0, np.float32(head.scale)), (1, np.float32(1)), (2, np.float32(1))):
        own = part * head.heads * D + which * D
        at = sequence * head.T * head.step + own
        _read(head, product, at, head.step, bias, own, scale, room, part * P * D)


@_inner
def _mix(head, first_row, norms, room, keys):
    """Leave what is mixed in the place of the queries; from room[keys:] on, the room is free."""
    T, D, (P, S) = head.T, head.D, _sizes(head)
    v, scores = 2 * P * D, keys + D * S
    _turn(head, room, P * D, keys)
    for block in range(0, P, _BLOCK):
        seen, mine = block + _BLOCK, block * D
        _multiply(room, mine, D, 1, keys, S, scores, S, _BLOCK, seen, D, True)
        for row in range(min(_BLOCK, T - block)):
            _row_weights(head, first_row, block, row, norms, room, scores + row * S)
        _multiply(room, scores, S, 1, v, D, mine, D, _BLOCK, D, seen, True)
        for row in range(min(_BLOCK, T - block)):
            share = splat(norms[2 * (first_row + block + row) + 1] * np.float32(head.swell))
            for j in range(mine + row * D, mine + row * D + D, LANES):
                store(room, j, multiply(load(room, j), share))


@_inner
def _row_weights(head, first_row, block, row, norms, room, at):
    """Turn a row's scores into its weights, which are still to be divided by their sum."""
    place = first_row + block + row
    highest = first_lanes(row + 1, load(room, at + block), splat(_NEVER))
    for j in range(0, block, LANES):
        highest = maximum(highest, load(room, at + j))
    top, sum_ = largest(highest), zero()
    key = row_key(head.seed, place)
    for j in range(0, block + _BLOCK, LANES):
        power = _power(room, at + j, top, row + 1 if j == block else LANES)
        sum_ = add(sum_, power)
        store(room, at + j, kept(key, j, head.limit, power) if head.limit else power)
    norms[2 * place], norms[2 * place + 1] = top, np.float32(1) / total(sum_)


@_inner
def attend_head_gradient(head, sequence, which, product, bias, gradient, norms, of_product, sums, room):
    """Write the gradient of one head's queries, keys and values, (B, T, 3 · heads · D), from that of what it mixed.

    sums: (B, 3 · heads · D), the sums of it over positions. For the rest see attend_head.
    """
    D, (P, _) = head.D, _sizes(head)
    width, given = head.heads * D, 3 * P * D
    _read_all(head, sequence, which, product, bias, room)
    at = sequence * head.T * width + which * D
    _read(head, gradient, at, width, None, 0, np.float32(1), room, given)
    _mix_gradient(head, (sequence * head.heads + which) * head.T, norms, room, given)
    for part, scale in ((0, np.float32(head.scale)), (1, np.float32(1)), (2, np.float32(1))):
        own = part * width + which * D
        at = (given + part * P * D) if part else 0
        _write(head, room, at, scale, of_product, sequence * head.T * head.step + own, head.step)
        _sum(head, room, at, scale, sums, sequence * head.step + own)


@_inner
def _mix_gradient(head, first_row, norms, room, given):
    """Leave the gradient of the queries in their place; that of keys and values behind what was given."""
    D, (P, S) = head.D, _sizes(head)
    k, v, of_k, of_v = P * D, 2 * P * D, given + P * D, given + 2 * P * D
    keys = given + 3 * P * D
    values = keys + D * S
    scores = values + D * S
    slopes = scores + _BLOCK * S
    _turn(head, room, k, keys)
    _turn(head, room, v, values)
    for j in range(of_k, keys, LANES):
        store(room, j, zero())
    for block in range(0, P, _BLOCK):
        seen, mine = block + _BLOCK, block * D
        _multiply(room, mine, D, 1, keys, S, scores, S, _BLOCK, seen, D, True)
        _multiply(room, given + mine, D, 1, values, S, slopes, S, _BLOCK, seen, D, True)
        for row in range(_BLOCK):
            _row_gradient(head, first_row, block, row, norms, room, scores + row * S, slopes + row * S)
        _multiply(room, scores, 1, S, given + mine, D, of_v, D, seen, D, _BLOCK, False)
        _multiply(room, slopes, 1, S, mine, D, of_k, D, seen, D, _BLOCK, False)
        _multiply(room, slopes, S, 1, k, D, mine, D, _BLOCK, D, seen, True)


@_inner
def _row_gradient(head, first_row, block, row, norms, room, at, slopes):
    """Turn a row's scores into its weights, and its weights' gradient into the scores'."""
    seen = block + _BLOCK
    if block + row >= head.T:
        for j in range(0, seen, LANES):
            store(room, at + j, zero())
            store(room, slopes + j, zero())
        return
    place = first_row + block + row
    top, share = norms[2 * place], splat(norms[2 * place + 1])
    key, swell = row_key(head.seed, place), splat(np.float32(head.swell))
    sum_ = zero()
    for j in range(0, seen, LANES):
        weight = multiply(_power(room, at + j, top, row + 1 if j == block else LANES), share)
        slope = load(room, slopes + j)
        if head.limit:
            slope = multiply(kept(key, j, head.limit, slope), swell)
            store(room, slopes + j, slope)
        store(room, at + j, weight)
        sum_ = fma(weight, slope, sum_)
    mean = splat(-total(sum_))
    for j in range(0, seen, LANES):
        weight = load(room, at + j)
        store(room, slopes + j, multiply(weight, add(load(room, slopes + j), mean)))
        if head.limit:
            store(room, at + j, multiply(kept(key, j, head.limit, weight), swell))
