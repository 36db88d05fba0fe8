"""WrappedText: spans of text laid out in lines of a given width in cells, span by span. Knows no widget, no style."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from rich.cells import cell_len, get_character_cell_size

from gpt_tui.widgets.visible_text import picture

TAB = 4
"""Cells between tab stops."""
LEAST_WIDTH = 4

# Runs of letters that are one cell each and break nowhere; every other character is looked at alone.
_UNITS = re.compile(r"[!-~\u00a1-\u00ac\u00ae-\u02ff\u0370-\u0377\u0384-\u0482\u048a-\u052f]+|.", re.DOTALL)


class Piece(NamedTuple):
    """A part of a line that came from one span."""

    text: str
    cells: int
    span: int
    """Which span it is part of, from 0."""
    special: bool = False
    """It stands for a character that cannot be shown as itself."""
    breaks: bool = False
    """A line may end after it."""


class WrappedText:
    """Lines of pieces. Spaces and newlines are kept; a line breaks between words, a word only where no line holds it.

    The space at which a line is broken takes no cell. It, a newline and an empty span are pieces without text, so that
    every span has a place.
    """

    def __init__(self, width: int) -> None:
        self.width = max(width, LEAST_WIDTH)
        self._hung = False
        self._starts: list[int] = []  # per span, a line at or before its first piece
        self.lines: list[list[Piece]] = [[]]
        self.column = 0
        """How many cells of the last line are taken."""

    def append(self, text: str, mark: bool = False) -> None:
        """Lay out the next span; only the last line and lines after it change. A mark is kept whole where it fits."""
        span = len(self._starts)
        self._starts.append(len(self.lines) - 1)
        if mark:
            self._make_room(cell_len(text), breaks_before=True)
        elif not text:
            self._add(Piece("", 0, span))
        for unit in _UNITS.findall(text):
            if mark:
                self._place_word(unit, span)
            elif unit == "\n":
                self._add(Piece("", 0, span))
                self._new_line()
            elif unit == " ":
                self._place_space(span)
            elif unit == "\t":
                self._make_room(1, breaks_before=True)
                cells = min(TAB - self.column % TAB, self.width - self.column)
                self._add(Piece(" " * cells, cells, span, breaks=True))
            else:
                self._place_word(unit, span)
        if mark:
            self._add(Piece("", 0, span, breaks=True))

    def cells(self, line: int) -> int:
        """Return how many cells of a line are taken."""
        return sum(piece.cells for piece in self.lines[line])

    def lines_of(self, span: int) -> range:
        """Return the lines on which a span has a piece."""
        holding = []
        for number, line in self._from(self._starts[span]):
            if any(piece.span == span for piece in line):
                holding.append(number)
            elif line and line[0].span > span:
                break
        return range(holding[0], holding[-1] + 1)

    def span_at(self, line: int, column: int) -> int | None:
        """Return the span at a cell, or the last one before it on the line; None on a line without any."""
        found = None
        for piece in self.lines[line] if 0 <= line < len(self.lines) else ():
            if column < 0 and found is not None:
                break
            found = piece.span
            column -= piece.cells
        return found

    def column_of(self, line: int, span: int) -> int:
        """Return the cell at which a span begins on a line."""
        column = 0
        for piece in self.lines[line]:
            if piece.span >= span:
                break
            column += piece.cells
        return column

    def _from(self, start: int) -> Iterator[tuple[int, list[Piece]]]:
        for number in range(start, len(self.lines)):
            yield number, self.lines[number]

    def _place_space(self, span: int) -> None:
        if self.column >= self.width and not self._hung:
            self._hung = True
            self._add(Piece("", 0, span, breaks=True))
            return
        self._make_room(1, breaks_before=True)
        self._add(Piece(" ", 1, span, breaks=True))

    def _place_word(self, text: str, span: int) -> None:
        shown = picture(text) if len(text) == 1 else None
        cells = len(text) if len(text) > 1 else get_character_cell_size(text)
        special = shown is not None
        if shown is not None:
            text, cells = shown, len(shown)
        elif cells == 0:
            self._attach(text, span)
            return
        wide = cells == 2 and len(text) == 1  # scripts of wide characters break between any two
        self._make_room(cells, breaks_before=wide)
        while cells > (room := self.width - self.column):
            self._add(Piece(text[:room], room, span, special))
            self._new_line()
            text, cells = text[room:], cells - room
        self._add(Piece(text, cells, span, special, breaks=wide))

    def _attach(self, accent: str, span: int) -> None:
        """Put a character without width of its own on the one before it."""
        line = self.lines[-1]
        if not line or not line[-1].text:
            self._make_room(1, breaks_before=True)
            self._add(Piece(f"◌{accent}", 1, span))
            return
        line[-1] = line[-1]._replace(text=line[-1].text + accent)
        if line[-1].span != span:
            self._add(Piece("", 0, span))

    def _make_room(self, cells: int, breaks_before: bool) -> None:
        """Begin a new line where so many cells do not fit, and take an unfinished word along."""
        if self.column == 0 or self.column + cells <= self.width:
            return
        line = self.lines[-1]
        start = len(line)
        if not (self._hung or breaks_before):
            while start and not line[start - 1].breaks:
                start -= 1
            if start == 0:  # one word fills the line: it is cut where the line ends
                return
        moved = line[start:]
        del line[start:]
        self._new_line()
        for piece in moved:
            self._add(piece)

    def _add(self, piece: Piece) -> None:
        self.lines[-1].append(piece)
        self.column += piece.cells

    def _new_line(self) -> None:
        self.lines.append([])
        self.column = 0
        self._hung = False
