"""ChainPanel: the chain of stages, a row a parameter, changed by keys while text streams. Knows only `samplers`."""

from dataclasses import dataclass
from typing import Any, ClassVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Input

from samplers import Chain, ChainError, Parameter, Stage, build, nudged, parameters

EMPTY = ("no stages: the model's own", "distribution is drawn from.", "a adds one")


@dataclass
class _Slot:
    """A stage of the panel; one that is switched off stays here and leaves the chain."""

    stage: Stage
    on: bool = True


class _Rows(Widget, can_focus=True):
    """The rows themselves."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "chain--name",
        "chain--value",
        "chain--cursor",
        "chain--off",
        "chain--title",
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "row(-1)", "Row above", show=False),
        Binding("down", "row(1)", "Row below", show=False),
        Binding("left,minus", "nudge(-1)", "Change", key_display="←→"),
        Binding("right,plus,equals_sign", "nudge(1)", "More", show=False),
        Binding("enter", "type", "Type"),
        Binding("space", "switch", "On/off"),
        Binding("shift+up,K", "move(-1)", "Move up", show=False),
        Binding("shift+down,J", "move(1)", "Move down", show=False),
        Binding("x,delete", "remove", "Remove", show=False),
        Binding("a", "add", "Add"),
    ]
    row: reactive[int] = reactive(0)

    def __init__(self) -> None:
        super().__init__()
        self.slots: list[_Slot] = []

    @property
    def places(self) -> list[tuple[int, Parameter | None]]:
        """Each row's slot and parameter; a stage without parameters has one row."""
        found: list[tuple[int, Parameter | None]] = []
        for place, slot in enumerate(self.slots):
            found += [(place, each) for each in parameters(type(slot.stage))] or [(place, None)]
        return found

    def get_content_height(self, container: Any, viewport: Any, width: int) -> int:
        return 1 + max(len(self.places), 0 if self.slots else len(EMPTY))

    def render_line(self, y: int) -> Strip:
        base, width = self.rich_style, self.size.width
        style = {
            name: self.get_component_rich_style(f"chain--{name}")
            for name in ("name", "value", "cursor", "off", "title")
        }
        if y == 0:
            return Strip([Segment("chain", style["title"])]).adjust_cell_length(width, base)
        if not self.slots:
            text = EMPTY[y - 1] if y <= len(EMPTY) else ""
            return Strip([Segment(text, style["off"])]).adjust_cell_length(width, base)
        if y > len(self.places):
            return Strip.blank(width, base)
        place, parameter = self.places[y - 1]
        slot = self.slots[place]
        here = self.has_focus and y - 1 == self.row
        first = y == 1 or self.places[y - 2][0] != place
        alone = parameter is None or len(parameters(type(slot.stage))) == 1
        label = slot.stage.name if first else ""
        if not alone and parameter is not None:
            label = f"{label} {parameter.name}" if first else f"  {parameter.name}"
        value = "" if parameter is None else _shown(getattr(slot.stage, parameter.name))
        value = value if slot.on else "off"
        shown = f"◂ {value} ▸" if here and value and slot.on else f"  {value}  "
        label = set_cell_size(("▸ " if here else "  ") + label, max(width - cell_len(shown), 0))
        kind = "cursor" if here else "off" if not slot.on else None
        segments = [Segment(label, style[kind or "name"]), Segment(shown, style[kind or "value"])]
        return Strip(segments).adjust_cell_length(width, base)

    def watch_row(self) -> None:
        self.refresh()

    def action_row(self, by: int) -> None:
        """Go to another row; out of the rows at either end, the focus goes on."""
        self.row = min(max(self.row + by, 0), max(len(self.places) - 1, 0))

    def action_nudge(self, presses: int) -> None:
        """Move the value by a step."""
        if here := self._here():
            slot, parameter = here
            if parameter is not None:
                slot.stage = nudged(slot.stage, parameter.name, presses)
                slot.on = True
                self._changed()

    def action_switch(self) -> None:
        """Switch the stage off or on."""
        if here := self._here():
            here[0].on = not here[0].on
            self._changed()

    def action_move(self, by: int) -> None:
        """Let the stage act earlier or later."""
        if self.slots:
            place, parameter = self.places[self.row]
            to = min(max(place + by, 0), len(self.slots) - 1)
            self.slots.insert(to, self.slots.pop(place))
            self.row = self.places.index((to, parameter))
            self._changed()

    def action_remove(self) -> None:
        """Take the stage out of the chain."""
        if self.slots:
            self.slots.pop(self.places[self.row][0])
            self.row = min(self.row, max(len(self.places) - 1, 0))
            self._changed()

    def action_add(self) -> None:
        """Ask for a stage to add."""
        self.post_message(ChainPanel.StageAddRequested())

    def action_type(self) -> None:
        """Type the value."""
        if (here := self._here()) and here[1] is not None:
            self.post_message(_ValueWanted(self.row, _shown(getattr(here[0].stage, here[1].name))))

    def set_value(self, row: int, text: str) -> None:
        """Give a row's parameter a typed value.

        Raises:
            ChainError: it cannot have this value.
        """
        place, parameter = self.places[row]
        slot = self.slots[place]
        if parameter is not None:
            values = {each.name: getattr(slot.stage, each.name) for each in parameters(type(slot.stage))}
            slot.stage = build(type(slot.stage), values | {parameter.name: text})
            slot.on = True
            self._changed()

    def _here(self) -> tuple[_Slot, Parameter | None] | None:
        if not self.slots:
            return None
        place, parameter = self.places[self.row]
        return self.slots[place], parameter

    def _changed(self) -> None:
        self.refresh(layout=True)
        self.post_message(ChainPanel.ChainChanged(Chain(tuple(slot.stage for slot in self.slots if slot.on))))


