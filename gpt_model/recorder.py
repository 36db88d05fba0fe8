"""Recorder: what a worker writes into its run directory for others to read. Knows no torch.

A disk that is full or gone must not end the training: what cannot be written now is kept and written when there is room
again, and said once in log.txt.
"""

import contextlib
import dataclasses
import time
from collections import deque
from types import TracebackType
from typing import Any

from gpt_model.journal import Journal, sweep_temporaries
from gpt_model.narration import say
from gpt_model.runs import Run, Status

STATUS_SECONDS = 1.0
"""The status is replaced at most this often, unless it says something else and not only other numbers."""
_MOST_KEPT = 100_000
"""Lines of a journal that wait for room; beyond that the oldest are given up."""


class Recorder:
    """The worker's pen: status, metrics, events and samples."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._journals: dict[str, Journal] = {}
        self._waiting: dict[str, deque[dict[str, Any]]] = {}
        self._written_at = 0.0
        self._complained = False
        with contextlib.suppress(OSError):
            sweep_temporaries(run.directory)
        self.current = dataclasses.replace(run.status(), message="")
        """The status as it would be written now."""

    def status(self, **changes: Any) -> None:
        """Change the status; the file follows at once when state, phase or message change, else within a second."""
        before, self.current = self.current, dataclasses.replace(self.current, **changes)
        if _said(before) != _said(self.current) or time.monotonic() - self._written_at >= STATUS_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the status now."""
        self.current = dataclasses.replace(self.current, updated_at=time.time())
        self._written_at = time.monotonic()
        try:
            self._run.write_status(self.current)
        except OSError as error:
            self._complain("status.json", error)

    def metrics(self, **values: Any) -> None:
        """Append a line to metrics.jsonl."""
        self._append("metrics", {**values, "time": time.time()})

    def event(self, kind: str, message: str, **details: Any) -> None:
        """Append a line to events.jsonl: what happened, at the current step."""
        self._append("events", self._event(kind, message, details))

    def event_now(self, kind: str, message: str, **details: Any) -> bool:
        """Append a line to events.jsonl if that is possible at once; return whether it was."""
        self._wait_for_room("events", self._event(kind, message, details))
        written = self._write_waiting("events")
        if not written:
            self._waiting["events"].pop()
        return written

    def sample(self, prompt: str, text: str) -> None:
        """Append a line to samples.jsonl."""
        self._append("samples", {"time": time.time(), "step": self.current.step, "prompt": prompt, "text": text})

    def position(self, name: str) -> int:
        """Return how many bytes a journal has: what is appended from here on begins there."""
        try:
            return (self._run.directory / f"{name}.jsonl").stat().st_size
        except OSError:
            return 0

    def catch_up(self) -> None:
        """Write what waits for room."""
        for name in self._waiting:
            self._write_waiting(name)

    def close(self) -> None:
        """Write what waits, if that is possible now, and close the journals."""
        self.catch_up()
        while self._journals:
            self._journals.popitem()[1].close()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _event(self, kind: str, message: str, details: dict[str, Any]) -> dict[str, Any]:
        return {"time": time.time(), "step": self.current.step, "kind": kind, "message": message, **details}

    def _append(self, name: str, record: dict[str, Any]) -> None:
        self._wait_for_room(name, record)
        self._write_waiting(name)

    def _wait_for_room(self, name: str, record: dict[str, Any]) -> None:
        self._waiting.setdefault(name, deque(maxlen=_MOST_KEPT)).append(record)

    def _write_waiting(self, name: str) -> bool:
        """Write the lines of a journal that wait, oldest first; return whether that was all of them."""
        waiting = self._waiting.get(name, deque())
        try:
            if waiting and name not in self._journals:
                self._journals[name] = Journal(self._run.directory / f"{name}.jsonl")
            while waiting:
                self._journals[name].append(waiting[0])
                waiting.popleft()
        except OSError as error:
            # Reopened at the next line, which then ends the torn one first.
            if name in self._journals:
                self._journals.pop(name).close()
            self._complain(f"{name}.jsonl", error)
        return not waiting

    def _complain(self, name: str, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            say(f"{name} cannot be written: {error}. Training goes on.")


def _said(status: Status) -> tuple[str, str, str]:
    """Return what a status says, without the share in a phase such as "tokenizing, 34%"."""
    return status.state, status.phase.partition(",")[0], status.message
