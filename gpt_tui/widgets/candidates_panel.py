"""CandidatesPanel: why this token. Its numbers, the candidates before and after the chain, the funnel."""

import math
from textwrap import wrap
from typing import Any, ClassVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from textual.strip import Strip
from textual.widget import Widget

from gpt_model.token_record import Candidate, Token
from gpt_tui.widgets.funnel import NUMBER, Line, bar, cut_label, funnel_lines, share
from gpt_tui.widgets.visible_text import token_label

EMPTY = ("Here: why a token was", "drawn. Tab to the text,", "then ← → walk over it.")
_BIT = math.log(2)
LABEL = 16
LEAST = 4
"""Candidates that are shown however low the panel is."""


class CandidatesPanel(Widget):
    """One token at a time. It is given the record and asks nobody."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        f"candidates-panel--{name}" for name in ("title", "text", "number", "bar", "drawn", "cut", "fault")
    }
    DEFAULT_CSS = """
    CandidatesPanel {
        & > .candidates-panel--title { color: $text-muted; }
        & > .candidates-panel--text { color: $foreground; }
        & > .candidates-panel--number { color: $text-muted; }
        & > .candidates-panel--bar { color: $accent; }
        & > .candidates-panel--drawn { color: $accent; text-style: bold; }
        & > .candidates-panel--cut { color: $text-disabled; }
        & > .candidates-panel--fault { color: $text-warning; }
        &:ansi > .candidates-panel--cut, &:nocolor > .candidates-panel--cut { text-style: dim; }
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self._token: Token | None = None

    def show(self, token: Token | None) -> None:
        """Show a token; None shows what will stand here."""
        if token != self._token:
            self._token = token
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """Return a line of the panel."""
        lines, width = self._lines(), self.size.width
        segments = [Segment(text, self._style(name)) for text, name in lines[y]] if y < len(lines) else []
        return Strip(segments).adjust_cell_length(width, self.rich_style)

    def _style(self, name: str) -> Any:
        return self.get_component_rich_style(f"candidates-panel--{name}")

    def _lines(self) -> list[Line]:
        token, width = self._token, self.size.width
        if token is None:
            return [[(line, "title")] for line in EMPTY]
        entropy = f"entropy {token.entropy / _BIT:.2f}"
        if token.accounts:
            entropy += f" → {token.accounts[-1].entropy / _BIT:.2f}"
        lines: list[Line] = [
            _spread((token_label(_text_of(token)), "drawn"), (f"rank {token.rank + 1:,}", "number"), width),
            _spread(
                (f"p {share(token.p_model).strip()} → {share(token.p_chain).strip()}", "text"),
                (f"u {token.uniform:.3f}".replace("0.", "."), "number"),
                width,
            ),
            [(f"{entropy} bits", "number")],
        ]
        lines += [[(line, "fault")] for fault in token.faults for line in wrap(fault, max(width, 12))]
        funnel = [[], *funnel_lines(token.accounts, width)] if token.accounts else []
        if token.candidates:
            room = self.size.height - len(lines) - len(funnel) - 2
            lines += [[], *self._candidate_lines(token, width, max(room, LEAST))]
        return lines + funnel

    def _candidate_lines(self, token: Token, width: int, room: int) -> list[Line]:
        """Return the model's most likely tokens, as many as there is room for, and in any case the drawn one."""
        label = max(min(LABEL, (width - 2 * NUMBER) * 3 // 5), 4)
        bar_cells = max(width - label - 2 * NUMBER - 1, 0)
        most = max(each.p_chain for each in token.candidates) or 1.0
        listed = list(token.candidates[:room])
        dots = room >= 2 * LEAST
        if apart := all(each.id != token.id for each in listed):
            drawn = Candidate(token.id, token.text, token.p_model, token.p_chain)
            drawn = next((each for each in token.candidates if each.id == token.id), drawn)
            listed = [*listed[: max(room - 1 - dots, 1)], drawn]
        heading = f"{'model':>{NUMBER}}{'chain':>{bar_cells + NUMBER + 1}}"
        lines: list[Line] = [[(set_cell_size("token", label), "title"), (heading, "title")]]
        for place, each in enumerate(listed):
            if apart and dots and place == len(listed) - 1:
                lines.append([(" …", "title")])
            kept = each.p_chain > 0 and not each.cut_by
            name = "drawn" if each.id == token.id else "text" if kept else "cut"
            line = [
                ("▸" if each.id == token.id else " ", name),
                (set_cell_size(token_label(each.text), label - 1), name),
                (f"{share(each.p_model):>{NUMBER}} ", "number" if kept else "cut"),
            ]
            if kept:
                line.append((bar(each.p_chain / most, bar_cells).ljust(bar_cells), "bar"))
                line.append((f"{share(each.p_chain):>{NUMBER}}", "text"))
            else:
                cells = bar_cells + NUMBER
                line.append((f"{cut_label(each.cut_by, cells):>{cells}}", "cut"))
            lines.append(line)
        return lines


def _spread(left: tuple[str, str], right: tuple[str, str], width: int) -> Line:
    """Return a line with one text at each edge; the left one gives way."""
    room = max(width - cell_len(right[0]) - 1, 1)
    return [(set_cell_size(left[0], room), left[1]), (" ", "text"), right]


def _text_of(token: Token) -> str:
    """Return the token's own text where it is known, else what became certain with it."""
    return next((each.text for each in token.candidates if each.id == token.id), token.text)
