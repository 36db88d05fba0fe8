"""Attention of one head over the cached keys and values, compiled.

Keys lie transposed in blocks of 16 positions, (span / 16, head_width, 16): the scores of neighbouring positions are
neighbouring lanes, so no vector is ever summed up across, and what is read lies together. Values lie as (span,
head_width). A row reads what stands before position `shared`, a multiple of 16, from slot 0.
"""

import math

import numpy as np
from numba import njit

from gpt_model.compiled.cpu import LANES
from gpt_model.compiled.layout import BLOCK
from gpt_model.compiled.simd import add, exp, fma, largest, load, multiply, number, put, splat, store, total, zero


@njit(nogil=True, error_model="numpy")
def attend(shape, keys, values, layer, slot, shared, head, past, qkv, first, length, mixed, p):
    """Write what one head makes of `length` columns from `first` on, at positions past, past + 1, …

    keys: (n_layer, slots, n_head, span / 16, head_width, 16), values: (n_layer, slots, n_head, span, head_width).
    p: (4, span), this thread's own.
    """
    D, span = shape.head_width, values.shape[3]
    own = ((layer * keys.shape[1] + slot) * shape.n_head + head) * D * span
    common = (layer * keys.shape[1] * shape.n_head + head) * D * span if shared else own
    _remember(shape, keys, values, own, head, past, qkv, first, length)
    scale = np.float32(1 / math.sqrt(shape.head))
    i = 0
    while i < length:
        n = past + i + 1
        at = (first + i) * qkv.shape[1] + head * D
        to = (first + i) * mixed.shape[1] + head * D
        if i + 4 <= length:
            _four_scores(keys, common, D, 0, shared, qkv, at, p)
            _four_scores(keys, own, D, shared, n + 3, qkv, at, p)
            for j in range(4):
                _soften(p[j], n + j, scale)
            _four_mixtures(values, common, own, D, shared, n + 3, p, mixed, to)
            i += 4
        else:
            _scores(keys, common, D, 0, shared, qkv, at, p[0])
            _scores(keys, own, D, shared, n, qkv, at, p[0])
            _soften(p[0], n, scale)
            _mixture(values, common, own, D, shared, n, p[0], mixed, to)
            i += 1


@njit(nogil=True, error_model="numpy")
def _remember(shape, keys, values, at, head, past, qkv, first, length):
    """Keep the new positions' keys and values."""
    D, row = shape.head_width, qkv.shape[1]
    for i in range(length):
        source = (first + i) * row + head * D + shape.attention
        place = at + (past + i) // BLOCK * BLOCK * D + (past + i) % BLOCK
        for d in range(D):
            put(keys, place + d * BLOCK, number(qkv, source + d))
        for d in range(0, D, LANES):
            store(values, at + (past + i) * D + d, load(qkv, source + shape.attention + d))


@njit(nogil=True, error_model="numpy")
def _place(at, D, t):
    """Return where the keys of position t, a multiple of LANES, begin."""
    return at + t // BLOCK * BLOCK * D + t % BLOCK


@njit(nogil=True, error_model="numpy")
def _scores(keys, at, D, begin, end, q, q_at, p):
    """p[begin:end] = q · k, and some nonsense behind it; `begin` is a multiple of 16."""
    t = begin
    while t + 2 * LANES < end:
        k0, k1 = _place(at, D, t), _place(at, D, t + LANES)
        k2, k3 = _place(at, D, t + 2 * LANES), _place(at, D, t + 3 * LANES)
        s0, s1, s2, s3 = zero(), zero(), zero(), zero()
        for d in range(D):
            weight = splat(number(q, q_at + d))
            s0, s1 = fma(weight, load(keys, k0 + d * BLOCK), s0), fma(weight, load(keys, k1 + d * BLOCK), s1)
            s2, s3 = fma(weight, load(keys, k2 + d * BLOCK), s2), fma(weight, load(keys, k3 + d * BLOCK), s3)
        store(p, t, s0)
        store(p, t + LANES, s1)
        store(p, t + 2 * LANES, s2)
        store(p, t + 3 * LANES, s3)
        t += 4 * LANES
    while t < end:
        k0, s0 = _place(at, D, t), zero()
        for d in range(D):
            s0 = fma(splat(number(q, q_at + d)), load(keys, k0 + d * BLOCK), s0)
        store(p, t, s0)
        t += LANES


