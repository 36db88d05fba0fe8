"""Curves as cells of a terminal: scales, envelopes, braille. Pure numpy, to be imported only when a curve is drawn.

A dot column shows all values that the curve takes within it, from least to greatest: spikes survive any zoom, and after
one pass over the points the cost depends on the chart's size alone. A cell has one colour, so of several curves in a
cell only the uppermost is drawn there.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Curve = tuple[Floats, Floats]
"""Steps, ascending, and values; values may be NaN."""

_BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])  # of a cell's 4 x 2 dots
_ENDS = (1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
_TICKS = (1, 2, 2.5, 5, 10)
LABEL = 6
"""Cells that a value's label has at least."""
LATE = 100
"""Curves that begin after this step, and late for their length, are not drawn from step 0."""
ROBUST_FROM = 200
"""So many raw values before their extremes stop deciding the scale."""


@dataclass(frozen=True)
class Chart:
    """A drawn chart: H rows of W cells, and what its axes say."""

    codes: NDArray[np.int_]
    """(H, W) braille bits; 0 is an empty cell."""
    owners: NDArray[np.int_]
    """(H, W) which curve a cell belongs to; -1 for none."""
    labels: list[str]
    """H texts of one width: a value at some rows, spaces at the others."""
    broken: list[int]
    """Columns in which a value is not finite."""
    marks: dict[str, list[int]]
    """Columns of the marked steps."""
    ticks: list[tuple[int, str]]
    """Columns and texts of the step axis."""


