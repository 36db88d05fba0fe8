"""TokenView: prompt and completion as they stream. Exact text, never markup; O(tail) a token; quiet when idle.

A widget of its own because the stock ones lose spaces and newlines (Markdown) or repaint kilobytes a token.
"""

import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log, log2
from typing import ClassVar, Literal

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import Resize
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from gpt_model.token_record import Token
from gpt_tui.widgets.text_layout import TextLayout


@dataclass(frozen=True)
class Span:
    """A stretch of text on screen."""

    text: str
    kind: Literal["prompt", "model", "mark"]
    token: Token | None = None


BUCKETS = 6
_HEATS: dict[str, tuple[Callable[[Token], float], tuple[float, ...]]] = {
    # the value of a token, and where the buckets end, from cold to hot
    "probability": (lambda token: -token.p_model, (-0.8, -0.5, -0.2, -0.05, -0.01)),
    "surprisal": (lambda token: -log2(max(token.p_model, 1e-30)), (0.3, 1.0, 2.5, 5.0, 8.0)),
    "entropy": (lambda token: token.entropy / log(2), (0.5, 1.0, 2.0, 3.5, 5.0)),
    "rank": (lambda token: token.rank, (0, 2, 5, 15, 50)),
}


class TokenView(ScrollView, can_focus=True):
    """The document. Follows its end while the reader is there; a cursor walks over the model's tokens."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "token--prompt", "token--model", "token--mark", "token--cursor",
        *(f"token--heat-{bucket}" for bucket in range(BUCKETS)),
    }  # fmt: skip
    DEFAULT_CSS = """
    TokenView {
        overflow-x: hidden;
        overflow-y: auto;
        scrollbar-gutter: stable;
        scrollbar-size-vertical: 1;
        background: $background;
        &> .token--prompt { color: $text-accent; text-style: bold; }
        &> .token--model { color: $foreground; }
        &> .token--mark { color: $text-muted; text-style: dim; }
        &> .token--cursor { text-style: reverse; }
        &> .token--heat-0 { background: $background; }
        &> .token--heat-1 { background: $accent 12%; }
        &> .token--heat-2 { background: $accent 28%; }
        &> .token--heat-3 { background: $warning 28%; }
        &> .token--heat-4 { background: $warning 50%; }
        &> .token--heat-5 { background: $error 65%; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "cursor(-1)", "Token before", show=False),
        Binding("right", "cursor(1)", "Token after", show=False),
        Binding("home", "cursor_to(0)", "First token", show=False),
        Binding("end", "cursor_to(-1)", "Last token, and follow", show=False),
    ]

    heat: reactive[str] = reactive("off")
    """What colours the tokens: off, probability, surprisal, entropy or rank."""
    cursor: reactive[int | None] = reactive(None)
    """Which of the spans with a token is under the cursor."""

    @dataclass
    class TokenHighlighted(Message):
        """The cursor came to a token."""

        token: Token

    def __init__(self) -> None:
        super().__init__()
        self._spans: list[Span] = []
        self._tokens: list[int] = []  # places of the spans that have a token
        self._pending: deque[Span] = deque()
        self._layout = TextLayout(80)
        slow = "SSH_CONNECTION" in os.environ
        self._frame = 1 / 12 if slow else 1 / 30
        self._jump = slow  # a third of a page at once: one repaint instead of one a line
        self._following = True
        self._draining = False

    # --- the document

    @property
    def text(self) -> str:
        """The exact text of prompt and completion, marks left out."""
        return "".join(span.text for span in (*self._spans, *self._pending) if span.kind != "mark")

    def clear(self) -> None:
        """Show nothing."""
        self.set_document(())

    def set_document(self, spans: Sequence[Span]) -> None:
        """Show these spans and nothing else."""
        self._pending.clear()
        self._spans = list(spans)
        self._tokens = [place for place, span in enumerate(self._spans) if span.token is not None]
        self.cursor = None
        self._following = True
        self._lay_out()

    def append(self, span: Span) -> None:
        """Add a span at the end. Spans are drawn together, a few tens of times a second at most."""
        self._pending.append(span)
        if not self._draining:
            self._draining = True
            self.set_timer(self._frame, self.flush)

    def flush(self) -> None:
        """Draw what was appended."""
        self._draining = False
        if not self._pending:
            return
        first = self._layout.line_count
        while self._pending:
            span = self._pending.popleft()
            if span.token is not None:
                self._tokens.append(len(self._spans))
            first = min(first, self._layout.add(span.text, len(self._spans)))
            self._spans.append(span)
        self._grown(first)

    def _lay_out(self) -> None:
        self._layout = TextLayout(self.scrollable_content_region.width or 80)
        for owner, span in enumerate(self._spans):
            self._layout.add(span.text, owner)
        self._set_height(self._layout.line_count)
        if self._following:
            self.scroll_to(y=self._end_scroll(), animate=False, force=True)
        self.refresh()

    def _grown(self, first: int) -> None:
        """Repaint from the first changed line on, and go along with the end."""
        lines, height = self._layout.line_count, self.scrollable_content_region.height
        top = self.scroll_offset.y
        if self._following and lines > top + height:
            target = max(lines - height + (height // 3 if self._jump else 0), 0)
            self._set_height(max(lines, target + height))
            self.scroll_to(y=target, animate=False, force=True)
        else:
            self._set_height(max(lines, self.virtual_size.height))
            self.refresh(Region(0, first - top, self.size.width, lines - first))

    def _set_height(self, lines: int) -> None:
        size = Size(self.scrollable_content_region.width, lines)
        if size != self.virtual_size:
            self.virtual_size = size

    def _end_scroll(self) -> int:
        return max(self._layout.line_count - self.scrollable_content_region.height, 0)

    # --- what the reader does

    def on_resize(self, event: Resize) -> None:
        if self._layout.width != max(self.scrollable_content_region.width, 2):
            self._lay_out()

    def watch_scroll_y(self, old: float, new: float) -> None:
        """Follow the end only while the reader is there."""
        super().watch_scroll_y(old, new)
        self._following = new >= self._end_scroll()

    def action_cursor(self, by: int) -> None:
        """Move the cursor over the tokens; the first press puts it on the last one."""
        if self._tokens:
            last = len(self._tokens) - 1
            self.cursor = last if self.cursor is None else min(max(self.cursor + by, 0), last)

    def action_cursor_to(self, place: int) -> None:
        """Go to the first token, or to the end and follow it."""
        if place < 0:
            self.cursor = None
            self._following = True
            self.scroll_to(y=self._end_scroll(), animate=False)
        elif self._tokens:
            self.cursor = 0

    def watch_cursor(self, cursor: int | None) -> None:
        """Bring the token into view and tell about it."""
        if cursor is not None:
            owner = self._tokens[cursor]
            line, top = self._layout.line_of(owner), self.scroll_offset.y
            height = self.scrollable_content_region.height
            if not top <= line < top + height:
                self.scroll_to(y=max(line - height // 2, 0), animate=False)
            token = self._spans[owner].token
            if token is not None:
                self.post_message(self.TokenHighlighted(token))
        self.refresh()

    def watch_heat(self) -> None:
        self.refresh()

    # --- drawing

    def render_line(self, y: int) -> Strip:
        base = self.rich_style
        width = self.scrollable_content_region.width
        runs = self._layout.line(y + self.scroll_offset.y)
        segments = [Segment(text, base + self._style(owner)) for text, owner in runs if text]
        return Strip(segments).adjust_cell_length(width, base)

    def _style(self, owner: int) -> Style:
        span = self._spans[owner]
        style = self.get_component_rich_style(f"token--{span.kind}", partial=True)
        if span.token is not None and self.heat in _HEATS:
            value, ends = _HEATS[self.heat]
            bucket = sum(value(span.token) > end for end in ends)
            style += _plain_heat(bucket) if self.app.no_color else self._heat_style(bucket)
        if self.cursor is not None and self._tokens[self.cursor] == owner:
            style += self.get_component_rich_style("token--cursor", partial=True)
        return style

    def _heat_style(self, bucket: int) -> Style:
        return Style(bgcolor=self.get_component_rich_style(f"token--heat-{bucket}").bgcolor)


def _plain_heat(bucket: int) -> Style:
    """Return a heat that needs no colour."""
    return (
        Style(dim=True),
        Style(),
        Style(bold=True),
        Style(underline=True),
        Style(bold=True, underline=True),
        Style(reverse=True),
    )[bucket]
