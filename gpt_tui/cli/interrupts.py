"""Interrupts: the first Ctrl-C asks politely, the second leaves at once."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType


class Interrupts:
    """Inside the context a first signal sets `event`, and a second one ends the process with 128 + its number.

    Args:
        signals: the numbers that are obeyed.
        last_words: asked when the second one comes, for what is then written on standard output and standard error.
    """

    def __init__(
        self,
        signals: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM),
        last_words: Callable[[], tuple[str, str]] | None = None,
    ) -> None:
        self.event = threading.Event()
        self.signal: int | None = None
        self._signals = signals
        self._last_words = last_words

    @property
    def exit_code(self) -> int:
        """0, or 128 and the number of the signal that came."""
        return 128 + self.signal if self.signal else 0

    def __enter__(self) -> "Interrupts":
        self._before = {number: signal.signal(number, self._came) for number in self._signals}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _came(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            try:
                if self._last_words:
                    # Not by print: the signal may have come while the same stream was written, which allows no second.
                    for stream, words in zip((sys.stdout, sys.stderr), self._last_words(), strict=True):
                        with suppress(OSError):
                            os.write(stream.fileno(), words.encode())
            finally:
                os._exit(128 + number)
        self.signal = number
        self.event.set()
