"""Control: what reaches a worker from outside while it trains: signals and the mailbox. Knows no torch.

The first TERM or INT asks to save and leave, the second leaves at once, USR1 asks to save and go on (as batch systems
warn of their time limit), and HUP means nothing: a terminal that closes is no reason to stop.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from gpt_model.mailbox import Acknowledgement, Command, Mailbox
from gpt_model.runs import Run

POLL_SECONDS = 0.2
_PATIENCE_SECONDS = 5.0
"""For which a command waits until it can be carried out: who sent it waits twice as long for an answer."""
PATIENT = ("evaluate", "sample")
"""The commands that take long themselves, and so wait for one another."""


class Control:
    """Where a worker looks for orders: cheap enough to be asked at every step and every token."""

    def __init__(self, run: Run) -> None:
        self._mailbox = Mailbox(run.directory)
        self._polled_at = 0.0
        self._signals = 0
        self._commands: list[Command] = []
        self._seen: dict[str, float] = {}
        """When each was found."""

    @property
    def leaving(self) -> bool:
        """Whether a signal asked to leave, or a stop command waits: what can be broken off should be."""
        self._poll()
        return self._signals > 0 or any(command.name == "stop" for command in self._commands)

    @property
    def wanted(self) -> bool:
        """Whether somebody wants what cannot wait for an evaluation or a sample: nearly every command."""
        self._poll()
        return self._signals > 0 or any(command.name not in PATIENT for command in self._commands)

    def put_back(self, command: Command) -> None:
        """Have a command that was broken off carried out when those are that wait."""
        self._commands.append(command)

    def take(self) -> Command | None:
        """Return the oldest command that is not carried out yet. A signal to leave counts as the command `stop`."""
        if self._signals:
            return Command("", "stop", {})
        self._poll()
        return self._commands.pop(0) if self._commands else None

    def take_stop(self) -> Command | None:
        """Return the command to stop that waits, past older ones; None when only a signal asked for it."""
        return next((command for command in self._commands if command.name == "stop"), None)

    def acknowledge(self, command: Command, answer: Acknowledgement) -> None:
        """Answer a command; a signal needs no answer."""
        if command.id:
            with suppress(OSError):  # a full disk: it was carried out all the same
                self._mailbox.acknowledge(command.id, answer)

    def refuse_waiting(self, why: str) -> None:
        """Answer commands that have waited for long, while none but to stop can be carried out; signals wait on."""
        since = time.monotonic() - _PATIENCE_SECONDS
        for command in list(self._commands):
            if command.id and command.name != "stop" and self._seen[command.id] < since:
                self._commands.remove(command)
                self.acknowledge(command, Acknowledgement(False, why))

    def discard_rest(self) -> None:
        """Answer what came too late to be carried out."""
        self._mailbox.discard_stale()

    def wait(self) -> None:
        """Wait a little, less than anyone would notice."""
        time.sleep(POLL_SECONDS / 2)

    @contextmanager
    def signals(self, last_words: Callable[[], None]) -> Iterator[None]:
        """Obey signals inside the context; `last_words` is called before the second one ends the process.

        Python calls a signal's handler when the main thread comes back to it, and that thread may wait within a library
        for another process. So the second is heard by a thread, which Python writes every signal's number to at once.
        """

        def leave(number: int, frame: FrameType | None) -> None:
            self._signals += 1

        def hear() -> None:
            asked = 0
            while number := int.from_bytes(os.read(heard, 1)):
                asked += number in (signal.SIGTERM, signal.SIGINT)
                if asked > 1:
                    try:
                        last_words()
                    finally:
                        os._exit(128 + number)

        def save(number: int, frame: FrameType | None) -> None:
            self._commands.append(Command("", "checkpoint", {}))

        if threading.current_thread() is not threading.main_thread():  # Python gives signals to the main thread only
            yield
            return
        before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGINT)}
        before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, save)
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        heard, told = os.pipe()
        os.set_blocking(told, False)
        told_before = signal.set_wakeup_fd(told)
        hearing = threading.Thread(target=hear, name="signals", daemon=True)
        hearing.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(told_before)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(told)  # which ends the thread
            hearing.join()
            os.close(heard)

    def _poll(self) -> None:
        now = time.monotonic()
        if now - self._polled_at >= POLL_SECONDS:
            self._polled_at = now
            fresh = [command for command in self._mailbox.pending() if command.id not in self._seen]
            self._seen |= {command.id: now for command in fresh}
            self._commands += fresh
