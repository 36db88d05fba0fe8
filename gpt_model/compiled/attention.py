"""Attention of one head over the cached keys and values, compiled."""

import math

import numpy as np
from numba import njit

from gpt_model.compiled.simd import LANES, add, exp, fma, largest, load, multiply, splat, store, total, zero


@njit(nogil=True, cache=True)
def attend(shape, cache, slots, layer, slot, shared, head, past, qkv, first, length, mixed):
    """Attention of one head for `length` columns from `first` on, which stand at positions past, past + 1, …

    Keys and values before position `shared` are slot 0's, the rest the row's own.
    """
    D = shape.head_width
    stride = shape.block_size * D
    keys = ((layer * 2 * slots + slot) * shape.n_head + head) * stride
    values = (((layer * 2 + 1) * slots + slot) * shape.n_head + head) * stride
    to_shared = slot * shape.n_head * stride
    row = qkv.shape[1]
    for i in range(length):
        at = (first + i) * row + head * D
        for d in range(0, D, LANES):
            store(cache, keys + (past + i) * D + d, load(qkv, at + shape.attention + d))
            store(cache, values + (past + i) * D + d, load(qkv, at + 2 * shape.attention + d))
    scale = splat(np.float32(1 / math.sqrt(shape.head)))
    size = (past + length + LANES - 1) // LANES * LANES
    p = np.empty(size, np.float32)
    for i in range(length):
        at, n = (first + i) * row + head * D, past + i + 1
        for t in range(n):
            k = keys + t * D - (to_shared if t < shared else 0)
            score = zero()
            for d in range(0, D, LANES):
                score = fma(load(qkv, at + d), load(cache, k + d), score)
            p[t] = total(score)
        end = (n + LANES - 1) // LANES * LANES
        for t in range(n, end):
            p[t] = -np.inf
        top = splat(np.float32(-np.inf))
        top = splat(_top(p, end))
        sums = zero()
        for t in range(0, end, LANES):
            share = exp(multiply(add(load(p, t), multiply(top, splat(np.float32(-1)))), scale))
            store(p, t, share)
        for t in range(n, end):
            p[t] = 0
        for t in range(0, end, LANES):
            sums = add(sums, load(p, t))
        share = splat(np.float32(1) / total(sums))
        for d in range(0, D, LANES):
            m0, m1 = zero(), zero()
            for t in range(0, n - 1, 2):
                v = values + t * D + d
                m0 = fma(splat(p[t]), load(cache, v - (to_shared if t < shared else 0)), m0)
                m1 = fma(splat(p[t + 1]), load(cache, v + D - (to_shared if t + 1 < shared else 0)), m1)
            if n % 2:
                v = values + (n - 1) * D + d - (to_shared if n - 1 < shared else 0)
                m0 = fma(splat(p[n - 1]), load(cache, v), m0)
            store(mixed, (first + i) * mixed.shape[1] + head * D + d, multiply(add(m0, m1), share))


@njit(nogil=True, cache=True)
def _top(p, end):
    best = p[0]
    for t in range(0, end, LANES):
        best = max(best, largest(load(p, t)))
    return best
