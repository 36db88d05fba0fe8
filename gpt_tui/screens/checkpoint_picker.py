"""CheckpointPicker: a dialogue that lists what can be opened, and takes a path as well."""

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Label, OptionList
from textual.widgets.option_list import Option


class CheckpointPicker(ModalScreen[str | None]):
    """Choose a checkpoint by its name; typing narrows the list, and what is typed can be a path."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Cancel"),
        Binding("down", "focus_list", show=False),
    ]

    def __init__(self, names: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self._names = names  # what to open, and a word about it

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialogue"):
            yield Label("Open a checkpoint", classes="title")
            yield Input(placeholder="name, RUN:best, RUN:1000, or a path", compact=True)
            yield OptionList(*self._options(""))
            yield Label("Enter opens · ↓ to the list · Esc cancels", classes="hint")

    def _options(self, part: str) -> list[Option]:
        return [
            Option(Text.assemble((f"{name:<24} ", "bold"), (about, "dim"), no_wrap=True, overflow="ellipsis"), id=name)
            for name, about in self._names
            if part.lower() in name.lower()
        ]

    @on(Input.Changed)
    def _narrow(self, event: Input.Changed) -> None:
        options = self.query_one(OptionList)
        options.clear_options()
        options.add_options(self._options(event.value.strip()))

    @on(Input.Submitted)
    def _typed(self, event: Input.Submitted) -> None:
        options = self.query_one(OptionList)
        typed = event.value.strip()
        known = [name for name, _ in self._names]
        if typed and typed not in known and options.option_count == 1:
            typed = str(options.get_option_at_index(0).id)
        if typed:
            self.dismiss(typed)
        elif options.option_count:
            self.dismiss(str(options.get_option_at_index(0).id))

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(str(event.option.id))

    def action_focus_list(self) -> None:
        """Go from the field to the list."""
        self.query_one(OptionList).focus()
