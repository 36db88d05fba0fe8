"""CurveView: the curves of a run's losses. Raw under smoothed under validation, NaN marked, log or linear.

It knows no run: it is given steps and values, and draws again only when they changed, twice a second at most.
"""

import time
from array import array
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from textwrap import wrap
from typing import TYPE_CHECKING, ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.geometry import Region
from textual.strip import Strip
from textual.timer import Timer
from textual.widget import Widget

if TYPE_CHECKING:
    from gpt_tui.widgets.loss_chart import Chart

Series = tuple[Sequence[float], Sequence[float]]
"""Steps, ascending, and the values there."""

CURVES = ("train", "smoothed", "val")
EMPTY = "The loss will stand here: every step dim, smoothed over it, the validation loss on top."
INTERVAL = 0.5
"""Seconds between two drawings."""
LEAST = (24, 5)
"""Cells below which nothing can be read off a curve."""

SIGNS = {"checkpoint": ("▲", "mark"), "edit": ("◆", "mark"), "spike": ("!", "alarm")}
"""What marks look like, and their styles."""


class CurveView(Widget, can_focus=True):
    """Three curves over steps, and marks where something happened."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("l", "toggle_log", "Log scale", show=False),
        Binding("0", "reset", "Reset the scale", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {f"curve-view--{name}" for name in (*CURVES, "axis", "mark", "alarm")}
    DEFAULT_CSS = """
    CurveView {
        & > .curve-view--train { color: $text-disabled; }
        & > .curve-view--smoothed { color: $accent; }
        & > .curve-view--val { color: $foreground; text-style: bold; }
        & > .curve-view--axis { color: $text-muted; }
        & > .curve-view--mark { color: $text-muted; }
        & > .curve-view--alarm { color: $text-warning; text-style: bold; }
        &:ansi > .curve-view--train, &:nocolor > .curve-view--train { text-style: dim; }
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self._curves = [(array("d"), array("d")) for _ in CURVES]
        self._marks: dict[str, list[int]] = {}
        self._logarithmic = True
        self._strips: list[Strip] = []
        self._drawn_at = 0.0
        self._timer: Timer | None = None

    @property
    def logarithmic(self) -> bool:
        """Whether the scale is logarithmic."""
        return self._logarithmic

    def set_series(self, raw: Series, smoothed: Series = ((), ()), val: Series = ((), ())) -> None:
        """Show these: the training loss of every step, the same smoothed, the validation loss."""
        curves = [(array("d", steps), array("d", values)) for steps, values in (raw, smoothed, val)]
        if _bytes(curves) != _bytes(self._curves):
            self._curves = curves
            self._changed()

    def extend(self, raw: Series = ((), ()), smoothed: Series = ((), ()), val: Series = ((), ())) -> None:
        """Show more points after those that are shown."""
        for (steps, values), (more_steps, more_values) in zip(self._curves, (raw, smoothed, val), strict=True):
            steps.extend(more_steps)
            values.extend(more_values)
        if any(len(steps) for steps, _ in (raw, smoothed, val)):
            self._changed()

    def set_marks(self, **steps: Sequence[int]) -> None:
        """Mark steps by what happened there: checkpoint, edit or spike."""
        marks = {name: list(some) for name, some in steps.items()}
        if marks != self._marks:
            self._marks = marks
            self._changed()

    def toggle_log(self) -> None:
        """Switch between a logarithmic and a linear scale."""
        self._logarithmic = not self._logarithmic
        self._draw()

    def action_toggle_log(self) -> None:
        """Switch between a logarithmic and a linear scale."""
        self.toggle_log()

    def action_reset(self) -> None:
        """Go back to the logarithmic scale."""
        self._logarithmic = True
        self._draw()

    def _changed(self) -> None:
        wait = self._drawn_at + INTERVAL - time.monotonic()
        if self._timer is None and self.is_mounted:  # what comes within a frame is drawn together
            self._timer = self.set_timer(max(wait, 1 / 60), self._draw)

    def on_resize(self) -> None:
        self._draw()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        if self.is_mounted and self._strips:
            self.call_later(self._draw)

    # --- drawing

    def _draw(self) -> None:
        """Draw anew, and send the lines that are not what they were."""
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        if not self.size:
            return
        before, self._strips = self._strips, self._chart_strips(*self.size)
        self._drawn_at = time.monotonic()
        if len(before) != len(self._strips):
            self.refresh()
            return
        for y, (old, new) in enumerate(zip(before, self._strips, strict=True)):
            if old != new:
                self.refresh(Region(0, y, self.size.width, 1))

    def render_line(self, y: int) -> Strip:
        """Return a line of the chart."""
        strip = self._strips[y] if y < len(self._strips) else Strip([])
        return strip.adjust_cell_length(self.size.width, self.rich_style)

    def _chart_strips(self, width: int, height: int) -> list[Strip]:
        if width < LEAST[0] or height < LEAST[1] or not any(steps for steps, _ in self._curves):
            return self._note(EMPTY, width)
        import numpy as np  # neither the app's first frame nor a page without a run is to wait for it

        from gpt_tui.widgets.loss_chart import draw

        curves = [(np.asarray(steps), np.asarray(values)) for steps, values in self._curves]
        chart = draw(curves, self._marks, width, height - 3, self._logarithmic)
        if chart is None:
            return self._note("None of the values so far can be drawn: they are not finite.", width)
        rows = [
            Strip(
                [Segment(f"{label}{'┤' if label.strip() else '│'}", self._style("axis")), *self._cells(codes, owners)]
            )
            for label, codes, owners in zip(chart.labels, chart.codes.tolist(), chart.owners.tolist(), strict=True)
        ]
        return [self._legend(chart, width), *rows, self._axis(chart), self._steps(chart, width)]

    def _note(self, text: str, width: int) -> list[Strip]:
        return [Strip([Segment(line, self._style("axis"))]) for line in wrap(text, max(width, 8))]

    def _cells(self, codes: list[int], owners: list[int]) -> Iterator[Segment]:
        for owner, cells in groupby(zip(owners, codes, strict=True), key=itemgetter(0)):
            text = "".join(chr(0x2800 + code) if code else " " for _, code in cells)
            yield Segment(text, self._style(CURVES[owner]) if owner >= 0 else self.rich_style)

    def _legend(self, chart: "Chart", width: int) -> Strip:
        base = self.rich_style
        names = [name for name, (steps, _) in zip(CURVES, self._curves, strict=True) if steps]
        parts = [(f"⠒⠒ {name}", self._style(name)) for name in names]
        parts += [(f"{SIGNS[name][0]} {name}", self._style(SIGNS[name][1])) for name, at in chart.marks.items() if at]
        parts += [("✗ not finite", self._style("alarm"))] if chart.broken else []
        title = f"loss, {'log' if self._logarithmic else 'linear'}"
        while parts and len(title) + sum(len(text) + 2 for text, _ in parts) > width:
            parts.pop(0)
        gap = width - len(title) - sum(len(text) + 2 for text, _ in parts)
        segments = [Segment(title, self._style("axis")), Segment(" " * gap, base)]
        for text, style in parts:
            segments += [Segment("  ", base), Segment(text, style)]
        return Strip(segments)

    def _axis(self, chart: "Chart") -> Strip:
        axis = self._style("axis")
        signs = {column: ("┬", axis) for column, _ in chart.ticks}
        for name, columns in chart.marks.items():  # the later the more worth seeing
            sign, style = SIGNS[name]
            signs |= {column: (sign, self._style(style)) for column in columns}
        signs |= {column: ("✗", self._style("alarm")) for column in chart.broken}
        segments = [Segment(" " * len(chart.labels[0]) + "└", axis)]
        segments += [Segment(*signs.get(column, ("─", axis))) for column in range(chart.codes.shape[1])]
        return Strip(segments).simplify()

    def _steps(self, chart: "Chart", width: int) -> Strip:
        line = ""
        for column, text in chart.ticks:
            start = len(chart.labels[0]) + 1 + column - (len(text) // 2 if column else 0)
            start = min(start, width - len(text))
            if start > len(line) or not line:
                line = line.ljust(start) + text
        line += " steps" if len(line) + 6 <= width else ""
        return Strip([Segment(line, self._style("axis"))])

    def _style(self, name: str) -> Style:
        return self.get_component_rich_style(f"curve-view--{name}")


def _bytes(curves: "list[tuple[array[float], array[float]]]") -> list[bytes]:
    """Return what two sets of curves are compared by: a NaN is not equal to itself."""
    return [part.tobytes() for curve in curves for part in curve]
