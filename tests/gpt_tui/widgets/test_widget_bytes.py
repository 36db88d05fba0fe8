"""What the widgets send to a terminal, counted in a real pseudo-terminal: a few dozen bytes a token, none when idle."""

import os
import sys
import time

import pexpect

TOKENS, RATE = 240, 80
SCRIPT = f"""
import asyncio, os
from textual.app import App
from gpt_model.token_record import Token
from gpt_tui.widgets.token_view import Span, TokenView

WORDS = "the king of shadows , and we shall\\n speak no more until it is day .".split(" ")

class Streaming(App):
    CSS = "TokenView {{ padding: 0 1; }}"
    def compose(self):
        yield TokenView()
    def on_mount(self):
        self.query_one(TokenView).set_document([Span("line\\n" * 40, "prompt")])
        self.run_worker(self.stream())
    async def stream(self):
        view = self.query_one(TokenView)
        await asyncio.sleep(0.5)
        os.write(1, b"@@")
        for number in range({TOKENS}):
            text = " " + WORDS[number % len(WORDS)]
            token = Token(0, number, number, 1, text, 0.5, 0.5, 0, 1.0, 0.5, 10.0)
            view.append(Span(text, "model", token))
            await asyncio.sleep(1 / {RATE})
        await asyncio.sleep(0.5)
        os.write(1, b"@@")

Streaming().run()
"""


def test_a_token_costs_few_bytes_and_silence_none() -> None:
    env = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", "COLUMNS": "80", "LINES": "24"}
    for name in ("SSH_CONNECTION", "NO_COLOR"):
        env.pop(name, None)
    child = pexpect.spawn(sys.executable, ["-c", SCRIPT], dimensions=(24, 80), env=env, timeout=60)
    try:
        child.expect_exact(b"@@")
        child.expect_exact(b"@@")
        streamed = len(child.before)
        assert streamed / TOKENS <= 150, f"{streamed / TOKENS:.0f} bytes a token"
        assert streamed / TOKENS >= 5, "the text was not drawn at all"
        idle = b""
        end = time.monotonic() + 2
        while time.monotonic() < end:
            try:
                idle += child.read_nonblocking(1 << 16, timeout=0.1)
            except pexpect.TIMEOUT:
                continue
        assert idle == b""
    finally:
        child.close(force=True)
