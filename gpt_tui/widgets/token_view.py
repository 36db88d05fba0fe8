"""TokenView: prompt and completion as one text, exactly as it is, token by token. Knows no engine and no screen."""

import os
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.actions import SkipAction
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.timer import Timer

from gpt_model.token_record import Token
from gpt_tui.widgets.token_heat import HEATS, LEVELS, heat_level
from gpt_tui.widgets.wrapped_text import LEAST_WIDTH, Piece, WrappedText

HINT = "Type a prompt below and press Enter: the model goes on from there."


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of the document from one hand."""

    text: str
    kind: Literal["prompt", "model", "mark"]
    """A mark is shown in its place but is no part of the text."""
    token: Token | None = None
    """What generated it, where that is known."""


class TokenView(ScrollView, can_focus=True):
    """The document: it wraps at words, follows the end while the reader is there, and can be walked token by token."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "walk(-1)", "Tokens", key_display="←→", tooltip="Walk over the tokens"),
        Binding("right", "walk(1)", "Next token", show=False),
        Binding("up", "line(-1)", "Up", show=False),
        Binding("down", "line(1)", "Down", show=False),
        Binding("home", "first", "First token, or the top", show=False),
        Binding("end", "last", "Last token, or follow", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("escape", "leave", "Leave the tokens", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        *(f"token-view--{name}" for name in ("prompt", "model", "mark", "special", "cursor", "hint", "more")),
        *(f"token-view--heat-{level}" for level in range(LEVELS)),
    }
    # A scroll bar would be laid out and sent again with every new line; a word at the end of the view does instead.
    DEFAULT_CSS = """
    TokenView {
        overflow: hidden hidden;
        & > .token-view--prompt { color: $text-accent; text-style: bold; }
        & > .token-view--model { color: $foreground; }
        & > .token-view--mark { color: $text-disabled; text-style: not bold; }
        & > .token-view--special { color: $text-warning; }
        & > .token-view--hint { color: $text-muted; }
        & > .token-view--more { color: $accent; background: $panel; }
        & > .token-view--cursor { text-style: reverse; }
        & > .token-view--heat-1 { background: $warning 12%; }
        & > .token-view--heat-2 { background: $warning 24%; }
        & > .token-view--heat-3 { background: $warning 36%; }
        & > .token-view--heat-4 { background: $warning 50%; }
        & > .token-view--heat-5 { background: $warning 66%; }
        &:ansi, &:nocolor {
            & > .token-view--mark, & > .token-view--hint { text-style: dim; }
            & > .token-view--special { text-style: underline; }
            & > .token-view--heat-0 { background: transparent; text-style: dim; }
            & > .token-view--heat-1 { background: transparent; }
            & > .token-view--heat-2 { background: transparent; text-style: bold; }
            & > .token-view--heat-3 { background: transparent; text-style: underline; }
            & > .token-view--heat-4 { background: transparent; text-style: bold underline; }
            & > .token-view--heat-5 { background: transparent; text-style: reverse; }
        }
    }
    """

    cursor: reactive[int | None] = reactive(None, repaint=False)
    """Which of the model's tokens the cursor is on, from 0; None while nobody walks over them."""
    heat: reactive[str] = reactive("off")
    """What tints the tokens: one of HEATS."""

    @dataclass
    class TokenHighlighted(Message):
        """The cursor came to a token."""

        token: Token

    def __init__(self, hint: str = HINT) -> None:
        super().__init__()
        self._hint = hint
        self._spans: list[Span] = []
        self._tokens: list[int] = []  # the spans that have a token
        self._pending: list[Span] = []
        self._wrapped = WrappedText(80)  # until the layout is known
        self._following = True
        self._interval = 1 / 12 if "SSH_CONNECTION" in os.environ else 1 / 30
        self._drawn_at = 0.0
        self._timer: Timer | None = None

    # --- the document

    @property
    def text(self) -> str:
        """The exact text of prompt and completion, marks left out."""
        return "".join(span.text for span in (*self._spans, *self._pending) if span.kind != "mark")

    @property
    def following(self) -> bool:
        """Whether the view stays at the end of the text as it grows: while the reader is there and inspects nothing."""
        return self._following and self.cursor is None

    def clear(self) -> None:
        """Show an empty document."""
        self.set_document([])

    def set_document(self, spans: Sequence[Span]) -> None:
        """Show another document, from its end."""
        self._pending.clear()
        self._spans = list(spans)
        self._tokens = [place for place, span in enumerate(self._spans) if span.token is not None]
        self.set_reactive(TokenView.cursor, None)
        self._following = True
        self._wrap_again()

    def append(self, span: Span) -> None:
        """Add a span at the end; it is drawn with others that come within a frame."""
        self._pending.append(span)
        if self._timer is not None or not self.is_mounted:
            return
        wait = self._drawn_at + self._interval - time.monotonic()
        if wait <= 0:
            self.flush()
        else:
            self._timer = self.set_timer(wait, self.flush)

    def flush(self) -> None:
        """Draw what was appended."""
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        if not self._pending:
            return
        self._drawn_at = time.monotonic()
        wrapped, was_empty = self._wrapped, not self._spans
        first = len(wrapped.lines) - 1
        before, taken, more = _text_of(wrapped.lines[first]), wrapped.column, self._lines_below
        for span in self._pending:
            if span.token is not None:
                self._tokens.append(len(self._spans))
            self._spans.append(span)
            wrapped.append(span.text, span.kind == "mark")
        self._pending.clear()
        self._grow()
        if was_empty:
            self.refresh()
            return
        # A line is sent from its beginning; what is spared is its empty end.
        if before != _text_of(wrapped.lines[first]):
            self._refresh_cells(first, max(taken, wrapped.cells(first)))
        for line in range(first + 1, len(wrapped.lines)):
            self._refresh_cells(line, wrapped.cells(line))
        if more <= 0 < self._lines_below:
            self._refresh_cells(self.scroll_offset.y + self.size.height - 1, self.size.width)

    def _refresh_cells(self, line: int, end: int) -> None:
        y = line - self.scroll_offset.y
        if end and 0 <= y < self.size.height:
            self.refresh(Region(0, y, end, 1))

    def _grow(self) -> None:
        """Make room for new lines: a third of a page at once, since every scroll repaints the whole view."""
        page, lines = self.scrollable_content_region.height, len(self._wrapped.lines)
        if lines > max(page, self.virtual_size.height):
            self._following = self.following
            self._set_height(lines + page // 3)
            if self._following:
                self.scroll_to(y=self.max_scroll_y, animate=False, force=True)

    def _set_height(self, lines: int) -> None:
        # Without scroll bars nothing else depends on it: no new layout, no repaint.
        self.set_reactive(TokenView.virtual_size, Size(0, lines))

    @property
    def allow_vertical_scroll(self) -> bool:
        """It scrolls without showing a bar."""
        return True

    @property
    def _lines_below(self) -> int:
        return len(self._wrapped.lines) - self.scroll_offset.y - self.size.height

    def _wrap_again(self) -> None:
        following, region, top = self.following, self.scrollable_content_region, self.scroll_offset.y
        anchor = self._wrapped.span_at(top, 0)
        # The last column is left for the space or newline at which a full line ends, so that the cursor can show it.
        self._wrapped = WrappedText(region.width - 1)
        for span in self._spans:
            self._wrapped.append(span.text, span.kind == "mark")
        self._set_height(len(self._wrapped.lines))
        if not following and anchor is not None and anchor < len(self._spans):
            top = self._wrapped.lines_of(anchor)[0]
        self.scroll_to(y=self.max_scroll_y if following else top, animate=False, force=True)
        self.refresh()

    def on_mount(self) -> None:
        self.flush()

    def on_resize(self) -> None:
        if self._wrapped.width != max(self.scrollable_content_region.width - 1, LEAST_WIDTH):
            self._wrap_again()
        elif self.following:
            self.scroll_to(y=self.max_scroll_y, animate=False, force=True)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._following = round(new_value) >= self.max_scroll_y

    # --- drawing

    def render_line(self, y: int) -> Strip:
        """Return a line of what is in view."""
        base, line = self.rich_style, y + self.scroll_offset.y
        if not self._spans:
            hint = Segment(self._hint if y == 0 else "", self.get_component_rich_style("token-view--hint"))
            return Strip([hint]).adjust_cell_length(self.size.width, base)
        pieces = self._wrapped.lines[line] if line < len(self._wrapped.lines) else []
        under_cursor = None if self.cursor is None else self._tokens[self.cursor]
        segments: list[Segment] = []
        for place, piece in enumerate(pieces):
            style = self._piece_style(piece, under_cursor)
            if piece.text:
                segments.append(Segment(piece.text, style))
            elif piece.span == under_cursor and place == len(pieces) - 1:
                segments.append(Segment(" ", style))  # a newline or the space at which the line was broken
        strip = Strip(segments).adjust_cell_length(self.size.width, base).simplify()
        if y == self.size.height - 1 and self._lines_below > 0:
            more = Segment(" ↓ more ", self.get_component_rich_style("token-view--more"))
            strip = Strip.join([strip.crop(0, self.size.width - more.cell_length), Strip([more])])
        return strip

    def _piece_style(self, piece: Piece, under_cursor: int | None) -> Style:
        span = self._spans[piece.span]
        names = [f"token-view--{span.kind}"]
        if span.token is not None and self.heat != "off":
            names.append(f"token-view--heat-{heat_level(span.token, self.heat)}")
        if piece.special:
            names.append("token-view--special")
        if piece.span == under_cursor:
            names.append("token-view--cursor")
        return self.get_component_rich_style(*names)

    # --- the cursor

    def validate_cursor(self, cursor: int | None) -> int | None:
        """Keep the cursor on a token."""
        if cursor is None or not self._tokens:
            return None
        return min(max(cursor, 0), len(self._tokens) - 1)

    def validate_heat(self, heat: str) -> str:
        """Refuse what is no heat."""
        if heat not in HEATS:
            raise ValueError(f"'{heat}' is no heat: choose one of {', '.join(HEATS)}.")
        return heat

    def watch_cursor(self, old: int | None, new: int | None) -> None:
        """Redraw where the cursor was and is, bring it into view, and say on which token it is."""
        for cursor in (old, new):
            if cursor is not None and cursor < len(self._tokens):
                for line in self._wrapped.lines_of(self._tokens[cursor]):
                    self._refresh_cells(line, self.size.width)
        if new is None:
            return
        lines = self._wrapped.lines_of(self._tokens[new])
        top, page = self.scroll_offset.y, self.scrollable_content_region.height
        if not top <= lines[0] < top + page:
            self.scroll_to(y=lines[0] - page // 3, animate=False)
        token = self._spans[self._tokens[new]].token
        if token is not None:
            self.post_message(self.TokenHighlighted(token))

    def action_walk(self, by: int) -> None:
        """Go to the next token; from outside, to the last one or the first in view."""
        if self.cursor is not None:
            self.cursor += by
        elif by < 0:
            self.cursor = len(self._tokens) - 1
        else:
            self.cursor = self._token_near(self.scroll_offset.y, 0)

    def action_line(self, by: int) -> None:
        """Go to the token above or below; without a cursor, scroll."""
        if self.cursor is None:
            self.scroll_relative(y=by, animate=False)
            return
        span = self._tokens[self.cursor]
        line = self._wrapped.lines_of(span)[0]
        self.cursor = self._token_near(line + by, self._wrapped.column_of(line, span))

    def action_first(self) -> None:
        """Go to the first token; without a cursor, to the top."""
        if self.cursor is None:
            self.scroll_home(animate=False)
        else:
            self.cursor = 0

    def action_last(self) -> None:
        """Go to the last token; from there, or without a cursor, follow the end of the text."""
        last = len(self._tokens) - 1
        if self.cursor is not None and self.cursor < last:
            self.cursor = last
        else:
            self.cursor = None
            self.scroll_to(y=self.max_scroll_y, animate=False)

    def action_page(self, by: int) -> None:
        """Scroll a page."""
        self.scroll_relative(y=by * max(self.scrollable_content_region.height - 1, 1), animate=False)

    def action_leave(self) -> None:
        """Leave the tokens; Escape is somebody else's when nobody walks over them."""
        if self.cursor is None:
            raise SkipAction()
        self.cursor = None

    def on_click(self, event: events.Click) -> None:
        """Put the cursor on the token that was clicked."""
        offset = event.get_content_offset(self)
        if offset is not None and self._tokens:
            self.cursor = self._token_near(offset.y + self.scroll_offset.y, offset.x)

    def _token_near(self, line: int, column: int) -> int:
        """Return the token at a cell, or the next one after it."""
        line = min(max(line, 0), len(self._wrapped.lines) - 1)
        span = self._wrapped.span_at(line, column)
        while span is None and line < len(self._wrapped.lines) - 1:
            line += 1
            span = self._wrapped.span_at(line, 0)
        last = len(self._tokens) - 1
        return last if span is None else min(bisect_left(self._tokens, span), last)


def _text_of(line: list[Piece]) -> str:
    return "".join(piece.text for piece in line)
