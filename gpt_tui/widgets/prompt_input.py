"""PromptInput: where one writes the prompt. Several lines, history, pasted newlines kept. Knows no page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea

TALLEST = 6


class PromptInput(TextArea):
    """Enter submits; Alt+Enter and Ctrl+J begin a new line; ↑ and ↓ at the edges walk the history."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Complete", priority=True),
        Binding("alt+enter,ctrl+j", "newline", "New line", show=False),
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

    async def _on_key(self, event: events.Key) -> None:
        row = self.cursor_location[0]
        if event.key == "up" and row == 0 and self._place > 0:
            if self._place == len(self._history):
                self._draft = self.text
            self._show(self._place - 1)
        elif event.key == "down" and row == self.document.line_count - 1 and self._place < len(self._history):
            self._show(self._place + 1)
        else:
            await super()._on_key(event)
            return
        event.stop()
        event.prevent_default()

    def _show(self, place: int) -> None:
        self._place = place
        self.text = self._history[place] if place < len(self._history) else self._draft
        self.move_cursor(self.document.end)
