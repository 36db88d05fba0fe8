"""SettingPrompt: a dialogue for one change of a running run, `name = value`."""

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Label

HINT = "such as learning_rate=3e-4, target_loss=1.5, eval_interval=500, sample_prompt=ROMEO:"


class SettingPrompt(ModalScreen[tuple[str, str] | None]):
    """Ask for one setting; the worker checks it, applies it at a step's boundary and records it as an event."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Cancel")]

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialogue"):
            yield Label("Change the run", classes="title")
            yield Input(placeholder="name=value", compact=True)
            yield Label(HINT, classes="hint", markup=False)
            yield Label("Enter sends it · Esc cancels", classes="hint")

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        name, equals, value = event.value.partition("=")
        if equals and name.strip():
            self.dismiss((name.strip(), value.strip()))
        else:
            self.notify("Write name=value.", severity="warning")
