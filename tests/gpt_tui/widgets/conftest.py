"""What the widgets' tests share: waiting for a condition, an app around one widget, tokens."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import pytest
from textual.app import App, ComposeResult
from textual.message import Message
from textual.pilot import Pilot
from textual.widget import Widget

from gpt_model.token_record import Account, Candidate, Token


@pytest.fixture
def wait_until() -> Callable[[Pilot, Callable[[], Any]], Awaitable[None]]:
    async def wait(pilot: Pilot, met: Callable[[], Any], seconds: float = 8.0) -> None:
        end = time.monotonic() + seconds
        while not met():
            assert time.monotonic() < end, "the condition was never met"
            await pilot.pause()
            await asyncio.sleep(0.01)

    return wait


class Around(App[None]):
    """An app with one widget that keeps every message that the widget's own class posted."""

    ENABLE_COMMAND_PALETTE: ClassVar[bool] = False

    def __init__(self, widget: Widget, css: str = "", ansi: bool = False) -> None:
        type(self).CSS = css
        super().__init__()
        self.widget = widget
        self.posted: list[Message] = []
        if ansi:
            self.theme = "ansi-dark"

    def compose(self) -> ComposeResult:
        yield self.widget

    async def on_event(self, event: Any) -> None:
        await super().on_event(event)

    async def _on_message(self, message: Message) -> None:
        if type(message).__qualname__.startswith(f"{type(self.widget).__name__}."):
            self.posted.append(message)
        await super()._on_message(message)

    def lines(self) -> list[str]:
        """What the widget shows, line by line."""
        height = self.widget.size.height
        return [self.widget.render_line(y).text for y in range(height)]


@pytest.fixture
def around() -> type[Around]:
    return Around


def make_token(
    text: str,
    index: int = 0,
    p: float = 0.5,
    rank: int = 0,
    entropy: float = 1.0,
    candidates: tuple[Candidate, ...] = (),
    accounts: tuple[Account, ...] = (),
    **more: Any,
) -> Token:
    return Token(
        sample=0, index=index, position=index + 3, id=index, text=text, p_model=p, p_chain=min(p * 1.4, 1.0), rank=rank,
        entropy=entropy, uniform=0.412, milliseconds=20.0, candidates=candidates, accounts=accounts, **more,
    )  # fmt: skip


@pytest.fixture
def token() -> Callable[..., Token]:
    return make_token
