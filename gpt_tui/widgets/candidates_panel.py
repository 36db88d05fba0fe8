"""CandidatesPanel: why this token. Its candidates before and after the chain, and what each stage left. Given data."""

from math import log

from rich.cells import set_cell_size
from rich.segment import Segment
from textual.strip import Strip
from textual.widget import Widget

from gpt_model.token_record import Token
from gpt_tui.widgets.text_layout import visible

_EIGHTHS = " ▏▎▍▌▋▊▉█"
Row = list[tuple[str, str]]
"""Text and the style it has."""


class CandidatesPanel(Widget):
    """One token's numbers, its candidates as bars, the funnel of the stages."""

    COMPONENT_CLASSES = {f"why--{name}" for name in ("title", "token", "number", "bar", "drawn", "cut")}
    DEFAULT_CSS = """
    CandidatesPanel {
        &> .why--title { color: $text-muted; }
        &> .why--token { color: $foreground; }
        &> .why--number { color: $text-muted; }
        &> .why--bar { color: $accent; }
        &> .why--drawn { color: $accent; text-style: bold; }
        &> .why--cut { color: $text-muted; text-style: dim; }
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self._token: Token | None = None

    def show(self, token: Token | None) -> None:
        """Show a token."""
        if token is not self._token:
            self._token = token
            self.refresh()

    def render_line(self, y: int) -> Strip:
        rows = self._rows(self.size.width)
        if y >= len(rows):
            return Strip.blank(self.size.width, self.rich_style)
        segments = [Segment(text, self.get_component_rich_style(f"why--{kind}")) for text, kind in rows[y]]
        return Strip(segments).adjust_cell_length(self.size.width, self.rich_style)

    def _rows(self, width: int) -> list[Row]:
        token = self._token
        if token is None:
            return [[("why this token", "title")], [("Tab to the text, ← → choose one", "cut")]]
        rows: list[Row] = [
            [("token ", "title"), (set_cell_size(quoted(_own_text(token)), max(width - 21, 5)), "drawn"),
             (f" p {share(token.p_model)} → {share(token.p_chain)}", "number")],
            [(f"rank {token.rank + 1}  entropy {token.entropy / log(2):.2f} bits", "number")],
        ]  # fmt: skip
        label = min(max(width - 18, 7), 12)
        for each in token.candidates:
            drawn = each.id == token.id
            text = set_cell_size(quoted(each.text), label)
            if each.p_chain > 0:
                room = max(width - label - 10, 3)
                rows.append(
                    [(text, "drawn" if drawn else "token"), (f" {share(each.p_model)}", "number"),
                     (" " + bar(each.p_chain, room), "bar"), (share(each.p_chain), "number")]
                )  # fmt: skip
            else:
                rows.append([(text, "cut"), (f" {share(each.p_model)}", "number"), (" · cut", "cut")])
        if token.accounts:
            rows.append([("", "title")])
            rows.append([("stage leaves", "title")])
            for account in token.accounts:
                numbers = f"{account.kept:>7,} {100 * account.mass:>5.1f}%"
                rows.append(
                    [(set_cell_size(account.stage, max(width - len(numbers), 4)), "token"), (numbers, "number")]
                )
        return rows


def share(probability: float) -> str:
    """Return a probability in four characters: `1.00`, ` .31`, `<.01`."""
    if probability >= 0.995:
        return "1.00"
    return " " + f"{probability:.2f}"[1:] if probability >= 0.005 else "<.01" if probability > 0 else "   0"


def bar(value: float, width: int) -> str:
    """Return a bar of `width` cells for a value from 0 to 1."""
    eighths = round(min(max(value, 0), 1) * width * 8)
    full, part = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[part] if part else "")).ljust(width)


def quoted(text: str) -> str:
    """Return a token's text with its spaces and line breaks to be seen."""
    shown = "".join("⏎" if each == "\n" else "⇥" if each == "\t" else visible(each) for each in text)
    return f"'{shown}'" if shown else "(no text)"


def _own_text(token: Token) -> str:
    return next((each.text for each in token.candidates if each.id == token.id), token.text)
