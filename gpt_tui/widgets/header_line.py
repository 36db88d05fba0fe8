"""HeaderLine: the first line of every page. Where one is, what is loaded, how it does. Given data, asks nothing."""

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

PAGES = ("Complete", "Train", "Runs")


class HeaderLine(Widget):
    """One line: the program, its pages with the current one marked, and the state at the right."""

    COMPONENT_CLASSES = {"header--page", "header--current", "header--state", "header--live", "header--alarm"}
    DEFAULT_CSS = """
    HeaderLine {
        height: 1;
        dock: top;
        background: $panel;
        color: $text-muted;
        &> .header--page { color: $text-muted; }
        &> .header--current { color: $accent; text-style: bold; }
        &> .header--state { color: $text-muted; }
        &> .header--live { color: $success; }
        &> .header--alarm { color: $warning; text-style: bold; }
    }
    """

    left: reactive[str] = reactive("")
    """What is loaded or shown, such as the checkpoint's name."""
    state: reactive[str] = reactive("")
    """How it does, in a word or two."""
    mood: reactive[str] = reactive("state")
    """state (quiet), live or alarm."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self._page = page

    def render_line(self, y: int) -> Strip:
        base = self.rich_style
        style = {
            name: self.get_component_rich_style(f"header--{name}") for name in ("page", "current", "state", self.mood)
        }
        segments = [Segment(" ", base)]
        for number, page in enumerate(PAGES, start=1):
            key = f"F{number + 1} " if self.size.width >= 70 else ""
            current = page == self._page
            segments.append(Segment(f"{key}{page}", style["current" if current else "page"]))
            segments.append(Segment("  ", base))
        used = sum(cell_len(segment.text) for segment in segments)
        dot = "● " if self.mood == "live" else "▲ " if self.mood == "alarm" else "○ "
        state = f"{dot}{self.state} " if self.state else ""
        room = self.size.width - used - cell_len(state) - 2
        label = set_cell_size(self.left, min(cell_len(self.left), max(room, 0)))
        gap = self.size.width - used - cell_len(label) - cell_len(state) - (2 if state else 0)
        segments += [
            Segment(" " * max(gap, 0), base),
            Segment(label, style["state"]),
            Segment("  " if state else "", base),
        ]
        segments.append(Segment(state, style[self.mood]))
        return Strip(segments).adjust_cell_length(self.size.width, base)