@njit(nogil=True, error_model="numpy")
def _four_scores(keys, at, D, begin, end, q, q_at, p):
    """`_scores` of four neighbouring columns."""
    row = q.shape[1]
    for t in range(begin, end, 2 * LANES):
        ka_at, kb_at = _place(at, D, t), _place(at, D, t + LANES)
        a0, a1, a2, a3 = zero(), zero(), zero(), zero()
        b0, b1, b2, b3 = zero(), zero(), zero(), zero()
        for d in range(D):
            ka, kb = load(keys, ka_at + d * BLOCK), load(keys, kb_at + d * BLOCK)
            weight = splat(number(q, q_at + d))
            a0, b0 = fma(weight, ka, a0), fma(weight, kb, b0)
            weight = splat(number(q, q_at + row + d))
            a1, b1 = fma(weight, ka, a1), fma(weight, kb, b1)
            weight = splat(number(q, q_at + 2 * row + d))
            a2, b2 = fma(weight, ka, a2), fma(weight, kb, b2)
            weight = splat(number(q, q_at + 3 * row + d))
            a3, b3 = fma(weight, ka, a3), fma(weight, kb, b3)
        for j, a, b in ((0, a0, b0), (1, a1, b1), (2, a2, b2), (3, a3, b3)):
            store(p, j * p.shape[1] + t, a)
            store(p, j * p.shape[1] + t + LANES, b)


@njit(nogil=True, error_model="numpy")
def _soften(p, n, scale):
    """p[:n] = softmax(scale · p[:n])."""
    end = (n + LANES - 1) // LANES * LANES
    for t in range(n, end):
        p[t] = -np.inf
    top = p[0]
    for t in range(0, end, LANES):
        top = max(top, largest(load(p, t)))
    factor, offset, sums = splat(scale), splat(-top * scale), zero()
    for t in range(0, end, LANES):
        store(p, t, exp(fma(load(p, t), factor, offset)))
    for t in range(n, end):
        p[t] = 0
    for t in range(0, end, LANES):
        sums = add(sums, load(p, t))
    share = splat(np.float32(1) / total(sums))
    for t in range(0, end, LANES):
        store(p, t, multiply(load(p, t), share))


@njit(nogil=True, error_model="numpy")
def _mixture(values, common, own, D, shared, n, p, mixed, to):
    """mixed = Σ p · v, four vectors of the head at a time, or two."""
    d = 0
    while d + 4 * LANES <= D:
        a, b, c, e = zero(), zero(), zero(), zero()
        for t in range(n):
            v, weight = (common if t < shared else own) + t * D + d, splat(p[t])
            a, b = fma(weight, load(values, v), a), fma(weight, load(values, v + LANES), b)
            c, e = fma(weight, load(values, v + 2 * LANES), c), fma(weight, load(values, v + 3 * LANES), e)
        store(mixed, to + d, a)
        store(mixed, to + d + LANES, b)
        store(mixed, to + d + 2 * LANES, c)
        store(mixed, to + d + 3 * LANES, e)
        d += 4 * LANES
    while d < D:
        a, b = zero(), zero()
        for t in range(n):
            v, weight = (common if t < shared else own) + t * D + d, splat(p[t])
            a, b = fma(weight, load(values, v), a), fma(weight, load(values, v + LANES), b)
        store(mixed, to + d, a)
        store(mixed, to + d + LANES, b)
        d += 2 * LANES


@njit(nogil=True, error_model="numpy")
def _four_mixtures(values, common, own, D, shared, n, p, mixed, to):
    """`_mixture` of four neighbouring columns; what lies ahead of a column has the weight 0."""
    for t in range(n - 3, n):
        for j in range(3):
            if t > n - 4 + j:
                p[j, t] = 0
    row = mixed.shape[1]
    for d in range(0, D, 2 * LANES):
        a0, a1, a2, a3 = zero(), zero(), zero(), zero()
        b0, b1, b2, b3 = zero(), zero(), zero(), zero()
        for t in range(n):
            v = (common if t < shared else own) + t * D + d
            va, vb = load(values, v), load(values, v + LANES)
            weight = splat(p[0, t])
            a0, b0 = fma(weight, va, a0), fma(weight, vb, b0)
            weight = splat(p[1, t])
            a1, b1 = fma(weight, va, a1), fma(weight, vb, b1)
            weight = splat(p[2, t])
            a2, b2 = fma(weight, va, a2), fma(weight, vb, b2)
            weight = splat(p[3, t])
            a3, b3 = fma(weight, va, a3), fma(weight, vb, b3)
        for j, a, b in ((0, a0, b0), (1, a1, b1), (2, a2, b2), (3, a3, b3)):
            store(mixed, to + j * row + d, a)
            store(mixed, to + j * row + d + LANES, b)
