"""StagePicker: a dialogue that lists the stages that can be added to a chain."""

from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Label, OptionList
from textual.widgets.option_list import Option

from samplers import ChainError, Stage, load_stage, stage_entries


class StagePicker(ModalScreen[Stage | None]):
    """Choose a stage; it comes with its default parameters."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Cancel")]

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialogue"):
            yield Label("Add a stage", classes="title")
            yield OptionList(*map(self._option, stage_entries()))
            yield Label("Enter adds it at the end · Esc cancels", classes="hint")

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(load_stage(str(event.option.id))())

    @staticmethod
    def _option(name: str) -> Option:
        entry = stage_entries()[name]
        try:
            about = (load_stage(name).__doc__ or "").strip().splitlines()[0].partition(":")[0]
            return Option(Text.assemble((f"{name:<14}", "bold"), (about, "dim")), id=name)
        except (ChainError, IndexError) as error:
            return Option(
                Text.assemble((f"{name:<14}", "bold"), (f"{entry.distribution}: {error}", "dim")),
                id=name,
                disabled=True,
            )
