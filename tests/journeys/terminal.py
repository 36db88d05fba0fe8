"""A real pseudo-terminal with a screen one can read: what a person has in front of them."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pexpect
import pyte
from shared_cache import share_cache

KEYS = {
    "enter": "\r", "esc": "\x1b", "tab": "\t", "up": "\x1b[A", "down": "\x1b[B", "right": "\x1b[C", "left": "\x1b[D",
    "f1": "\x1bOP", "f2": "\x1bOQ", "f3": "\x1bOR", "f4": "\x1bOS", "f5": "\x1b[15~", "ctrl+q": "\x11",
}  # fmt: skip
GPT_TUI = str(Path(sys.executable).with_name("gpt-tui"))


class Terminal:
    """A program in a pseudo-terminal of a given size."""

    def __init__(self, home: Path, *arguments: str, columns: int = 80, rows: int = 24) -> None:
        share_cache(home)
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        environment = {**os.environ, "TERM": "xterm-256color", "GPT_TUI_HOME": str(home)}
        for name in ("SSH_CONNECTION", "TMUX", "NO_COLOR"):
            environment.pop(name, None)
        self.child = pexpect.spawn(GPT_TUI, list(arguments), dimensions=(rows, columns), env=environment, timeout=None)

    @property
    def text(self) -> str:
        """What stands on the screen."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    def until(self, true: str | Callable[[], bool], seconds: float = 60.0) -> None:
        """Read until a text stands on the screen, or something is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.pump(0.05)
            if true in self.text if isinstance(true, str) else true():
                return
        raise AssertionError(f"{true!r} never came; the screen:\n{self.text}")

    def until_still(self, quiet: float = 1.5, seconds: float = 20.0) -> None:
        """Read until nothing has come for `quiet` seconds: what was under way when the word came is drawn first."""
        end = time.monotonic() + seconds
        while self.pump(quiet):
            assert time.monotonic() < end, f"something moves on and on; the screen:\n{self.text}"

    def pump(self, seconds: float) -> int:
        """Read for a while; return how many bytes came."""
        end, received = time.monotonic() + seconds, 0
        while (left := end - time.monotonic()) > 0:
            try:
                data = self.child.read_nonblocking(1 << 16, timeout=left)
            except (pexpect.TIMEOUT, pexpect.EOF):
                break
            received += len(data)
            # pyte prints keyboard-protocol reports that it does not know
            for noise in (b"\x1b[>1u", b"\x1b[<u", b"\x1b[?u", b"\x1b[=1;1u"):
                data = data.replace(noise, b"")
            self._stream.feed(data)
        return received

    def press(self, *keys: str) -> None:
        """Press keys by name; anything else is typed."""
        for key in keys:
            self.child.send(KEYS.get(key, key))
            self.pump(0.15)

    def close(self) -> None:
        """Hang up, as a terminal that is closed does."""
        self.child.kill(signal.SIGHUP)
        self.child.close(force=True)
