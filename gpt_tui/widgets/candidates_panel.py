"""CandidatesPanel: why this token. Its numbers, the candidates before and after the chain, what each stage left."""

import math
from textwrap import wrap
from typing import Any, ClassVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from textual.strip import Strip
from textual.widget import Widget

from gpt_model.token_record import Candidate, Token
from gpt_tui.widgets.visible_text import token_label

EMPTY = ("Here: why a token was", "drawn. Tab to the text,", "then ← → walk over it.")
NUMBER = 5
"""Cells of a number and the space before it."""
LABEL = 16
_EIGHTHS = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")

_Line = list[tuple[str, str]]  # texts, and the names of their styles


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

    def _lines(self) -> list[_Line]:
        token, width = self._token, self.size.width
        if token is None:
            return [[(line, "title")] for line in EMPTY]
        lines: list[_Line] = [
            _spread((token_label(_text_of(token)), "drawn"), (f"rank {token.rank + 1:,}", "number"), width),
            _spread(
                (f"p {share(token.p_model).strip()} → {share(token.p_chain).strip()}", "text"),
                (f"u {token.uniform:.3f}".replace("0.", "."), "number"),
                width,
            ),
            [(f"entropy {token.entropy / math.log(2):.2f} bits", "number")],
        ]
        lines += [[(line, "fault")] for fault in token.faults for line in wrap(fault, max(width, 12))]
        # At the usual heights of a terminal the account matters less than the candidates: it comes after them.
        if token.candidates:
            lines += [[], *self._candidate_lines(token, width)]
        if token.accounts:
            lines += [[], _spread(("stage", "title"), ("kept  mass", "title"), width)]
            lines += [
                _spread((account.stage, "text"), (f"{account.kept:,} {share(account.mass)}", "number"), width)
                for account in token.accounts
            ]
        return lines

    def _candidate_lines(self, token: Token, width: int) -> list[_Line]:
        numbers = 2 * NUMBER
        label = max(min(LABEL, (width - numbers) * 3 // 5), 4)
        bar_cells = max(width - label - numbers - 1, 0)
        most = max(each.p_chain for each in token.candidates) or 1.0
        lines: list[_Line] = [_spread(("candidates", "title"), ("model chain"[-numbers - 1 :], "title"), width)]
        listed = list(token.candidates)
        if all(each.id != token.id for each in listed):
            listed.append(Candidate(token.id, token.text, token.p_model, token.p_chain))
        for place, each in enumerate(listed):
            if place == len(token.candidates):
                lines.append([(" …", "title")])
            kept = each.p_chain > 0
            name = "drawn" if each.id == token.id else "text" if kept else "cut"
            marker = "▸" if each.id == token.id else " "
            bar_text = bar(each.p_chain / most, bar_cells) if kept else "·"
            lines.append(
                [
                    (marker + set_cell_size(token_label(each.text), label - 1), name),
                    (" " + bar_text.ljust(bar_cells), "bar" if kept else "cut"),
                    (f"{share(each.p_model):>{NUMBER}}", "number" if kept else "cut"),
                    (f"{share(each.p_chain) if kept else 'cut':>{NUMBER}}", "text" if kept else "cut"),
                ]
            )
        return lines


def share(probability: float) -> str:
    """Return a probability in four cells: `1.00`, ` .31`, `.002`, `4e-5`."""
    if probability >= 0.995:
        return "1.00"
    if probability >= 0.095:
        return f" {probability:.2f}".replace("0.", ".", 1)
    if probability >= 0.0005:
        return f"{probability:.3f}".removeprefix("0")
    return f"{probability:.0e}".replace("e-0", "e-") if probability > 0 else "   0"


def bar(fraction: float, cells: int) -> str:
    """Return a bar for a fraction of so many cells, in eighths of a cell; what is not nothing shows."""
    eighths = round(min(max(fraction, 0.0), 1.0) * cells * 8) or (1 if fraction > 0 else 0)
    full, part = divmod(eighths, 8)
    return "█" * full + _EIGHTHS[part]


def _spread(left: tuple[str, str], right: tuple[str, str], width: int) -> _Line:
    """Return a line with one text at each edge; the left one gives way."""
    room = max(width - cell_len(right[0]) - 1, 1)
    return [(set_cell_size(left[0], room), left[1]), (" ", "text"), right]


def _text_of(token: Token) -> str:
    """Return the token's own text where it is known, else what became certain with it."""
    return next((each.text for each in token.candidates if each.id == token.id), token.text)
