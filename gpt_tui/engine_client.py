"""The app's side of the wire: starts the engine's process, talks to it, and notices when it dies. Knows no torch."""

import asyncio
import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt_model.errors import GptError
from gpt_model.processes import computing_environment
from gpt_tui import wire

_LONGEST_LINE = 1 << 24  # a prompt of a million tokens still fits


@dataclass(frozen=True)
class EngineDied:
    """The process ended without being asked to."""

    message: str


def engine_command() -> list[str]:
    """Return the command that starts an engine on this machine."""
    return [sys.executable, "-P", "-m", "gpt_tui.engine_process"]


class EngineClient:
    """One engine process. Every event it sends, and its death, is given to `receive`, in the app's own thread."""

    def __init__(
        self,
        receive: Callable[[wire.Event | EngineDied], None],
        log: Path,
        command: Sequence[str] | None = None,
    ) -> None:
        self._receive = receive
        self._log = log
        self._command = list(command or engine_command())
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start the process, or start it again after it died."""
        await self.stop()
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._log.open("wb") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=log,
                    limit=_LONGEST_LINE,
                    # Ctrl-C in the terminal is for the app; the engine must live through it.
                    start_new_session=True,
                    env=computing_environment(),
                )
        except OSError as error:
            self._receive(EngineDied(f"The engine could not be started: {error}."))
            return
        self._reader = asyncio.create_task(self._read(self._process), name="engine events")
        self._reader.add_done_callback(self._read_ended)

    def send(self, message: wire.Request) -> None:
        """Send a request; to a dead engine it is lost, and its death has been told."""
        if self.alive and self._process and self._process.stdin:
            with contextlib.suppress(ConnectionError, RuntimeError):
                self._process.stdin.write(wire.to_line(message).encode() + b"\n")

    async def stop(self) -> None:
        """End the process: close its input, wait a little, then insist."""
        process, self._process = self._process, None
        if process is None:
            return
        if self._reader:
            self._reader.cancel()
        if process.stdin:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), timeout=1.0)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # asked for above
        while line := await process.stdout.readline():
            try:
                event = wire.from_line(line)
            except GptError as error:
                event = wire.EngineFailed(str(error))
            self._receive(event)  # type: ignore[arg-type]
            # A fast model can keep the pipe full for ever: the app must get its turn between two tokens.
            await asyncio.sleep(0)
        code = await process.wait()
        if process is self._process:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            self._receive(EngineDied(f"The engine ended ({how}). {self._last_words()}".strip()))

    def _read_ended(self, task: asyncio.Task[None]) -> None:
        """A fault in whoever receives the events must not look like an engine that has nothing to say."""
        if not task.cancelled() and (error := task.exception()):
            self._receive(EngineDied(f"What the engine said could not be shown: {type(error).__name__}: {error}."))

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            return lines[-1] if lines else ""
        return ""
