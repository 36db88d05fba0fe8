"""The draw of one row, compiled: what drawing.py does with torch, in a tenth of the time, for it sorts nothing.

The inverse of the cumulative distribution needs to know what mass stands above a logit, and that is one pass over the
row; two bounds close in on the drawn token until a handful is left, and only they are sorted.
"""

import numpy as np
from numba import njit

from gpt_model.compiled.cpu import LANES
from gpt_model.compiled.layout import FEW_TOKENS
from gpt_model.compiled.scan_row import BLOCK, DEAD, best_of
from gpt_model.compiled.simd import (
    add,
    at_least,
    divide,
    exp,
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


@njit(nogil=True, error_model="numpy")
def draw_row(raw, known, head_ids, head_values, heads, processed, cuts, alive, few, size, uniform, count, share, told):
    """Draw a token from what a chain left, and tell of it.

    raw: (size,) float32, before the chain. known: (3,) float64: its ln Σ e^raw, its entropy, and the lowest number of
    its head, which is `heads` ids, int64, and values, float32; none of a row that is too flat.
    processed: (size,) float32, after the chain, but for its last decisions, cuts (3,): what is below the first is out;
    the rest is divided by the second; what is below the third then, is out too. alive: how many tokens are left, with
    their numbers in few (64, 2) float64; -1 where they are still to be found in `processed`.
    share: float32 scratch, a multiple of LANES and at least `size` long.
    told: float64: token, p before, p after, rank, entropy, then for each of `count` candidates its id, p before and p
    after.
    """
    log_total = known[0]
    if alive >= 0:
        for place in range(alive):
            _insert(few, place, few[place, 0], few[place, 1])
    else:
        alive = _collect(processed, cuts, size, few)
    if alive <= FEW_TOKENS:
        best = np.float32(few[0, 0])
        mass = 0.0
        for place in range(alive):
            mass += np.exp(few[place, 0] - best)
        token, left = _pick(few, alive, best, uniform * mass)
    else:
        end = (size + LANES - 1) // LANES * LANES
        best = best_of(processed, size) / cuts[1]
        mass = _shares(processed, cuts, size, end, best, share)
        token = _find(processed, cuts, best, share, end, uniform * mass, few)
        left = np.float64(number(share, token))
    value = number(raw, token)
    told[0], told[1] = token, np.exp(np.float64(value) - log_total)
    told[2] = left / mass
    told[4] = known[1]
    if heads >= count:
        _likeliest_of_head(head_ids, head_values, heads, count, told)
    else:
        _likeliest(raw, size, count, told)
    told[3] = _rank_in_head(head_values, heads, value) if heads > 0 and value >= known[2] else _rank(raw, size, value)
    for place in range(5, 5 + 3 * count, 3):
        told[place + 1] = np.exp(told[place + 1] - log_total)
        told[place + 2] = _share_of(int(told[place]), processed, cuts, alive, few, best) / mass


@njit(nogil=True, error_model="numpy")
def _carried_out(value, cuts):
    """Return one logit as the cuts leave it."""
    if value < cuts[0]:
        return np.float32(-np.inf)
    value /= cuts[1]
    return value if value >= cuts[2] else np.float32(-np.inf)


@njit(nogil=True, error_model="numpy")
def _collect(source, cuts, size, few):
    """Gather what the cuts leave, best first, equals by id, as long as it fits; return how many there are.

    Of more than 64 the rest is not counted.
    """
    floor = max(cuts[0], np.float32(-3e38))
    if cuts[2] > -np.inf:  # what is surely below the last floor too, whatever the division rounds
        floor = max(floor, cuts[2] * cuts[1] - np.float32(1e-5) * abs(cuts[2] * cuts[1]))
    count, whole = 0, size // LANES * LANES
    for k in range(0, size, LANES):
        if k < whole and largest(load(source, k)) < floor:
            continue
        for token in range(k, min(k + LANES, size)):
            value = _carried_out(number(source, token), cuts)
            if value == -np.inf:
                continue
            if count == FEW_TOKENS:
                return count + 1
            _insert(few, count, value, token)
            count += 1
    return count


@njit(nogil=True, error_model="numpy")
def _insert(few, count, value, token):
    """Put a token among the `count` that are there, best first, behind its equals."""
    place = count
    while place > 0 and few[place - 1, 0] < value:
        few[place, 0], few[place, 1] = few[place - 1, 0], few[place - 1, 1]
        place -= 1
    few[place, 0], few[place, 1] = value, token


@njit(nogil=True, error_model="numpy")
def _pick(few, count, best, goal):
    """Return the token on which the goal falls, and its mass."""
    passed, mass = 0.0, 0.0
    for place in range(count):
        mass = np.exp(few[place, 0] - best)
        passed += mass
        if goal < passed:
            return int(few[place, 1]), mass
    return int(few[count - 1, 1]), mass  # rounding left a hair


@njit(nogil=True, error_model="numpy")
def _shares(source, cuts, size, end, best, share):
    """share = e^(source, with the cuts carried out, - best), 0 for what is out; return their sum."""
    whole = size // LANES * LANES
    offset, dead = splat(-best), splat(np.float32(DEAD))
    floor, divisor, last_floor = splat(cuts[0]), splat(cuts[1]), splat(cuts[2])
    mass = 0.0
    for block in range(0, whole, BLOCK):
        sums = zero()
        for k in range(block, min(block + BLOCK, whole), LANES):
            value = load(source, k)
            divided = divide(value, divisor)
            part = at_least(value, floor, at_least(divided, last_floor, exp(maximum(add(divided, offset), dead))))
            store(share, k, part)
            sums = add(sums, part)
        mass += total(sums)
    for k in range(whole, size):
        value = np.exp(_carried_out(number(source, k), cuts) - best)
        put(share, k, value)
        mass += value
    for k in range(size, end):
        put(share, k, np.float32(0))
    return mass


@njit(nogil=True, error_model="numpy")
def _mass_above(share, end, limit):
    """Return the mass and the number of the tokens whose share is `limit` or more."""
    mass, count = 0.0, np.float32(0)
    floor, one = splat(limit), splat(np.float32(1))
    for block in range(0, end, BLOCK):
        sums, counts = zero(), zero()
        for k in range(block, min(block + BLOCK, end), LANES):
            part = load(share, k)
            sums = add(sums, at_least(part, floor, part))
            counts = add(counts, at_least(part, floor, one))
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
def _find(source, cuts, best, share, end, goal, few):
    """Return the token at which the mass, summed from the best one down, passes `goal`; equals by id.

    Two bounds close in on its share. They are moved in nats below the best, for shares span many decades.
    """
    low, high = np.float32(_LOWEST), np.float32(1)
    share_low, share_high = np.exp(low), np.exp(high)
    mass_low, mass_high = np.inf, 0.0
    count_low, count_high = np.float32(end), np.float32(0)
    inside, turn = count_low, 0
    while inside > FEW_TOKENS:
        middle = (low + high) / np.float32(2)
        if turn == 0:
            middle = np.float32(-4)  # where the mass of most rows lies
        elif turn % 3 and mass_low < np.inf:  # where a straight line would put it; every third time the middle
            middle = low + (high - low) * np.float32((mass_low - goal) / (mass_low - mass_high))
        limit = np.exp(middle)
        if limit <= share_low or limit >= share_high:
            middle = (low + high) / np.float32(2)
            limit = np.exp(middle)
            if limit <= share_low or limit >= share_high:
                break  # nothing but equals are left
        mass, count = _mass_above(share, end, limit)
        if mass > goal:
            low, share_low, mass_low, count_low = middle, limit, mass, count
        else:
            high, share_high, mass_high, count_high = middle, limit, mass, count
        inside = count_low - count_high
        turn += 1
    if inside > FEW_TOKENS:
        return _equal(share, end, share_low, share_high, goal - mass_high)
    return _among_few(source, cuts, share, end, share_low, share_high, goal - mass_high, few)


@njit(nogil=True, error_model="numpy")
def _equal(share, end, low, high, goal):
    """Return the token of equals on which the goal falls, in the order of their ids."""
    passed, last = 0.0, 0
    for token in range(end):
        if low <= number(share, token) < high:
            last = token
            passed += number(share, token)
            if goal < passed:
                break
    return last


@njit(nogil=True, error_model="numpy")
def _among_few(source, cuts, share, end, low, high, goal, few):
    """Return the token, of at most 64, on which the goal falls, best first, equals by id."""
    count = 0
    floor, ceiling, one, minus = splat(low), splat(high), splat(np.float32(1)), splat(np.float32(-1))
    for k in range(0, end, LANES):
        part = load(share, k)
        if largest(add(at_least(part, floor, one), at_least(part, ceiling, minus))) <= 0:
            continue
        for token in range(k, k + LANES):
            if low <= number(share, token) < high:
                _insert(few, count, _carried_out(number(source, token), cuts), token)
                count += 1
    passed = 0.0
    for place in range(count):
        token = int(few[place, 1])
        passed += number(share, token)
        if goal < passed:
            return token
    return int(few[count - 1, 1])  # rounding left a hair


@njit(nogil=True, error_model="numpy")
def _share_of(token, processed, cuts, alive, few, best):
    """Return a token's mass as the chain left it."""
    if alive > FEW_TOKENS:
        return np.exp(np.float64(_carried_out(number(processed, token), cuts)) - best)
    for place in range(alive):
        if few[place, 1] == token:
            return np.exp(few[place, 0] - best)
    return 0.0


@njit(nogil=True, error_model="numpy")
def _likeliest(raw, size, count, told):
    """Write the `count` highest raw logits, best first, equals by id."""
    lowest = _begin(count, told)
    whole = size // LANES * LANES
    for k in range(0, size, LANES):
        if k < whole and largest(load(raw, k)) <= lowest:
            continue
        for token in range(k, min(k + LANES, size)):
            lowest = _place_likely(token, number(raw, token), lowest, count, told)


@njit(nogil=True, error_model="numpy")
def _likeliest_of_head(ids, values, heads, count, told):
    """The same from a head that holds so many."""
    lowest = _begin(count, told)
    for place in range(heads):
        value = number(values, place)
        if value > lowest:
            lowest = _place_likely(ids[place], value, lowest, count, told)


@njit(nogil=True, error_model="numpy")
def _begin(count, told):
    for place in range(count):
        told[5 + 3 * place], told[6 + 3 * place] = -1, -np.inf
    return np.float32(-np.inf)


@njit(nogil=True, error_model="numpy")
def _place_likely(token, value, lowest, count, told):
    """Put a token among the likeliest, if it is one of them; return the lowest of them once there are `count`."""
    if value <= lowest and told[5 + 3 * (count - 1)] >= 0:
        return lowest
    place = count - 1
    while place > 0 and told[6 + 3 * (place - 1)] < value:
        told[5 + 3 * place], told[6 + 3 * place] = told[5 + 3 * (place - 1)], told[6 + 3 * (place - 1)]
        place -= 1
    told[5 + 3 * place], told[6 + 3 * place] = token, value
    return np.float32(told[6 + 3 * (count - 1)]) if told[5 + 3 * (count - 1)] >= 0 else lowest


@njit(nogil=True, error_model="numpy")
def _rank_in_head(values, heads, value):
    rank = 0
    for place in range(heads):
        rank += number(values, place) > value
    return rank
