"""The draw of one row, compiled: what drawing.py does with torch, in a tenth of the time, for it sorts nothing.

The inverse of the cumulative distribution needs to know what mass stands above a logit, and that is one pass over the
row; a bisection closes in on the drawn token until a handful is left, and only they are sorted.
"""

import numpy as np
from numba import njit

from gpt_model.compiled.cpu import LANES
from gpt_model.compiled.layout import FEW_TOKENS
from gpt_model.compiled.simd import (
    add,
    at_least,
    exp,
    fma,
    largest,
    load,
    maximum,
    number,
    put,
    splat,
    store,
    total,
    zero,
)

_LOWEST = -80.0  # nats below the best: what lies deeper, -inf too, has less mass than a uniform number has digits
_DEAD = -160.0
_BLOCK = 64 * LANES  # numbers that are summed in float32 before float64 takes over


@njit(nogil=True, error_model="numpy")
def draw_row(raw, processed, size, uniform, count, depth, share, few, told):
    """Draw a token from `processed` and tell of it.

    raw, processed: (size,) float32, before and after the chain. depth, share: float32 scratch, a multiple of LANES
    and at least `size` long; few: (64, 2) float64 scratch. told: float64: token, p before, p after, rank, entropy,
    then for each of `count` candidates its id, p before and p after.
    """
    end = (size + LANES - 1) // LANES * LANES
    best = _depths(processed, size, end, depth)
    mass = _shares(depth, share, end)
    token = _find(depth, share, end, uniform * mass, few)
    p_after = number(share, token) / mass
    _likeliest(raw, processed, size, best, mass, count, told)
    raw_best = _best(raw, size)
    raw_mass, product = _mass_and_product(raw, size, raw_best)
    told[0], told[1], told[2] = token, np.exp(np.float64(number(raw, token)) - raw_best) / raw_mass, p_after
    told[3] = _rank(raw, size, number(raw, token))
    told[4] = np.log(raw_mass) - product / raw_mass  # -Σ p ln p, ln p = depth - ln Σ
    for place in range(5, 5 + 3 * count, 3):
        told[place + 1] = np.exp(told[place + 1] - raw_best) / raw_mass


@njit(nogil=True, error_model="numpy")
def _best(source, size):
    whole = size // LANES * LANES
    top = splat(np.float32(-np.inf))
    for k in range(0, whole, LANES):
        top = maximum(top, load(source, k))
    best = largest(top)
    for k in range(whole, size):
        best = max(best, number(source, k))
    return best


@njit(nogil=True, error_model="numpy")
def _depths(source, size, end, depth):
    """depth = source - its best, not below that of the dead; return the best."""
    whole = size // LANES * LANES
    best = _best(source, size)
    offset, dead = splat(-best), splat(np.float32(_DEAD))
    for k in range(0, whole, LANES):
        store(depth, k, maximum(add(load(source, k), offset), dead))
    for k in range(whole, size):
        put(depth, k, max(number(source, k) - best, np.float32(_DEAD)))
    for k in range(size, end):
        put(depth, k, np.float32(_DEAD))
    return best


@njit(nogil=True, error_model="numpy")
def _shares(depth, share, end):
    """share = e^depth; return their sum."""
    mass = 0.0
    for block in range(0, end, _BLOCK):
        sums = zero()
        for k in range(block, min(block + _BLOCK, end), LANES):
            part = exp(load(depth, k))
            store(share, k, part)
            sums = add(sums, part)
        mass += total(sums)
    return mass


@njit(nogil=True, error_model="numpy")
def _mass_and_product(raw, size, best):
    """Return Σ e^depth and Σ depth × e^depth of a row, depth being raw - best."""
    mass, product = 0.0, 0.0
    whole = size // LANES * LANES
    offset, dead = splat(-best), splat(np.float32(_DEAD))
    for block in range(0, whole, _BLOCK):
        sums, products = zero(), zero()
        for k in range(block, min(block + _BLOCK, whole), LANES):
            d = maximum(add(load(raw, k), offset), dead)
            part = exp(d)
            sums, products = add(sums, part), fma(d, part, products)
        mass += total(sums)
        product += total(products)
    for k in range(whole, size):
        d = max(np.float64(number(raw, k)) - best, _DEAD)
        mass += np.exp(d)
        product += d * np.exp(d)
    return mass, product


@njit(nogil=True, error_model="numpy")
def _mass_above(depth, share, end, limit):
    """Return the mass and the number of the tokens at `limit` or above."""
    mass, count = 0.0, np.float32(0)
    floor, one = splat(limit), splat(np.float32(1))
    for block in range(0, end, _BLOCK):
        sums, counts = zero(), zero()
        for k in range(block, min(block + _BLOCK, end), LANES):
            d = load(depth, k)
            sums = add(sums, at_least(d, floor, load(share, k)))
            counts = add(counts, at_least(d, floor, one))
        mass += total(sums)
        count += total(counts)
    return mass, count


