"""Help: every key of the page one is on, of the whole app, and the prompt's commands. Made from the bindings."""

from collections.abc import Iterable, Sequence
from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Label, Static

from gpt_tui.slash_commands import COMMANDS


class Help(ModalScreen[None]):
    """What every key does here."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,f1,q", "dismiss", "Close")]

    def __init__(self, groups: Sequence[tuple[str, Iterable[Binding]]]) -> None:
        super().__init__()
        self._groups = groups

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialogue"):
            for title, bindings in self._groups:
                yield Label(title, classes="title")
                yield Static(_table((_keys(each), each.tooltip or each.description) for each in bindings))
            yield Label("Commands in the prompt", classes="title")
            stages = ("top_k 5, /temperature 1.2 …", "set a stage's first parameter; adds the stage if it is not there")
            yield Static(_table((f"/{name}", about) for name, about in [*COMMANDS.items(), stages]))
            yield Label("Esc closes", classes="hint")

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()


_NAMES = {
    "left_square_bracket": "[", "right_square_bracket": "]", "plus": "+", "minus": "-", "equals_sign": "=",
    "escape": "Esc", "left": "←", "right": "→", "up": "↑", "down": "↓", "enter": "Enter", "delete": "Del",
    "space": "Space",
}  # fmt: skip


def _keys(binding: Binding) -> str:
    """Return a binding's keys as they are printed on them: `^R`, `Alt ←`, `x Del`."""
    if binding.key_display:
        return binding.key_display
    shown = []
    for key in binding.key.split(","):
        *modifiers, name = key.split("+")
        name = _NAMES.get(name, name.upper() if len(name) > 1 or "ctrl" in modifiers else name)
        prefix = {"ctrl": "^", "alt": "Alt ", "shift": "⇧"}
        shown.append("".join(prefix.get(each, each) for each in modifiers) + name)
    return "  ".join(shown)


def _table(rows: Iterable[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=14)
    table.add_column(style="dim")
    for keys, about in rows:
        table.add_row(Text(keys, "bold"), Text(about))
    return table
