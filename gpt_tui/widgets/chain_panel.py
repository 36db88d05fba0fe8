"""ChainPanel: the chain of stages, a row a parameter, changed by keys while text streams. Knows only `samplers`."""

from dataclasses import dataclass, replace
from textwrap import wrap
from typing import Any, ClassVar, NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from textual import on
from textual.actions import SkipAction
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Input

from gpt_tui.widgets.funnel import fitted
from samplers import Chain, ChainError, Parameter, Stage, build, is_off, nudged, parameters

EMPTY = "No stages: tokens are drawn from the model's own distribution. a adds one."
VALUE = 6
"""Cells of a value: rows keep their shape while numbers change."""
LABEL = 12


@dataclass(frozen=True)
class _Slot:
    """A stage of the panel. One that is switched off keeps its place and values here and is not in the chain."""

    stage: Stage
    on: bool = True

    @property
    def quiet(self) -> bool:
        """Whether it changes nothing: switched off, or with a parameter at its off value."""
        return not self.on or is_off(self.stage)


class _Row(NamedTuple):
    slot: int
    parameter: Parameter | None
    """None where a stage has no parameters, or several: then it heads theirs."""
    alone: bool
    """The stage has no other row."""


class ChainPanel(Widget, can_focus=True):
    """A row for each parameter of each stage; every change is posted as a new chain."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "row(-1)", "Row above", show=False),
        Binding("down", "row(1)", "Row below", show=False),
        Binding("left,minus", "nudge(-1)", "Change", key_display="←→"),
        Binding("right,plus,equals_sign", "nudge(1)", "More", show=False),
        Binding("enter", "type", "Type"),
        Binding("space", "switch", "On/off"),
        Binding("shift+up,K", "move(-1)", "Move", show=False, key_display="⇧↑↓"),
        Binding("shift+down,J", "move(1)", "Act later", show=False),
        Binding("x,delete", "remove", "Remove", show=False),
        Binding("a", "add", "Add"),
        Binding("p", "preset", "Preset", show=False),
        Binding("escape", "cancel", "Cancel", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        f"chain-panel--{name}" for name in ("title", "name", "value", "here", "off", "error")
    }
    DEFAULT_CSS = """
    ChainPanel {
        height: auto;
        & > .chain-panel--title { color: $text-muted; }
        & > .chain-panel--name { color: $foreground; }
        & > .chain-panel--value { color: $foreground; text-style: bold; }
        & > .chain-panel--here { color: $accent; text-style: bold; }
        & > .chain-panel--off { color: $text-disabled; }
        & > .chain-panel--error { color: $text-warning; }
        &:focus-within > .chain-panel--title { color: $accent; text-style: bold; }
        &:ansi > .chain-panel--off, &:nocolor > .chain-panel--off { text-style: dim; }
        & > Input {
            display: none;
            position: absolute;
            width: 10;
            height: 1;
            border: none;
            padding: 0 1;
            background: $panel;
        }
        &.-typing > Input { display: block; }
    }
    """

    @dataclass
    class ChainChanged(Message):
        """The chain is another one now."""

        chain: Chain

    class StageAddRequested(Message):
        """A stage is to be chosen and added."""

    class PresetRequested(Message):
        """A preset is to be chosen."""

    def __init__(self) -> None:
        super().__init__()
        self._slots: list[_Slot] = []
        self._row = 0
        self._error = ""
        self._names = ("", "")  # of the preset, of the decoder

    def compose(self) -> ComposeResult:
        field = Input(compact=True, select_on_focus=True)
        field.cursor_blink = False
        yield field

    @property
    def chain(self) -> Chain:
        """The stages that are switched on, in order."""
        return Chain(tuple(slot.stage for slot in self._slots if slot.on))

    def set_chain(self, chain: Chain) -> None:
        """Show a chain. Stages that are switched off stay where they were, unless it is wholly another chain."""
        if chain == self.chain:
            return
        coming = [stage.name for stage in chain]
        kept: list[tuple[int, _Slot]] = []  # how many of the stages that are on stand before it
        before = 0
        for slot in self._slots:
            if slot.on and slot.stage.name not in coming:
                kept = []
                break
            kept += [] if slot.on else [(before, slot)]
            before += slot.on
        slots = [_Slot(stage) for stage in chain]
        for place, slot in reversed(kept):
            slots.insert(place, slot)
        self._show(slots)

    def set_names(self, preset: str, decoder: str) -> None:
        """Show the name of the preset that the chain is, and what drives the model; both may be empty."""
        if self._names != (preset, decoder):
            self._names = (preset, decoder)
            self.refresh()

    # --- rows

    @property
    def _rows(self) -> list[_Row]:
        rows = []
        for place, slot in enumerate(self._slots):
            known = parameters(type(slot.stage))
            if len(known) <= 1:
                rows.append(_Row(place, known[0] if known else None, alone=True))
            else:
                rows.append(_Row(place, None, alone=False))
                if not slot.quiet:  # what is off takes one row, whatever it could be set to
                    rows += [_Row(place, each, alone=False) for each in known]
        return rows

    @property
    def _here(self) -> _Row | None:
        rows = self._rows
        return rows[self._row] if rows else None

    def _notes(self, width: int) -> list[str]:
        """Return what stands under the rows, or instead of them."""
        return wrap(self._error or ("" if self._slots else EMPTY), max(width, 12))

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """Return the title's line, the rows', the notes'."""
        return 1 + len(self._rows) + len(self._notes(width))

    def render_line(self, y: int) -> Strip:
        """Return the title, a row, or a line of a note."""
        rows, (width, height), base = self._rows, self.size, self.rich_style
        notes = self._notes(width)
        room = max(height - 1 - len(notes), 1)
        top = max(self._row - room + 1, 0)
        shown = rows[top : top + room]
        if y == 0:
            place = f" {self._row + 1}/{len(rows)}" if len(rows) > room else ""
            preset, decoder = self._names
            title = f"chain{place}" + (f"  {preset}" if preset else "")
            segments = [Segment(title, self._style("title"))]
            if decoder:
                driver = fitted(decoder, max(width - cell_len("chain") - 2, 1))
                room = max(width - cell_len(driver), 0)
                segments = [
                    Segment(set_cell_size(fitted(title, room - 2), room), self._style("title")),
                    Segment(driver, self._style("here")),
                ]
        elif y <= len(shown):
            segments = self._row_segments(shown[y - 1], top + y - 1 == self._row, width)
        elif y - 1 - len(shown) < len(notes):
            segments = [Segment(notes[y - 1 - len(shown)], self._style("error" if self._error else "title"))]
        else:
            segments = []
        return Strip(segments).adjust_cell_length(width, base)

    def _row_segments(self, row: _Row, current: bool, width: int) -> list[Segment]:
        slot, here = self._slots[row.slot], current and (self.has_focus or self.has_class("-typing"))
        label, detail = slot.stage.name, ""
        if row.parameter and not row.alone:
            label = f"  {row.parameter.name}"
        elif row.parameter and width >= 30 and row.parameter.name != label:
            detail = f" {row.parameter.name}"
        value = "" if row.parameter is None else _format(getattr(slot.stage, row.parameter.name), row.parameter)
        quiet = slot.quiet
        if quiet and not (here and row.parameter and slot.on):
            value = "off"
        arrows = ("◂ ", " ▸") if here and row.parameter and slot.on else ("  ", "  ")
        room = self._label_cells(width)
        name = fitted(label, room)
        return [
            Segment("▸ " if here else "  ", self._style("here")),
            Segment(name, self._style("here" if here else "off" if quiet else "name")),
            Segment(set_cell_size(detail, room - cell_len(name)), self._style("off")),
            Segment(arrows[0], self._style("here")),
            Segment(_fitted(value), self._style("here" if here else "off" if quiet else "value")),
            Segment(arrows[1], self._style("here")),
        ]

    @staticmethod
    def _label_cells(width: int) -> int:
        return max(min(width - VALUE - 6, LABEL + 6), 1)

    def _style(self, name: str) -> Any:
        return self.get_component_rich_style(f"chain-panel--{name}")

    # --- keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """While a value is typed, the keys are the field's."""
        return action == "cancel" or not self.has_class("-typing")

    def action_row(self, by: int) -> None:
        """Go to another row."""
        self._show(self._slots, self._row + by)

    def action_nudge(self, presses: int) -> None:
        """Move the value by a step; a stage that is off comes on."""
        if (row := self._here) and row.parameter:
            stage = nudged(self._slots[row.slot].stage, row.parameter.name, presses)
            self._change(row.slot, _Slot(stage))
        elif row and self._slots[row.slot].quiet:
            self.action_switch()

    def action_switch(self) -> None:
        """Switch the stage off or on."""
        if row := self._here:
            slot = self._slots[row.slot]
            self._change(row.slot, _Slot(_woken(slot.stage)) if slot.quiet else replace(slot, on=False))

    def action_move(self, by: int) -> None:
        """Let the stage act earlier or later."""
        if row := self._here:
            slots = list(self._slots)
            place = min(max(row.slot + by, 0), len(slots) - 1)
            slots.insert(place, slots.pop(row.slot))
            before = self.chain
            self._show(slots, 0)
            self._show(slots, self._rows.index(row._replace(slot=place)))
            self._post(before)

    def action_remove(self) -> None:
        """Take the stage out."""
        if row := self._here:
            before = self.chain
            self._show([slot for place, slot in enumerate(self._slots) if place != row.slot])
            self._post(before)

    def action_add(self) -> None:
        """Ask for a stage to add."""
        self.post_message(self.StageAddRequested())

    def action_preset(self) -> None:
        """Ask for a preset to take."""
        self.post_message(self.PresetRequested())

    def _change(self, place: int, slot: _Slot) -> None:
        before, here = self.chain, self._here
        self._show([*self._slots[:place], slot, *self._slots[place + 1 :]])
        if here is not None and here.slot == place:  # rows may have come or gone
            same = [number for number, row in enumerate(self._rows) if row == here]
            self._row = same[0] if same else next(n for n, row in enumerate(self._rows) if row.slot == place)
        self._post(before)

    def _show(self, slots: list[_Slot], row: int | None = None) -> None:
        height = len(self._rows)
        self._slots, self._error = slots, ""
        self._row = min(max(self._row if row is None else row, 0), max(len(self._rows) - 1, 0))
        self.refresh(layout=len(self._rows) != height)

    def _post(self, before: Chain) -> None:
        if self.chain != before:
            self.post_message(self.ChainChanged(self.chain))

    # --- typing a value

    def action_type(self) -> None:
        """Open a field over the value."""
        row = self._here
        if row is None or row.parameter is None:
            return
        field = self.query_one(Input)
        rows, room = len(self._rows), max(self.size.height - 1, 1)
        top = max(self._row - room + 1, 0) if rows > room else 0
        field.styles.offset = (2 + self._label_cells(self.size.width), 1 + self._row - top)
        field.value = _format(getattr(self._slots[row.slot].stage, row.parameter.name), row.parameter)
        self.add_class("-typing")
        field.focus()

    def action_cancel(self) -> None:
        """Leave the field with the value as it was; Escape is somebody else's when no field is open."""
        if not self.has_class("-typing"):
            raise SkipAction()
        self._close()

    @on(Input.Submitted)
    def _typed(self, event: Input.Submitted) -> None:
        event.stop()
        row = self._here
        if row is None or row.parameter is None:
            return
        stage = self._slots[row.slot].stage
        values = {each.name: getattr(stage, each.name) for each in parameters(type(stage))}
        try:
            typed = build(type(stage), values | {row.parameter.name: event.value.strip()})
        except ChainError as error:
            self._error = str(error)
            self.refresh(layout=True)
            return
        self._change(row.slot, _Slot(typed))
        self._close()

    @on(Input.Changed)
    def _typing(self, event: Input.Changed) -> None:
        event.stop()

    @on(Input.Blurred)
    def _left(self, event: Input.Blurred) -> None:
        event.stop()
        self._close(refocus=False)

    def _close(self, refocus: bool = True) -> None:
        if self.has_class("-typing"):
            self.remove_class("-typing")
            if refocus:
                self.focus()
            self._error = ""
            self.refresh(layout=True)


def _woken(stage: Stage) -> Stage:
    """Return the stage with what stands at its off value at its default, or a press away where that is off too."""
    for each in parameters(type(stage)):
        if each.param.off is not None and getattr(stage, each.name) == each.param.off:
            if each.default != each.param.off:
                stage = replace(stage, **{each.name: each.default})  # type: ignore[type-var]
            else:
                stage = nudged(stage, each.name, 1 if each.param.off < each.param.hi else -1)
    return stage


def _format(value: Any, parameter: Parameter) -> str:
    """Return a value with the decimals of its step, so that it keeps its width while it is nudged."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, float):
        return str(value)
    decimals = len(f"{parameter.param.step:g}".partition(".")[2])
    fixed = f"{value:.{decimals}f}"
    return fixed if float(fixed) == value and not parameter.param.log else f"{value:.4g}"


def _fitted(value: str) -> str:
    return value.rjust(VALUE) if cell_len(value) <= VALUE else f"{set_cell_size(value, VALUE - 1)}…"
