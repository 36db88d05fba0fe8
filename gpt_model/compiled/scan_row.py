"""The first look at a row of logits, compiled: its largest, what it sums up to, and its head, in two passes."""

import numpy as np
from numba import njit

from gpt_model.compiled.cpu import LANES
from gpt_model.compiled.simd import add, exp, fma, largest, load, maximum, number, splat, total, zero

DEAD = -160.0
"""Nats below the best at which e to the distance is as good as 0."""
BLOCK = 64 * LANES
"""Numbers that are summed in float32 before float64 takes over."""
_STRIDE = 4 * LANES


@njit(nogil=True, error_model="numpy")
def scan_row(raw, size, reach, most, ids, values, found):
    """Look at a row.

    raw: (size,) float32. ids: (most,) int64 and values: (most,) float32 receive the head: what is not below the
    largest - reach. found: (5,) float64: ln Σ e^raw, the entropy, the lowest that belongs to the head, the largest, NaN
    if there is NaN, +inf, or no finite number, and how many the head has, 0 if more than `most`.
    """
    best, all_finite = _best_if_finite(raw, size)
    found[0], found[1] = moments(raw, size, best)
    lowest = best - np.float32(reach)
    found[2] = lowest
    found[3] = best if all_finite or _only_minus_infinite(raw, size, best) else np.nan
    found[4] = _head(raw, size, lowest, most, ids, values)


@njit(nogil=True, error_model="numpy")
def _best_if_finite(raw, size):
    """Return the largest of a row, and whether nothing is NaN or infinite: such a number times 0 is no number."""
    whole = size // _STRIDE * _STRIDE
    nothing, top, other_top, sums, other_sums = (
        zero(),
        splat(np.float32(-np.inf)),
        splat(np.float32(-np.inf)),
        zero(),
        zero(),
    )
    for k in range(0, whole, _STRIDE):
        a, b, c, d = load(raw, k), load(raw, k + LANES), load(raw, k + 2 * LANES), load(raw, k + 3 * LANES)
        top, other_top = maximum(maximum(a, b), top), maximum(maximum(c, d), other_top)
        sums, other_sums = fma(b, nothing, fma(a, nothing, sums)), fma(d, nothing, fma(c, nothing, other_sums))
    best, rest = largest(maximum(top, other_top)), total(add(sums, other_sums))
    for k in range(whole, size):
        best = max(best, number(raw, k))
        rest += number(raw, k) * np.float32(0)
    return best, rest == 0


@njit(nogil=True, error_model="numpy")
def moments(raw, size, best):
    """Return ln Σ e^raw and the entropy -Σ p ln p of a row whose largest is `best`."""
    mass, product = _mass_and_product(raw, size, best)
    return best + np.log(mass), np.log(mass) - product / mass  # ln p = depth - ln Σ e^depth


@njit(nogil=True, error_model="numpy")
def best_of(source, size):
    """Return the largest of a row (size,) float32 without NaN."""
    whole = size // LANES * LANES
    top = splat(np.float32(-np.inf))
    for k in range(0, whole, LANES):
        top = maximum(top, load(source, k))
    best = largest(top)
    for k in range(whole, size):
        best = max(best, number(source, k))
    return best


@njit(nogil=True, error_model="numpy")
def _mass_and_product(raw, size, best):
    """Return Σ e^depth and Σ depth × e^depth of a row, depth being raw - best."""
    mass, product = 0.0, 0.0
    whole = size // LANES * LANES
    offset, dead = splat(-best), splat(np.float32(DEAD))
    for block in range(0, whole, BLOCK):
        sums, products = zero(), zero()
        for k in range(block, min(block + BLOCK, whole), LANES):
            d = maximum(add(load(raw, k), offset), dead)
            part = exp(d)
            sums, products = add(sums, part), fma(d, part, products)
        mass += total(sums)
        product += total(products)
    for k in range(whole, size):
        d = max(np.float64(number(raw, k)) - best, DEAD)
        mass += np.exp(d)
        product += d * np.exp(d)
    return mass, product


@njit(nogil=True, error_model="numpy")
def _head(raw, size, lowest, most, ids, values):
    count, whole = 0, size // _STRIDE * _STRIDE
    for k in range(0, size, _STRIDE):
        if k < whole:
            left = maximum(load(raw, k), load(raw, k + LANES))
            right = maximum(load(raw, k + 2 * LANES), load(raw, k + 3 * LANES))
            if largest(maximum(left, right)) < lowest:
                continue
        for token in range(k, min(k + _STRIDE, size)):
            value = number(raw, token)
            if value >= lowest:
                if count == most:
                    return 0
                ids[count], values[count] = token, value
                count += 1
    return count


@njit(nogil=True, error_model="numpy")
def _only_minus_infinite(raw, size, best):
    """Return whether -inf is the only number that is not finite, and not the only one."""
    for k in range(size):
        if not number(raw, k) < np.inf:
            return False
    return best > -np.inf