@dataclass
class _ValueWanted(Message):
    row: int
    value: str


class ChainPanel(Vertical):
    """The chain, and a field for typed values that is there only while one types."""

    DEFAULT_CSS = """
    ChainPanel {
        height: auto;
        _Rows {
            height: auto;
            &> .chain--title { color: $text-muted; }
            &:focus > .chain--title { color: $accent; text-style: bold; }
            &> .chain--name { color: $foreground; }
            &> .chain--value { color: $foreground; text-style: bold; }
            &> .chain--cursor { color: $accent; text-style: bold; }
            &> .chain--off { color: $text-muted; text-style: dim; }
        }
        Input { display: none; margin: 0; }
        Input.-open { display: block; }
    }
    """

    @dataclass
    class ChainChanged(Message):
        """The chain is another one now."""

        chain: Chain

    class StageAddRequested(Message):
        """A stage is to be chosen and added."""

    def compose(self) -> ComposeResult:
        yield _Rows()
        yield Input(compact=True)

    def set_chain(self, chain: Chain) -> None:
        """Show a chain; stages that were switched off here are forgotten."""
        rows = self.query_one(_Rows)
        rows.slots = [_Slot(stage) for stage in chain]
        rows.row = min(rows.row, max(len(rows.places) - 1, 0))
        rows.refresh(layout=True)

    @on(_ValueWanted)
    def _open(self, event: _ValueWanted) -> None:
        field = self.query_one(Input)
        self._row = event.row
        field.value = event.value
        field.add_class("-open")
        field.focus()

    @on(Input.Submitted)
    def _typed(self, event: Input.Submitted) -> None:
        event.stop()
        try:
            self.query_one(_Rows).set_value(self._row, event.value.strip())
        except ChainError as error:
            self.notify(str(error), severity="warning", markup=False)
            return
        self._close()

    def key_escape(self) -> None:
        """Leave the field with the value as it was."""
        if self.query_one(Input).has_focus:
            self._close()

    def _close(self) -> None:
        self.query_one(Input).remove_class("-open")
        self.query_one(_Rows).focus()


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
