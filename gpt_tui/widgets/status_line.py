"""StatusLine: numbers of fixed width at the left, a word at the right; drops the last ones where there is no room."""

from collections.abc import Sequence

from rich.cells import cell_len
from rich.segment import Segment
from textual.strip import Strip
from textual.widget import Widget

GAP = "   "


class StatusLine(Widget):
    """One quiet line of segments, the most important first."""

    DEFAULT_CSS = """
    StatusLine { height: 1; padding: 0 1; color: $text-muted; background: $background; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._left: list[str] = []
        self._right: list[str] = []

    def set_segments(self, left: Sequence[str], right: Sequence[str] = ()) -> None:
        """Show these; a repaint happens only when something differs."""
        if (self._left, self._right) != (list(left), list(right)):
            self._left, self._right = list(left), list(right)
            self.refresh()

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        right = GAP.join(self._right)
        left = list(self._left)
        while left and cell_len(GAP.join(left)) + cell_len(right) + (len(GAP) if right else 0) > width:
            left.pop()
        text = GAP.join(left)
        gap = width - cell_len(text) - cell_len(right)
        return Strip([Segment(text + " " * max(gap, 0) + right, self.rich_style)]).adjust_cell_length(
            width, self.rich_style
        )
