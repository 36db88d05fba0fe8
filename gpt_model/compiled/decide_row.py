"""The steps of a samplers.Plan, compiled: what is left of a row, where 64 tokens of its head are enough to know it.

What a step means is said by the stage that it comes from. Here is the same for the rows that most rows are; for others
the stages decide.
"""

import numpy as np
from numba import njit

from gpt_model.compiled.layout import DIVIDE, FEW_TOKENS, MASS, MOST, NEAR, PENALISE, UNKNOWN
from gpt_model.compiled.simd import number, put


@njit(nogil=True, error_model="numpy")
def decide_row(steps, count, tokens, penalised, ids, values, heads, lowest, log_total, marks, few):
    """Return how many tokens are left, best first, equals by id, in few (64, 2) float64; UNKNOWN where that is not.

    steps: (count, 2) float64: what is decided, and its number. tokens: int64, `penalised` of them.
    ids: int64 and values: float32, of the head, which ends at `lowest`; values are changed. log_total: ln Σ e^z.
    marks: float32 scratch, as long as the head.
    """
    alive, divisor, summed = UNKNOWN, 1.0, True
    top = _best(values, heads)  # before the division
    for place in range(count):
        kind, amount = int(steps[place, 0]), steps[place, 1]
        if kind == PENALISE:
            if place > 0:
                return UNKNOWN
            _penalise(tokens, penalised, np.float32(amount), ids, values, heads, marks)
            top, summed = _best(values, heads), penalised == 0
        elif kind == DIVIDE:
            if divisor != 1.0:
                return UNKNOWN
            divisor, summed = np.float64(np.float32(amount)), False
            for each in range(alive):
                few[each, 0] = np.float32(few[each, 0] / divisor)
        elif alive != UNKNOWN:
            alive = _cut(few, alive, kind, amount, top / divisor)
        else:
            found, dropped = _largest(ids, values, heads, divisor, few)
            if (kind == MASS and not summed) or (kind == MOST and found < amount):
                return UNKNOWN
            alive = (
                _nucleus(few, found, amount, log_total)
                if kind == MASS
                else _cut(few, found, kind, amount, top / divisor)
            )
            if alive == 0:
                return UNKNOWN
            # what stays must stand above all that nobody has looked at, or there may be more of it
            floor = _floor(few, amount, top / divisor) if kind == NEAR else few[alive - 1, 0]
            if floor <= max(dropped, np.float64(np.float32(lowest / divisor))):
                return UNKNOWN
    return alive


@njit(nogil=True, error_model="numpy")
def _best(values, heads):
    best = -np.inf
    for place in range(heads):
        best = max(best, np.float64(number(values, place)))
    return best


@njit(nogil=True, error_model="numpy")
def _penalise(tokens, count, penalty, ids, values, heads, marks):
    """Penalise the head's logits of these tokens, once for each."""
    for place in range(heads):
        put(marks, place, np.float32(0))
    for each in range(count):
        first, last = 0, heads
        while first < last:
            middle = (first + last) // 2
            if ids[middle] < tokens[each]:
                first = middle + 1
            else:
                last = middle
        if first < heads and ids[first] == tokens[each] and number(marks, first) == 0:
            put(marks, first, np.float32(1))
            value = number(values, first)
            put(values, first, min(value / penalty, value * penalty))


@njit(nogil=True, error_model="numpy")
def _largest(ids, values, heads, divisor, few):
    """Put the largest 64 of a head, divided, into few; return how many there are, and the largest of the others."""
    count, dropped = 0, -np.inf
    for place in range(heads):
        value = np.float64(np.float32(np.float64(number(values, place)) / divisor))
        if count == FEW_TOKENS:
            if value <= few[FEW_TOKENS - 1, 0]:
                dropped = max(dropped, value)
                continue
            dropped = max(dropped, few[FEW_TOKENS - 1, 0])
            count -= 1
        at = count
        while at > 0 and few[at - 1, 0] < value:
            few[at, 0], few[at, 1] = few[at - 1, 0], few[at - 1, 1]
            at -= 1
        few[at, 0], few[at, 1] = value, ids[place]
        count += 1
    return count, dropped


@njit(nogil=True, error_model="numpy")
def _cut(few, alive, kind, amount, top):
    """Return how many of the `alive` best stay by one step, equals of the last one with it."""
    if kind == MOST:
        left = min(alive, int(amount))
    elif kind == MASS:
        left = _mass(few, alive, amount)
    else:
        floor, left = _floor(few, amount, top), 1
        while left < alive and few[left, 0] >= floor:
            left += 1
    return _with_equals(few, left, alive)


@njit(nogil=True, error_model="numpy")
def _floor(few, distance, top):
    """Return what lies so far below the best; the best itself stays whatever that rounds to."""
    return min(np.float64(np.float32(top - distance)), few[0, 0])


@njit(nogil=True, error_model="numpy")
def _mass(few, alive, mass):
    """Return how many it takes to reach a share of what is left."""
    total = 0.0
    for place in range(alive):
        total += np.exp(few[place, 0] - few[0, 0])
    passed = 0.0
    for place in range(alive):
        passed += np.exp(few[place, 0] - few[0, 0])
        if passed >= mass * total:
            return place + 1
    return alive


@njit(nogil=True, error_model="numpy")
def _nucleus(few, found, mass, log_total):
    """Return how many it takes to reach a share of all; 0 where these do not."""
    passed = 0.0
    for place in range(found):
        passed += np.exp(few[place, 0] - log_total)
        if passed >= mass:
            return _with_equals(few, place + 1, found)
    return 0


@njit(nogil=True, error_model="numpy")
def _with_equals(few, left, alive):
    while left < alive and few[left, 0] == few[left - 1, 0]:
        left += 1
    return left
