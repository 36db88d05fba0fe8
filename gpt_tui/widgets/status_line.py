"""StatusLine: numbers that keep their places at the left, words at the right. Given data, asks nothing."""

from collections.abc import Sequence

from rich.cells import cell_len
from rich.segment import Segment
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

GAP = "   "


class StatusLine(Widget):
    """One quiet line. A segment is as wide as it ever was, so that nothing jumps; what does not fit is left out."""

    DEFAULT_CSS = """
    StatusLine { height: 1; padding: 0 1; color: $text-muted; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._left: list[str] = []
        self._right: list[str] = []
        self._widths: list[int] = []
        self._shown = ""

    def set_segments(self, left: Sequence[str], right: Sequence[str] = ()) -> None:
        """Show these, at each side the most important first. Where it is narrow, the last of the right go first."""
        if len(left) != len(self._widths):
            self._widths = [0] * len(left)
        self._widths = [max(wide, cell_len(text)) for wide, text in zip(self._widths, left, strict=True)]
        self._left, self._right = list(left), list(right)
        before, now = self._shown, self._line(self.size.width)
        if now != before:
            last = max((at for at, (a, b) in enumerate(zip(before, now, strict=False)) if a != b), default=-1)
            whole = len(before) != len(now) or cell_len(now) != len(now)
            self.refresh(*[] if whole else [Region(0, 0, last + 1, 1)])

    def render_line(self, y: int) -> Strip:
        """Return the line."""
        width, style = self.size.width, self.rich_style
        self._shown = self._line(width) if y == 0 else ""
        return Strip([Segment(self._shown, style)]).adjust_cell_length(width, style)

    def _line(self, width: int) -> str:
        left = [text + " " * (wide - cell_len(text)) for text, wide in zip(self._left, self._widths, strict=True)]
        right = list(self._right)
        while len(left) + len(right) > 1 and cell_len(GAP.join([*left, *right])) > width:
            (right or left).pop()
        end = GAP.join(right)
        start = GAP.join(left)
        return start + " " * (width - cell_len(start) - cell_len(end)) + end
