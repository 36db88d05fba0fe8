"""What the widgets' tests share: waiting for a condition, an app around one widget, tokens."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
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
    """An app with one widget. It keeps every message that the widget's own class defines."""

    ENABLE_COMMAND_PALETTE: ClassVar[bool] = False

    def __init__(self, widget: Widget, theme: str = "textual-dark", css: str = "") -> None:
        super().__init__()
        self.widget = widget
        self.theme = theme
        self.posted: list[Any] = []
        self.stylesheet.add_source(css)

    def compose(self) -> ComposeResult:
        yield self.widget

    def hear(self, message: Message) -> None:
        """Keep a message; it passes here once for every node that it reaches."""
        own = type(message).__qualname__.startswith(f"{type(self.widget).__name__}.")
        if own and not any(message is each for each in self.posted):
            self.posted.append(message)

    def lines(self) -> list[str]:
        """What the widget shows, line by line."""
        return [self.widget.render_line(y).text for y in range(self.widget.size.height)]

    @asynccontextmanager
    async def running(self, size: tuple[int, int] = (40, 12)) -> AsyncIterator[Pilot[None]]:
        """Run the app, the widget focused where it can be."""
        async with self.run_test(size=size, message_hook=self.hear) as pilot:
            self.widget.focus()
            await pilot.pause()
            yield pilot


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
