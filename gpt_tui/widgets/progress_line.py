"""ProgressLine: how far a run is, how fast, and how long it will take. Given data, asks nothing."""

from rich.segment import Segment
from textual.strip import Strip
from textual.widget import Widget

_EIGHTHS = " ▏▎▍▌▋▊▉"


class ProgressLine(Widget):
    """A bar and its numbers in one line."""

    COMPONENT_CLASSES = {"progress--done", "progress--left"}
    DEFAULT_CSS = """
    ProgressLine {
        height: 1;
        color: $text-muted;
        &> .progress--done { color: $accent; }
        &> .progress--left { color: $panel-lighten-3; }
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self._fraction = 0.0
        self._numbers: list[str] = []

    def set_progress(
        self,
        fraction: float,
        tokens_per_second: float | None,
        learning_rate: float | None,
        grad_norm: float | None,
        eta_seconds: float | None,
    ) -> None:
        """Show a share from 0 to 1, and the numbers that are known."""
        numbers = [f"{100 * fraction:5.1f} %"]
        if tokens_per_second is not None:
            numbers.append(f"{tokens_per_second:,.0f} tok/s")
        if learning_rate is not None:
            numbers.append(f"lr {learning_rate:.1e}".replace("e-0", "e-"))
        if grad_norm is not None:
            numbers.append(f"|g| {grad_norm:.2f}")
        if eta_seconds is not None:
            numbers.append(f"{clock(eta_seconds)} left")
        self._fraction, self._numbers = min(max(fraction, 0.0), 1.0), numbers
        self.refresh()

    def render_line(self, y: int) -> Strip:
        base, width = self.rich_style, self.size.width
        numbers = list(self._numbers)
        while len(numbers) > 1 and len("   ".join(numbers)) > width - 14:
            # the speed of learning first, then the rest; the share and the time stay longest
            numbers.pop(-2 if len(numbers) > 2 else -1)
        text = "  " + "   ".join(numbers)
        room = max(width - len(text), 0)
        eighths = round(self._fraction * room * 8)
        full, part = divmod(eighths, 8)
        bar = "█" * full + (_EIGHTHS[part] if part else "")
        done, left = self.get_component_rich_style("progress--done"), self.get_component_rich_style("progress--left")
        return Strip([Segment(bar, done), Segment("─" * (room - len(bar)), left), Segment(text, base)])


def clock(seconds: float) -> str:
    """Return hours, minutes and seconds: `0:06:12`."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
