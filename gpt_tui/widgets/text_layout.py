"""TextLayout: text of several owners wrapped to a width, growing at its end. Knows cells, no colours and no widget."""

import unicodedata
from bisect import bisect_left, bisect_right
from functools import cache

TAB = 4
"""Cells of a tab: base models write them, and a terminal's own stops would depend on the column."""


def visible(character: str) -> str:
    """Return what stands on screen for a character: a control character as a picture, so that it commands nothing."""
    code = ord(character)
    if character in "\n\t":
        return character
    if code < 32:
        return chr(0x2400 + code)
    if code == 127 or 128 <= code < 160:
        return "␡"
    # Bidirectional overrides and other invisible formatting would rearrange the line they are in.
    return "\ufffd" if unicodedata.category(character) in ("Cf", "Zl", "Zp", "Cs") and code != 0x200D else character


@cache
def cells(character: str) -> int:
    """Return how many cells a character takes."""
    if character == "\t":
        return TAB
    if character.isascii():
        return 1
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me") or character == "\u200d":
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


class TextLayout:
    """Characters, whose they are, and where each line begins. Adding text rewraps the last line only."""

    def __init__(self, width: int) -> None:
        self.width = max(width, 2)
        self.characters: list[str] = []
        self.owners: list[int] = []
        self.starts = [0]

    @property
    def line_count(self) -> int:
        """Lines, the one that is being written included."""
        return len(self.starts)

    def add(self, text: str, owner: int) -> int:
        """Add a text at the end; return the first line that looks different now."""
        self.characters.extend(map(visible, text))
        self.owners.extend([owner] * (len(self.characters) - len(self.owners)))
        first = len(self.starts) - 1
        self._wrap(self.starts[-1])
        return first

    def line(self, number: int) -> list[tuple[str, int]]:
        """Return a line as runs of text of one owner each."""
        if not 0 <= number < len(self.starts):
            return []
        start = self.starts[number]
        end = self.starts[number + 1] if number + 1 < len(self.starts) else len(self.characters)
        runs: list[tuple[str, int]] = []
        for place in range(start, end):
            character, owner = self.characters[place], self.owners[place]
            shown = " " * TAB if character == "\t" else "" if character == "\n" else character
            if runs and runs[-1][1] == owner:
                runs[-1] = (runs[-1][0] + shown, owner)
            else:
                runs.append((shown, owner))
        return runs

    def line_of(self, owner: int) -> int:
        """Return the line in which an owner's text begins."""
        return max(bisect_right(self.starts, bisect_left(self.owners, owner)) - 1, 0)

    def _wrap(self, start: int) -> None:
        """Break what begins at `start` into lines: at spaces, or in a word longer than the line."""
        place, column, space = start, 0, -1
        line = start
        while place < len(self.characters):
            character = self.characters[place]
            if character == "\n":
                place += 1
                line, column, space = place, 0, -1
                self.starts.append(place)
                continue
            width = cells(character)
            if column + width > self.width and character != " ":  # spaces hang over the edge
                line = space if space > line else place
                self.starts.append(line)
                column, space = sum(map(cells, self.characters[line:place])), -1
                continue
            column += width
            place += 1
            if character in " \t-":
                space = place
