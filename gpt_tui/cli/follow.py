"""Watching a run from the command line: one redrawn line on a terminal, else plain lines; on standard error."""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import click

from gpt_model.errors import RunError
from gpt_model.runs import ALIVE, Run, Status
from gpt_tui.cli.interrupts import Interrupts
from gpt_tui.cli.table import format_duration

POLL_SECONDS = 0.25
QUIET_SECONDS = 60.0
"""Plain output says how far the run is when nothing has happened for so long."""

CLEARED = "\r\x1b[K"

_LAST_WORDS = ("finish", "stop", "fail")


class Follower:
    """Tells what a run does from now on. Made before the run is launched, it misses nothing."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._offset = run.read_events()[1]
        self._events: list[dict[str, object]] = []
        self.live = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        """Whether the progress is one line, redrawn."""
        self._line = ""
        self._told_at = time.monotonic()

    def follow(self, leaving: Callable[[], bool] = lambda: False) -> Status:
        """Tell until the run ends, or until `leaving` says so; return the status it has then."""
        while True:
            status = self._run.status()
            ended = status.state not in ALIVE  # asked before the events are read: then none is missed
            self._tell_events(status, ended)
            if ended or leaving():
                self.clear()
                return status
            self._tell_progress(status)
            time.sleep(POLL_SECONDS)

    def clear(self) -> None:
        """Take the redrawn line away."""
        if self._line:
            click.echo(CLEARED, err=True, nl=False)
            self._line = ""

    def _tell_events(self, status: Status, ended: bool) -> None:
        new, self._offset = self._run.read_events(self._offset)
        self._events += new
        while self._events:
            event = self._events[0]
            if len(self._events) == 1 and event["kind"] in _LAST_WORDS:
                # Perhaps the run's last word: then whoever follows tells it, in its own way.
                if not ended:
                    return
                if event["message"] == status.message:
                    self._events.clear()
                    return
            self.clear()
            clock = time.strftime("%H:%M:%S", time.localtime(float(str(event["time"]))))
            click.echo(f"{clock}  step {event['step']:,}  {event['message']}", err=True)
            self._told_at = time.monotonic()
            del self._events[0]

    def _tell_progress(self, status: Status) -> None:
        if self.live:
            try:
                width = os.get_terminal_size(sys.stderr.fileno()).columns
            except OSError:
                width = 80
            line = progress_line(status, width - 1)
            if line != self._line:
                click.echo(f"\r{line}\x1b[K", err=True, nl=False)
                self._line = line
        elif time.monotonic() - self._told_at >= QUIET_SECONDS:
            self._told_at = time.monotonic()
            click.echo(f"{time.strftime('%H:%M:%S')}  {describe(status)}", err=True)


def progress_line(status: Status, width: int) -> str:
    """Return a bar and what `describe` says, cut to a width."""
    words = describe(status)
    cells = min(width - len(words) - 2, 30)
    if cells < 5:
        return words[:width]
    filled = round(cells * min(status.step / max(status.max_steps, 1), 1.0))
    return f"{'█' * filled}{'─' * (cells - filled)}  {words}"


def describe(status: Status) -> str:
    """Return how far a run is, what its losses are, how fast it goes and how long it will take, in one line."""
    words = [f"step {status.step:,}/{status.max_steps:,}"]
    if status.phase not in ("", "training"):
        words.insert(0, status.phase)
    for name, loss in (("train", status.train_loss), ("val", status.val_loss)):
        if loss is not None:
            words.append(f"{name} {loss:.3f}")
    if status.tokens_per_second:
        words.append(f"{status.tokens_per_second:,.0f} tok/s")
    if status.eta_seconds is not None:
        words.append(f"{format_duration(status.eta_seconds)} left")
    return "  ".join(words)


def launch_and_follow(run: Run, detach: bool, processes: int | None = None) -> int:
    """Launch a run's worker (of so many processes, if given) and follow it unless `detach`; return the exit code.

    The first Ctrl-C asks the run to save and stop, and waits for that; the second leaves it to itself. The run's name
    is all that comes on standard output.

    Raises:
        RunError: the worker cannot be started, or the run failed or was lost.
    """
    if detach:
        run.launch(processes)
        click.echo(run.name)
        return 0
    return _follow(run, lambda: run.launch(processes))


def follow_running(run: Run) -> int:
    """Follow a run that is running already, as `launch_and_follow` does."""
    return _follow(run, lambda: None)


def _follow(run: Run, launch: Callable[[], None]) -> int:
    follower = Follower(run)

    def leave() -> tuple[str, str]:
        cleared = CLEARED if follower.live else ""
        words = f"Left; the run saves and stops by itself. Look again: gpt-tui runs watch {run.name}"
        return f"{run.name}\n", f"{cleared}{words}\n"

    with Interrupts((signal.SIGINT,), leave) as interrupts:
        launch()
        status = follower.follow(interrupts.event.is_set)
        if interrupts.event.is_set() and status.state in ALIVE:
            with suppress(RunError):  # it ended in this very moment
                run.send("stop")
            click.echo("Saving and stopping. Ctrl-C again leaves the run to itself.", err=True)
            status = follower.follow()
    tell_end(run, status)
    click.echo(run.name)
    return interrupts.exit_code


def tell_end(run: Run, status: Status) -> None:
    """Tell how a run ended.

    Raises:
        RunError: it failed or was lost.
    """
    if status.state in ("failed", "lost"):
        raise RunError(status.message)
    named = (("train", status.train_loss), ("val", status.val_loss))
    losses = [f"{name} {loss:.4f}" for name, loss in named if loss is not None]
    if status.best_val_loss is not None and status.best_step is not None:
        losses.append(f"best val {status.best_val_loss:.4f} at step {status.best_step:,}")
    told = f" Loss: {', '.join(losses)}." if losses else ""
    click.echo(f"{status.message}{told} It took {format_duration(status.elapsed_seconds)}.", err=True)
    if run.checkpoints():
        click.echo(f"Write with it: gpt-tui complete -m {run.name}", err=True)
