"""PresetPicker: a dialogue that lists the chains that have a name, and what acts in each."""

from collections.abc import Mapping
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Label, OptionList
from textual.widgets.option_list import Option

from samplers import PRESETS, Chain, ChainError, format_stage, is_off


class PresetPicker(ModalScreen[str | None]):
    """Choose a preset by its name; `own` are the person's, which go before ours."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Cancel")]

    def __init__(self, own: Mapping[str, str]) -> None:
        super().__init__()
        self._presets = PRESETS | dict(own)

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialogue"):
            yield Label("Take a preset", classes="title")
            yield OptionList(*(self._option(name, text) for name, text in self._presets.items()))
            yield Label("Enter takes it · dim is off · Esc cancels", classes="hint")

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(str(event.option.id))

    @staticmethod
    def _option(name: str, text: str) -> Option:
        shown = Text.assemble((f"{name:<14}", "bold"))
        try:
            for place, stage in enumerate(Chain.parse(text)):
                shown.append(", " if place else "", "dim")
                shown.append(*((stage.name, "dim") if is_off(stage) else (format_stage(stage), "")))
        except ChainError as error:
            return Option(shown.append(str(error), "dim"), id=name, disabled=True)
        return Option(shown if text else shown.append("the model's own distribution", "dim"), id=name)