def draw(
    curves: Sequence[Curve], marks: Mapping[str, Sequence[float]], width: int, height: int, log: bool
) -> Chart | None:
    """Draw curves, the first lowest; its extremes may be cut off, the others' never. None without any finite value.

    Args:
        curves: steps and values of each.
        marks: steps to be marked, by what is to be seen there.
        width, height: cells of the plot with its labels; one column between them is the axis.
        log: a logarithmic scale; values that are not positive are then left out.
    """
    curves = [_sorted(*curve) for curve in curves]
    finite = [_finite(steps, values, log) for steps, values in curves]
    if not any(len(steps) for steps, _ in finite):
        return None
    low, high = _limits([values for _, values in finite])
    labels = _value_labels(low, high, height, log)
    width -= len(labels[0]) + 1
    first = min(float(steps[0]) for steps, _ in curves if len(steps))
    last = max(float(steps[-1]) for steps, _ in curves if len(steps))
    start = first if first > max(last / 5, LATE) else 0.0
    end = max(_rounded_up(last, _ENDS), start + 1)

    def place(steps: ArrayLike) -> Floats:
        """Return where steps are, in dots from the left edge."""
        return (np.asarray(steps, dtype=float) - start) / (end - start) * (2 * width - 1)

    def columns(dots: Floats) -> list[int]:
        """Return the columns of dots that are to be seen, each once."""
        return sorted({int(dot) // 2 for dot in dots if 0 <= dot < 2 * width})

    codes, owners = np.zeros((height, width), dtype=int), np.full((height, width), -1)
    for number, (steps, values) in enumerate(finite):
        if len(steps):
            rows = np.clip((high - values) / (high - low), 0, 1) * (4 * height - 1)
            bits = _braille(*_envelope(place(steps), rows, 2 * width), height)
            codes[bits > 0], owners[bits > 0] = bits[bits > 0], number
    broken = np.concatenate([place(steps[~np.isfinite(values)]) for steps, values in curves])
    return Chart(
        codes,
        owners,
        labels,
        sorted({int(dot) // 2 for dot in broken}),
        {name: columns(place(steps)) for name, steps in marks.items()},
        _step_ticks(start, end, width),
    )


def _sorted(steps: ArrayLike, values: ArrayLike) -> Curve:
    x, y = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    if np.any(x[1:] < x[:-1]):
        order = np.argsort(x, kind="stable")
        x, y = x[order], y[order]
    return x, y


def _finite(steps: Floats, values: Floats, log: bool) -> Curve:
    kept = np.isfinite(values) & (values > 0) if log else np.isfinite(values)
    if not kept.all():
        steps, values = steps[kept], values[kept]
    return steps, np.log10(values) if log else values


def _limits(values: list[Floats]) -> tuple[float, float]:
    """Return the ends of the scale, rounded outwards so that it stays while a curve grows."""
    ends = []
    for number, each in enumerate(values):
        if len(each):
            robust = number == 0 and len(each) >= ROBUST_FROM
            ends.append(np.quantile(each, [0.005, 0.995]) if robust else (each.min(), each.max()))
    low, high = min(float(pair[0]) for pair in ends), max(float(pair[1]) for pair in ends)
    span = max(high - low, 1e-9, abs(high) * 0.02)
    unit = 10.0 ** math.floor(math.log10(span / 8))
    low, high = math.floor(low / unit - 0.2) * unit, math.ceil(high / unit + 0.2) * unit
    return low, high


def _rounded_up(value: float, ladder: Sequence[float]) -> float:
    """Return the next of the ladder's numbers in any decade."""
    if value <= 0:
        return 0.0
    decade = 10.0 ** math.floor(math.log10(value))
    return next(step * decade for step in ladder if step * decade >= value * (1 - 1e-12))


def _envelope(x: Floats, y: Floats, columns: int) -> tuple[Floats, Floats]:
    """Return the least and greatest y of the polyline in each column [c, c + 1); NaN where it does not pass."""
    edges = np.arange(columns + 1)
    at_edges = np.interp(edges, x, y, left=np.nan, right=np.nan)
    least, greatest = np.fmin(at_edges[:-1], at_edges[1:]), np.fmax(at_edges[:-1], at_edges[1:])
    cuts = np.searchsorted(x, edges)
    filled = cuts[1:] > cuts[:-1]
    starts = cuts[:-1][filled]
    least[filled] = np.fmin(least[filled], np.minimum.reduceat(y, starts))
    greatest[filled] = np.fmax(greatest[filled], np.maximum.reduceat(y, starts))
    return least, greatest


def _braille(top: Floats, bottom: Floats, height: int) -> NDArray[np.int_]:
    """Return the braille bits (H, W) of dots filled from row `top` to row `bottom` in each of 2 W columns."""
    row = np.arange(4 * height)[:, None]
    with np.errstate(invalid="ignore"):  # comparisons with NaN are false: no dot
        dots = (row >= np.floor(top)) & (row <= np.floor(bottom))  # (4 H, 2 W)
    cells = dots.reshape(height, 4, -1, 2)
    return np.asarray((cells * _BITS[None, :, None, :]).sum(axis=(1, 3)))


def _value_labels(low: float, high: float, height: int, log: bool) -> list[str]:
    count = min(max((height + 2) // 3, 2), 7, height)
    rows = sorted({round(place * (height - 1) / max(count - 1, 1)) for place in range(count)})
    values = [high - (high - low) * (row + 0.5) / height for row in rows]
    values = [10**value for value in values] if log else values
    apart = min((abs(a - b) for a, b in pairwise(values)), default=abs(values[0]))
    decimals = min(max(1 - math.floor(math.log10(apart)), 0), 6) if apart > 0 else 2
    texts = [f"{value:,.{decimals}f}" for value in values]
    wide = max(LABEL, *map(len, texts))
    labels = dict(zip(rows, texts, strict=True))
    return [labels.get(row, "").rjust(wide) for row in range(height)]


def _step_ticks(start: float, end: float, width: int) -> list[tuple[int, str]]:
    """Return round steps at most one in fourteen columns, each with its column."""
    room = max(width // 14, 1)
    tick = max(_rounded_up((end - start) / room, _TICKS), 1.0)
    first = math.ceil(start / tick)
    steps = [number * tick for number in range(first, math.floor(end / tick + 1e-9) + 1)]
    return [(int((step - start) / (end - start) * (width - 1)), f"{step:,.0f}") for step in steps]
