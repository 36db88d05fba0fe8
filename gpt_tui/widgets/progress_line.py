"""ProgressLine: how far a run is, how fast, and how long it will take. Given data, asks nothing."""

import math

from rich.segment import Segment
from textual.strip import Strip
from textual.widget import Widget

GAP = "   "
BAR = 10
"""Cells that the bar keeps; numbers give way to it."""
_EIGHTHS = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")
_LEAST_FIRST = (3, 2, 1, 4)  # which of the numbers go where it is narrow; how far it is always stays


class ProgressLine(Widget):
    """A bar as wide as there is room, and numbers that keep their places."""

    COMPONENT_CLASSES = {"progress-line--done", "progress-line--open"}
    DEFAULT_CSS = """
    ProgressLine {
        height: 1;
        color: $text-muted;
        & > .progress-line--done { color: $accent; }
        & > .progress-line--open { color: $text-disabled; }
        &:ansi > .progress-line--open, &:nocolor > .progress-line--open { text-style: dim; }
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self._fraction = 0.0
        self._numbers = _numbers(0.0, None, None, None, None)

    def set_progress(
        self,
        fraction: float,
        tokens_per_second: float | None = None,
        learning_rate: float | None = None,
        grad_norm: float | None = None,
        eta_seconds: float | None = None,
    ) -> None:
        """Show a share from 0 to 1, and the numbers that are known; times are in seconds."""
        fraction = min(max(fraction, 0.0), 1.0)
        numbers = _numbers(fraction, tokens_per_second, learning_rate, grad_norm, eta_seconds)
        if (fraction, numbers) != (self._fraction, self._numbers):
            self._fraction, self._numbers = fraction, numbers
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """Return the line."""
        width = self.size.width
        numbers = list(self._numbers)
        for place in _LEAST_FIRST:
            if width - len(_joined(numbers)) < BAR:
                numbers[place] = ""
        text = _joined(numbers)
        cells = max(width - len(text), 0)
        eighths = math.floor(self._fraction * cells * 8)  # full means done
        done = "█" * (eighths // 8) + _EIGHTHS[eighths % 8]
        return Strip(
            [
                Segment(done, self.get_component_rich_style("progress-line--done")),
                Segment("─" * (cells - len(done)), self.get_component_rich_style("progress-line--open")),
                Segment(text, self.rich_style),
            ]
        ).adjust_cell_length(width, self.rich_style)


def _joined(numbers: list[str]) -> str:
    return "".join(f"{GAP}{number}" for number in numbers if number)


def _numbers(
    fraction: float, speed: float | None, rate: float | None, norm: float | None, eta: float | None
) -> list[str]:
    """Return each number in a width of its own, "" for one that is not known."""
    return [
        f"{100 * fraction:5.1f} %",
        "" if speed is None else f"{speed:>7,.{0 if speed >= 10 else 1}f} tok/s",
        "" if rate is None else f"lr {scientific(rate):>6}",
        "" if norm is None else f"|g| {norm:>5.{2 if norm < 100 else 0}f}",
        "" if eta is None or not math.isfinite(eta) else f"{clock(eta):>8} left",
    ]


def scientific(value: float) -> str:
    """Return a number such as 9.1e-4."""
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def clock(seconds: float) -> str:
    """Return hours, minutes and seconds, from two days on days and hours: `0:06:12`, `3d 04h`."""
    whole = max(round(seconds), 0)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours < 48 else f"{hours // 24}d {hours % 24:02}h"