@njit(nogil=True, error_model="numpy")
def _rank(raw, size, value):
    """Return how many raw logits are higher."""
    whole = size // LANES * LANES
    level, one, others = splat(value), splat(np.float32(1)), zero()
    for k in range(0, whole, LANES):
        others = add(others, at_least(level, load(raw, k), one))
    rank = whole - int(total(others))
    for k in range(whole, size):
        rank += number(raw, k) > value
    return rank


@njit(nogil=True, error_model="numpy")
def _find(depth, share, end, goal, few):
    """Return the token at which the mass, summed from the best one down, passes `goal`; equals by id."""
    low, high = np.float32(_LOWEST), np.float32(1)
    mass_low, mass_high = np.inf, 0.0
    count_low, count_high = np.float32(end), np.float32(0)
    inside, turn = count_low, 0
    while inside > FEW_TOKENS:
        middle = (low + high) / np.float32(2)
        if turn == 0:
            middle = np.float32(-4)  # where the mass of most rows lies
        elif turn % 3 and mass_low < np.inf:  # where a straight line would put it; every third time the middle
            middle = low + (high - low) * np.float32((mass_low - goal) / (mass_low - mass_high))
        if middle <= low or middle >= high:
            middle = (low + high) / np.float32(2)
            if middle <= low or middle >= high:
                break  # nothing but equals are left
        mass, count = _mass_above(depth, share, end, middle)
        if mass > goal:
            low, mass_low, count_low = middle, mass, count
        else:
            high, mass_high, count_high = middle, mass, count
        inside = count_low - count_high
        turn += 1
    if inside > FEW_TOKENS:
        return _equal(depth, share, end, low, high, goal - mass_high)
    return _among_few(depth, share, end, low, high, goal - mass_high, few)


@njit(nogil=True, error_model="numpy")
def _equal(depth, share, end, low, high, goal):
    """Return the token of equals on which the goal falls, in the order of their ids."""
    passed, last = 0.0, 0
    for token in range(end):
        if low <= number(depth, token) < high:
            last = token
            passed += number(share, token)
            if goal < passed:
                break
    return last


@njit(nogil=True, error_model="numpy")
def _among_few(depth, share, end, low, high, goal, few):
    """Return the token, of at most 64, on which the goal falls, best first, equals by id."""
    count = 0
    floor, ceiling, one, minus = splat(low), splat(high), splat(np.float32(1)), splat(np.float32(-1))
    for k in range(0, end, LANES):
        d = load(depth, k)
        if largest(add(at_least(d, floor, one), at_least(d, ceiling, minus))) <= 0:
            continue
        for token in range(k, k + LANES):
            value = number(depth, token)
            if low <= value < high:
                place = count
                while place > 0 and few[place - 1, 0] < value:
                    few[place, 0], few[place, 1] = few[place - 1, 0], few[place - 1, 1]
                    place -= 1
                few[place, 0], few[place, 1] = value, token
                count += 1
    passed = 0.0
    for place in range(count):
        token = int(few[place, 1])
        passed += number(share, token)
        if goal < passed:
            return token
    return int(few[count - 1, 1])  # rounding left a hair


@njit(nogil=True, error_model="numpy")
def _likeliest(raw, processed, size, best, mass, count, told):
    """Write the `count` highest raw logits, best first, equals by id, and what the chain left of them."""
    for place in range(count):
        told[5 + 3 * place], told[6 + 3 * place] = -1, -np.inf
    lowest = np.float32(-np.inf)
    whole = size // LANES * LANES
    for k in range(0, size, LANES):
        if k < whole and largest(load(raw, k)) <= lowest:
            continue
        for token in range(k, min(k + LANES, size)):
            value = number(raw, token)
            if value <= lowest and told[5 + 3 * (count - 1)] >= 0:
                continue
            place = count - 1
            while place > 0 and told[6 + 3 * (place - 1)] < value:
                told[5 + 3 * place], told[6 + 3 * place] = told[5 + 3 * (place - 1)], told[6 + 3 * (place - 1)]
                place -= 1
            told[5 + 3 * place], told[6 + 3 * place] = token, value
            if told[5 + 3 * (count - 1)] >= 0:
                lowest = np.float32(told[6 + 3 * (count - 1)])
    for place in range(count):
        token = int(told[5 + 3 * place])
        told[7 + 3 * place] = np.exp(np.float64(number(processed, token)) - best) / mass
