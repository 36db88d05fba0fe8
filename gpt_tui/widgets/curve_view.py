"""CurveView: loss curves in braille, honest ones. Raw under smoothed under validation, NaN marked, log or linear.

A column shows the least and the greatest value that fall into it, so spikes survive any zoom, and a redraw costs the
same for a thousand points and for a million. Knows no run: it is given steps and values.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from rich.segment import Segment
from textual.strip import Strip
from textual.widget import Widget

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Rows = NDArray[np.int_]

Points = tuple[Sequence[float], Sequence[float]]
"""Steps and values."""

AXIS = 7
"""Cells of the y axis."""
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Braille bits by column and row of a cell."""
_NAMES = ("raw", "smooth", "val")
EMPTY = "curves will stand here: the loss of every step, smoothed, and on the validation text"


class CurveView(Widget):
    """Three curves over steps, and marks where checkpoints were saved."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"curve--{name}" for name in (*_NAMES, "axis", "mark", "alarm")}
    DEFAULT_CSS = """
    CurveView {
        &> .curve--raw { color: $text-muted 60%; }
        &> .curve--smooth { color: $accent; }
        &> .curve--val { color: $foreground; text-style: bold; }
        &> .curve--axis { color: $text-muted; }
        &> .curve--mark { color: $text-muted; }
        &> .curve--alarm { color: $error; text-style: bold; }
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self._series: list[Points] = [([], []), ([], []), ([], [])]
        self._marks: Sequence[int] = ()
        self._log = True
        self._logarithmic = True  # what is wished, where no value forbids it
        self._rows: list[Strip] | None = None

    def set_series(self, raw: Points, smooth: Points, val: Points) -> None:
        """Show these; the raw training loss, the smoothed one, and the validation loss."""
        if [raw, smooth, val] != self._series:
            self._series = [raw, smooth, val]
            self._redraw()

    def set_marks(self, steps: Sequence[int]) -> None:
        """Mark these steps, at which checkpoints were saved."""
        if list(steps) != list(self._marks):
            self._marks = list(steps)
            self._redraw()

    def toggle_log(self) -> None:
        """Switch between a logarithmic and a linear scale."""
        self._log = not self._log
        self._redraw()

    def on_resize(self) -> None:
        self._redraw()

    def _redraw(self) -> None:
        self._rows = None
        self.refresh()

    def render_line(self, y: int) -> Strip:
        if self._rows is None:
            self._rows = self._draw(self.size.width, self.size.height)
        return self._rows[y] if y < len(self._rows) else Strip.blank(self.size.width, self.rich_style)

    # --- drawing

    def _draw(self, width: int, height: int) -> list[Strip]:
        import numpy as np  # 0.15 s, which the app's first frame must not pay

        columns, lines = width - AXIS, height - 2
        series = [tuple(np.asarray(part, dtype=np.float64) for part in points) for points in self._series]
        known = [values[np.isfinite(values)] for _, values in series]
        if columns < 8 or lines < 2 or not any(len(values) for values in known):
            return [Strip([Segment(EMPTY[:width], self.get_component_rich_style("curve--axis"))])] if height > 0 else []
        last = max(float(steps[-1]) for steps, _ in series if len(steps))
        self._logarithmic = self._log and all(bool((values > 0).all()) for values in known)
        low, high = self._limits(known)
        owner = np.full((lines, columns), -1)
        bits = np.zeros((lines, columns), dtype=np.int32)
        broken = np.zeros(columns, dtype=bool)
        for number, (steps, values) in enumerate(series):
            if not len(steps):
                continue
            place = np.minimum((steps / max(last, 1) * (columns * 2 - 1)).astype(int), columns * 2 - 1)
            finite = np.isfinite(values)
            broken[place[~finite] // 2] = True
            self._plot(number, place[finite], self._scaled(values[finite], low, high, lines * 4), bits, owner)
        styles = [self.get_component_rich_style(f"curve--{name}") for name in _NAMES]
        rows = []
        for line in range(lines):
            segments = [Segment(self._label(line, lines, low, high), self.get_component_rich_style("curve--axis"))]
            for number, text in _runs(owner[line], bits[line]):
                segments.append(Segment(text, styles[number] if number >= 0 else self.rich_style))
            rows.append(Strip(segments))
        rows.append(self._mark_line(columns, last, broken))
        rows.append(self._step_line(columns, last))
        return rows

    def _limits(self, known: "list[Floats]") -> tuple[float, float]:
        """Return the least and greatest value shown: raw without its ends, the other two whole."""
        import numpy as np

        ends = [np.percentile(values, [0.5, 99.5]) for values in known[:1] if len(values)]
        ends += [np.array([values.min(), values.max()]) for values in known[1:] if len(values)]
        low, high = min(float(each[0]) for each in ends), max(float(each[1]) for each in ends)
        if self._logarithmic:
            low, high = math.log(low), math.log(high)
        margin = (high - low) * 0.04 or 0.05
        return low - margin, high + margin

    def _scaled(self, values: "Floats", low: float, high: float, dots: int) -> "Rows":
        import numpy as np

        if self._logarithmic:
            values = np.log(np.maximum(values, 1e-12))
        rows = (high - values) / (high - low) * (dots - 1)
        return np.clip(np.round(rows), 0, dots - 1).astype(int)

    @staticmethod
    def _plot(number: int, place: "Rows", row: "Rows", bits: "NDArray[np.int32]", owner: "Rows") -> None:
        """Draw one curve: in each dot column from its least to its greatest value, joined with the column before."""
        import numpy as np

        if not len(place):
            return
        columns, starts = np.unique(place, return_index=True)
        top, bottom = np.minimum.reduceat(row, starts), np.maximum.reduceat(row, starts)
        first, last = row[starts], row[np.append(starts[1:], len(row)) - 1]
        for index in range(len(columns)):
            reach = (top[index], bottom[index])
            if index and number:  # lines are joined; raw values stand for themselves
                before = last[index - 1]
                reach = (min(reach[0], before), max(reach[1], before))
                gap = range(columns[index - 1] + 1, columns[index])
                for step, column in enumerate(gap, start=1):
                    between = round(before + (first[index] - before) * step / (len(gap) + 1))
                    _dot(number, column, between, bits, owner)
                if gap:
                    reach = (top[index], bottom[index])
            for dot in range(reach[0], reach[1] + 1):
                _dot(number, columns[index], dot, bits, owner)

    def _label(self, line: int, lines: int, low: float, high: float) -> str:
        if line not in {round(tick * (lines - 1) / 4) for tick in range(5)} and lines > 5:
            return " " * (AXIS - 1) + "│"
        value = high - (high - low) * (line + 0.5) / lines
        value = math.exp(value) if self._logarithmic else value
        return f"{value:{AXIS - 1}.3f}"[: AXIS - 1] + "┤"

    def _mark_line(self, columns: int, last: float, broken: "NDArray[np.bool_]") -> Strip:
        marks = {min(int(step / max(last, 1) * (columns - 1)), columns - 1) for step in self._marks}
        axis = self.get_component_rich_style("curve--axis")
        segments = [Segment(" " * (AXIS - 1) + "└", axis)]
        for column in range(columns):
            if broken[column]:
                segments.append(Segment("✗", self.get_component_rich_style("curve--alarm")))
            elif column in marks:
                segments.append(Segment("▲", self.get_component_rich_style("curve--mark")))
            else:
                segments.append(Segment("─", axis))
        return Strip(segments).simplify()

    def _step_line(self, columns: int, last: float) -> Strip:
        axis = self.get_component_rich_style("curve--axis")
        end = f"{last:,.0f}"
        legend = [("·· train ", "raw"), ("━━ smoothed ", "smooth"), ("━━ val ", "val"), ("▲ checkpoint", "mark")]
        room = columns - len(end) - 4
        kept: list[tuple[str, str]] = []
        for text, name in legend:
            if sum(len(each) for each, _ in kept) + len(text) <= room:
                kept.append((text, name))
        used = sum(len(text) for text, _ in kept)
        scale = "log" if self._logarithmic else "lin"
        segments = [Segment(f"{scale:>{AXIS - 1}} 0  ", axis)]
        segments += [Segment(text, self.get_component_rich_style(f"curve--{name}")) for text, name in kept]
        segments.append(Segment(" " * max(columns - 3 - used - len(end), 0) + end, axis))
        return Strip(segments).adjust_cell_length(self.size.width, axis)


def _dot(number: int, column: int, dot: int, bits: "NDArray[np.int32]", owner: "NDArray[np.int_]") -> None:
    """Set a dot; a cell has one colour, so the curve that is drawn later takes the cell over."""
    line, cell = dot // 4, column // 2
    if owner[line, cell] != number:
        owner[line, cell], bits[line, cell] = number, 0
    bits[line, cell] |= _DOTS[column % 2][dot % 4]


def _runs(owners: "NDArray[np.int_]", bits: "NDArray[np.int32]") -> list[tuple[int, str]]:
    """Return a line as runs of one owner each."""
    runs: list[tuple[int, str]] = []
    for owner, dots in zip(owners.tolist(), bits.tolist(), strict=True):
        text = chr(0x2800 + dots) if dots else " "
        if runs and runs[-1][0] == owner:
            runs[-1] = (owner, runs[-1][1] + text)
        else:
            runs.append((owner, text))
    return runs
