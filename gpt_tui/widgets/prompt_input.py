"""PromptInput: where one writes the prompt. Several lines, history, pasted newlines kept. Knows no page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea

from gpt_tui.widgets.terminal_keys import teach_keys

teach_keys()

# A control character in a pasted text must reach the model and not the terminal.
_PICTURES = {code: 0x2400 + code for code in range(32) if code not in (9, 10)}
_PICTURES |= dict.fromkeys(range(127, 160), ord("␡"))


class PromptInput(TextArea):
    """Enter submits; Alt+Enter and Ctrl+J begin a new line; ↑ and ↓ at the edges walk the history."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Complete"),
        Binding("alt+enter,shift+enter,ctrl+j", "newline", "New line", show=False),
        Binding("ctrl+g", "editor", "Editor", show=False, tooltip="Write in your own editor"),
    ]
    DEFAULT_CSS = """
    PromptInput {
        height: auto;
        max-height: 6;
        min-height: 1;
        border: none;
        padding: 0 1 0 0;
        scrollbar-size-vertical: 1;
        &:focus { border: none; }
        .text-area--cursor-line { background: transparent; }
    }
    """

    @dataclass
    class Submitted(Message):
        """The prompt is done; the field is empty again."""

        text: str

    @dataclass
    class EditorRequested(Message):
        """The text is to be edited elsewhere."""

        text: str

    def __init__(self) -> None:
        super().__init__(
            soft_wrap=True, show_line_numbers=False, compact=True, tab_behavior="focus", highlight_cursor_line=False,
            placeholder="a text to go on from · Enter completes · Enter alone goes on",
        )  # fmt: skip
        self.cursor_blink = False
        self._history: list[str] = []
        self._place = 0
        self._draft = ""

    def set_history(self, prompts: Sequence[str]) -> None:
        """Give the prompts of before, oldest first."""
        self._history = list(prompts)
        self._place = len(self._history)

    def action_submit(self) -> None:
        """Give the text away and begin anew."""
        text = self.text
        if text and (not self._history or self._history[-1] != text):
            self._history.append(text)
        self._place = len(self._history)
        self.text = ""
        self.post_message(self.Submitted(text))

    def action_newline(self) -> None:
        """Begin a new line."""
        self.insert("\n")

    def action_editor(self) -> None:
        """Ask for the person's own editor."""
        self.post_message(self.EditorRequested(self.text))

    def action_cursor_up(self, select: bool = False) -> None:
        """Go a line up; from the first one, a prompt back."""
        if select or self._line > 0 or self._place == 0:
            super().action_cursor_up(select)
            return
        if self._place == len(self._history):
            self._draft = self.text
        self._show(self._place - 1)

    def action_cursor_down(self, select: bool = False) -> None:
        """Go a line down; from the last one, a prompt forward, at the end to what was being written."""
        if select or self._line < self.wrapped_document.height - 1 or self._place == len(self._history):
            super().action_cursor_down(select)
            return
        self._show(self._place + 1)

    @property
    def _line(self) -> int:
        """The line on the screen that the cursor is on."""
        return self.wrapped_document.location_to_offset(self.cursor_location).y

    async def _on_key(self, event: events.Key) -> None:
        # Terminals send Alt+H as a key with the character h, which a text area would write.
        if event.key.startswith("alt+"):
            event.prevent_default()
        # Here and not by a priority binding: that would overtake letters of a fast hand that are still on their way.
        if event.key == "enter":
            event.stop()
            event.prevent_default()
            self.action_submit()

    def get_line(self, line_index: int) -> Text:
        """Return a line as it is shown."""
        return Text(self.document.get_line(line_index).translate(_PICTURES), end="", no_wrap=True)

    def _show(self, place: int) -> None:
        self._place = place
        self.text = self._history[place] if place < len(self._history) else self._draft
        self.move_cursor(self.document.end)
