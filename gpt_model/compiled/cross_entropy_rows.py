"""Cross-entropy of rows of logits, which turn into their own gradient where they stand.

A row is read from memory once: the largest number, the exponentials and their sum, and the gradient follow each other
while it is in the cache.
"""

import math

import numpy as np
from numba import njit

from gpt_model.compiled.cpu import LANES
from gpt_model.compiled.simd import (
    add,
    at_least,
    exp,
    first_lanes,
    fma,
    largest,
    load,
    maximum,
    multiply,
    number,
    put,
    splat,
    store,
    total,
    zero,
)

_inner = njit(nogil=True, error_model="numpy")
_SMALLEST = np.float32(-80)  # e to the power of less would be no normal number beside 1
_SUMS = 4  # kept side by side: an addition waits for the one before


@_inner
def _largest(logits, at, width):
    """Return the largest of a row. A width is LANES at least; where it is no multiple, some are looked at twice."""
    highest = load(logits, at + width - LANES)
    for k in range(at, at + width - width % LANES, LANES):
        highest = maximum(highest, load(logits, k))
    return largest(highest)


@_inner
def _power(x, top):
    """Return e to the logits less the row's largest; what is no number stays none."""
    x = add(x, splat(-top))
    return fma(x, zero(), at_least(x, splat(_SMALLEST), exp(x)))


@_inner
def _sum_of_powers(logits, at, width, top, in_place):
    """Return the sum of the exponentials; write them in the logits' place if asked."""
    a, b, c, d = zero(), zero(), zero(), zero()
    rest = width % LANES
    tail = _power(load(logits, at + width - LANES), top)  # before any of it is written
    for k in range(at, at + width - width % (_SUMS * LANES), _SUMS * LANES):
        p, q = _power(load(logits, k), top), _power(load(logits, k + LANES), top)
        r, s = _power(load(logits, k + 2 * LANES), top), _power(load(logits, k + 3 * LANES), top)
        if in_place:
            store(logits, k, p)
            store(logits, k + LANES, q)
            store(logits, k + 2 * LANES, r)
            store(logits, k + 3 * LANES, s)
        a, b, c, d = add(a, p), add(b, q), add(c, r), add(d, s)
    for k in range(at + width - width % (_SUMS * LANES), at + width - rest, LANES):
        p = _power(load(logits, k), top)
        if in_place:
            store(logits, k, p)
        a = add(a, p)
    if rest:
        b = add(b, first_lanes(LANES - rest, zero(), tail))
        if in_place:
            store(logits, at + width - LANES, tail)  # the first lanes have the same numbers already
    return total(add(add(a, b), add(c, d)))


@_inner
def _scale(logits, at, width, factor):
    tail = multiply(load(logits, at + width - LANES), splat(factor))
    for k in range(at, at + width - width % LANES, LANES):
        store(logits, k, multiply(load(logits, k), splat(factor)))
    store(logits, at + width - LANES, tail)


@_inner
def loss_rows(logits, width, targets, z_loss, in_place, losses, first, last):
    """Write the losses of the rows [first, last) of logits (N, width), in nats; if asked, leave their gradient there.

    A row's loss is n - logits[target] + z_loss · n², with n the logarithm of the sum of its exponentials; its gradient
    is softmax · (1 + 2 · z_loss · n), less 1 at the target. An infinite logit makes both no numbers: such an update is
    skipped. The width is LANES at least.
    """
    for row in range(first, last):
        at = row * width
        top = _largest(logits, at, width)
        right = number(logits, at + targets[row])
        sum_ = _sum_of_powers(logits, at, width, top, in_place)
        normaliser = np.float64(top) + math.log(np.float64(sum_))
        losses[row] = normaliser - right + z_loss * normaliser * normaliser
        if in_place:
            _scale(logits, at, width, np.float32((1.0 + 2.0 * z_loss * normaliser) / sum_))
            place = at + targets[row]
            put(logits, place, number(logits, place) - np.float32(1))
