"""The fewest tokens, best first, whose probabilities reach a mass together: by a threshold, hardly ever by a sort."""

import math
from typing import TYPE_CHECKING, Any

from samplers.rows import Rows, Threshold, on_cpu

if TYPE_CHECKING:
    from torch import Tensor

_FEW = 64
_REACHES = (4.0, 8.0, 14.0)
"""Nats below the best in which a nucleus is looked for before the whole row is sorted."""


def nucleus(rows: Rows, mass: float) -> Threshold:
    """Return the threshold on logits as they are now: the fewest most likely tokens that reach `mass`, with
    what ties with the last of them. A token stays while the mass before it is below `mass`.

    In float64: 50,000 float32 terms drift by more than the tail of a peaked row.
    """
    if rows.on_cpu:
        return [_threshold_of_row(rows, row, mass) for row in range(rows.shape[0])]
    # elsewhere the whole row is sorted: that is quick there, and asks for no number before the token's own
    ordered, _ = rows.dense.sort(dim=-1, descending=True)  # (B, V)
    probabilities = ordered.double().softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    kept = (before < mass).sum(dim=-1, keepdim=True).clamp(min=1)  # (B, 1)
    return ordered.gather(-1, kept - 1)


def fewest(scores: "Tensor", probabilities: "Tensor", mass: float) -> "Tensor":
    """Return the threshold (B, 1) on any scores (B, V) at which the best-scored tokens reach `mass` together."""
    if on_cpu(scores):
        pairs = zip(scores.numpy(), probabilities.numpy(), strict=True)
        return scores.new_tensor([_score_threshold(values, weights, mass) for values, weights in pairs])[:, None]
    ordered, order = scores.sort(dim=-1, descending=True)  # (B, V)
    masses = probabilities.double().gather(-1, order).cumsum(dim=-1)
    before = (masses < mass * masses[:, -1:]).sum(dim=-1, keepdim=True)  # (B, 1)
    return ordered.gather(-1, before.clamp(max=ordered.shape[-1] - 1))


def _score_threshold(scores: Any, weights: Any, mass: float) -> float:
    """Return one row's threshold on scores (n,), each with its weight (n,)."""
    import numpy as np

    goal = mass * weights.sum(dtype=np.float64)
    if len(scores) > 1000:
        best = scores.max()
        for reach in _REACHES:
            near = (scores >= best - np.float32(reach)).nonzero()[0]
            if len(near) * 4 > len(scores):
                break
            if weights[near].sum(dtype=np.float64) > goal * (1 + 1e-9):
                scores, weights = scores[near], weights[near]
                break
    order = np.argsort(-scores)
    masses = weights[order].cumsum(dtype=np.float64)
    return float(scores[order[min(int(masses.searchsorted(goal, side="left")), len(order) - 1)]])


def _threshold_of_row(rows: Rows, row: int, mass: float) -> float:
    moments = rows.moments(row)
    if moments is None:
        return _threshold(rows.alive(row), mass)
    import numpy as np

    # what the row sums up to is known: its head is enough, if so much mass is in it
    values = rows.head(row).values
    for reach in (_REACHES[0], math.inf):
        near = values[(values >= rows.raw_tops[row] - reach).nonzero()[0]]
        near.sort()
        ordered = near[::-1]
        masses = np.exp(ordered - np.float64(moments.log_total)).cumsum()
        if len(masses) and masses[-1] > mass * (1 + 1e-9):
            return float(ordered[int(masses.searchsorted(mass, side="left"))])
    return _threshold(rows.alive(row), mass)


def _threshold(values: Any, mass: float) -> float:
    """Return one row's threshold; values (n,) of any order, of which those at -inf weigh nothing."""
    if len(values) <= _FEW:
        return _threshold_of_few(values.tolist(), mass)
    import numpy as np  # here, for this storey is imported where nothing is computed

    best = values.max()
    if len(values) > 1000:
        weights = np.exp(values - best)  # float32: summed up in float64, its errors cancel
        goal = mass * weights.sum(dtype=np.float64)
        for reach in _REACHES:
            near = values[(values >= best - np.float32(reach)).nonzero()[0]]
            if len(near) * 4 > len(values):
                break
            if np.exp(near - best).sum(dtype=np.float64) > goal * (1 + 1e-9):
                values = near
                break
    else:
        goal = None
    ordered = np.sort(values)[::-1]
    masses = np.exp((ordered - best).astype(np.float64)).cumsum()
    if goal is None:
        goal = mass * masses[-1]
    # the mass before token i is masses[i - 1]; it stays while that is below the goal
    return float(ordered[min(int(masses.searchsorted(goal, side="left")), len(ordered) - 1)])


def _threshold_of_few(values: list[float], mass: float) -> float:
    """The same, in Python: numpy needs as long to be called as these take."""
    values.sort(reverse=True)
    best = values[0]
    weights = [math.exp(value - best) for value in values]
    total = passed = 0.0
    for weight in weights:  # one after another, as the compiled draw adds them
        total += weight
    goal = mass * total
    for value, weight in zip(values, weights, strict=True):
        passed += weight
        if passed >= goal:
            return value
    return values[-1]
