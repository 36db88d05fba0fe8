"""The run directory: the only truth about a training run. Creates, lists, launches, reads and commands runs.

Any number of viewers read it and none is needed. Knows no torch and no screen; what a worker writes into it goes
through recorder.py, and training itself lives in training.py.

    config.toml     frozen when the run is created        commands/       one JSON file a command, and its .ack.json
    status.json     replaced atomically                   checkpoints/    step-00001000/ …, last →, best →
    metrics.jsonl, events.jsonl, samples.jsonl            data/           the token shards
    log.txt         what the worker printed               lock            flock, held by the worker as long as it lives
"""

import contextlib
import dataclasses
import json
import math
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gpt_model.config import RunConfig
from gpt_model.errors import GptError, RunError, did_you_mean
from gpt_model.journal import read_records, write_atomically
from gpt_model.mailbox import Acknowledgement, Mailbox, check_command
from gpt_model.processes import computing_environment
from gpt_model.run_birth import give_name, names_after, unfinished_directory
from gpt_model.run_lock import RunLock, is_locked, read_owner, terminate_holder

RunState = Literal["starting", "running", "paused", "finished", "stopped", "failed", "lost"]
ALIVE: tuple[RunState, ...] = ("starting", "running", "paused")
"""The states that need a living worker; without one the run is lost."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_STEP_DIRECTORY = re.compile(r"step-(\d+)")


@dataclass(frozen=True)
class Status:
    """What status.json says. Losses are nats a token; times are seconds, `*_at` since the epoch."""

    state: RunState = "stopped"
    phase: str = ""
    """What the worker is at: tokenizing, training, evaluating, saving, sampling, paused…"""
    step: int = 0
    max_steps: int = 0
    train_loss: float | None = None
    """Smoothed: a debiased exponential average of the raw losses."""
    val_loss: float | None = None
    best_val_loss: float | None = None
    best_step: int | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens_per_second: float | None = None
    eta_seconds: float | None = None
    elapsed_seconds: float = 0.0
    """Time spent training, over all launches, pauses left out."""
    pid: int | None = None
    started_at: float | None = None
    """When the present (or latest) worker was started."""
    updated_at: float | None = None
    message: str = ""
    exactness: str = ""
    """The verdict on the latest resume: EXACT, or APPROXIMATE and why; empty before there was one."""


@dataclass(frozen=True)
class SavedCheckpoint:
    """A committed checkpoint of a run."""

    step: int
    path: Path
    is_best: bool
    is_last: bool
    saved_at: float


@dataclass(frozen=True)
class Run:
    """A run directory and its frozen configuration."""

    directory: Path
    config: RunConfig

    @property
    def name(self) -> str:
        """The run's name, which is its directory's."""
        return self.directory.name

    @classmethod
    def create(cls, root: Path, config: RunConfig, name: str | None = None, text: Path | None = None) -> "Run":
        """Create a run directory under `root`; without a name it is named after its texts.

        A `text` on the same disk is moved into the directory, under the name of the configuration's first file.

        Raises:
            RunError: the name is taken or not a name, or the directory cannot be made.
        """
        if name is not None and not _NAME.fullmatch(name):
            raise RunError(
                f"'{name}' cannot be a run's name: use up to 64 letters, digits, dots, dashes and underscores, "
                "beginning with a letter or a digit."
            )
        try:
            with unfinished_directory(root) as made:
                (made / "commands").mkdir()
                (made / "checkpoints").mkdir()
                if text is not None:
                    text.rename(made / config.files[0])
                write_atomically(made / "config.toml", config.to_toml())
                directory = give_name(made, names_after(config) if name is None else [name])
        except OSError as error:
            raise RunError(f"The run's directory cannot be created under {root}: {error.strerror or error}.") from error
        return cls(directory, config)

    @classmethod
    def open(cls, root: Path, name: str) -> "Run":
        """Open the run of that name under `root`.

        Raises:
            RunError: there is none; the nearest name is in the message.
            ConfigError: its config.toml is damaged.
        """
        directory = root / name
        if not _NAME.fullmatch(name) or not (directory / "config.toml").is_file():
            names = [run.name for run in list_runs(root)]
            hint = did_you_mean(name, names) if names else " There are no runs yet."
            raise RunError(f"There is no run '{name}'.{hint}")
        return cls.at(directory)

    @classmethod
    def at(cls, directory: Path) -> "Run":
        """Open the run in that directory.

        Raises:
            ConfigError: it holds no config.toml, or a damaged one.
        """
        return cls(directory.absolute(), RunConfig.read(directory / "config.toml"))

    @property
    def texts(self) -> list[str]:
        """What it trains on: files, directories and globs. A relative one is a file of the run's own."""
        return [str(self.directory / file) for file in self.config.files]

    # --- reading

    def status(self) -> Status:
        """Return where the run stands; "lost" when its worker died without a word."""
        status = self._read_status()
        if status.state in ALIVE and not self.is_locked():
            # Between the two looks the worker may have written its last word and left; its last word counts.
            status = self._read_status()
            if status.state in ALIVE and not self.is_locked():
                message = self._obituary(status)
                return dataclasses.replace(status, state="lost", message=message, eta_seconds=None)
        return status

    def _obituary(self, status: Status) -> str:
        """Return what is known of a worker that died without a word."""
        heard = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(status.updated_at or 0))
        when = f", last heard of at {heard}" if status.updated_at else ""
        doing = f" while {status.phase}" if status.phase else ""
        reached = f" at step {status.step:,}" if status.step else ""
        saved = self.checkpoints()
        lost = status.step - (saved[-1].step if saved else 0)
        gone = f" {lost:,} steps since the last checkpoint are lost." if lost > 0 else ""
        how = "Resume the run to go on from its last checkpoint." if saved else "Resume the run to begin it again."
        return f"The worker died without a word{reached}{doing}{when}.{gone} {how}"

    def is_locked(self) -> bool:
        """Return whether a worker is alive on this run."""
        return is_locked(self.directory / "lock")

    def checkpoints(self) -> list[SavedCheckpoint]:
        """Return the committed checkpoints, ascending by step."""
        folder = self.directory / "checkpoints"
        best = _link_target(folder / "best")
        if best is None:  # a disk that has no links, or a copy that has followed them
            best = f"step-{self._read_status().best_step or 0:08d}"
        found = []
        with contextlib.suppress(FileNotFoundError):
            for path in folder.iterdir():
                match = _STEP_DIRECTORY.fullmatch(path.name)
                if match:
                    with contextlib.suppress(FileNotFoundError):  # pruned while we looked
                        found.append((int(match[1]), path, path.stat().st_mtime))
        found.sort()
        # The highest step is the last one, whatever the link says: a worker killed between commit and link leaves it
        # one checkpoint behind.
        return [
            SavedCheckpoint(step, path, is_best=path.name == best, is_last=index == len(found) - 1, saved_at=saved_at)
            for index, (step, path, saved_at) in enumerate(found)
        ]

    def checkpoint_path(self, which: str = "best-or-last") -> Path:
        """Return the directory of a checkpoint: "best", "last", a step such as "1000", or "" (best, else last).

        Raises:
            RunError: there is no such checkpoint; those that exist are in the message.
        """
        saved = self.checkpoints()
        if not saved:
            raise RunError(f"The run '{self.name}' has no checkpoint yet.")
        best = [each.path for each in saved if each.is_best]
        if which in ("", "best-or-last"):
            return best[0] if best else saved[-1].path
        if which == "last":
            return saved[-1].path
        if which == "best" and best:
            return best[0]
        for each in saved:
            if which.isdecimal() and each.step == int(which):
                return each.path
        known = [*(["best"] if best else []), "last", *(str(each.step) for each in saved)]
        raise RunError(f"The run '{self.name}' has no checkpoint '{which}'. It has: {', '.join(known)}.")

    def read_metrics(self, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
        """Return the metrics from a byte offset on, and the offset for next time.

        A record has step, train_loss, smoothed, learning_rate, grad_norm, tokens_per_second and time, or step,
        val_loss and time. A resume at step s leaves {"step": s, "resumed": True, "time"}: whatever stood before it
        and beyond s was trained again and does not count. Inside what this returns that is done already; a reader
        who goes on from an offset adds with `extend_metrics`, and then has what a fresh reader has.
        """
        records, offset = read_records(self.directory / "metrics.jsonl", offset)
        metrics: list[dict[str, Any]] = []
        extend_metrics(metrics, [{key: _number(value) for key, value in record.items()} for record in records])
        return metrics, offset

    def read_events(self, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
        """Return the events (time, step, kind, message) from a byte offset on, and the offset for next time."""
        return read_records(self.directory / "events.jsonl", offset)

    def read_samples(self, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
        """Return the samples (time, step, prompt, text) from a byte offset on, and the offset for next time."""
        return read_records(self.directory / "samples.jsonl", offset)

    # --- commanding

    def launch(self, processes: int | None = None) -> None:
        """Start the worker, detached: it outlives this process and its terminal. With a checkpoint it resumes.

        The worker starts as many `processes` as the configuration says when none are given.

        The lock is taken here and inherited by the worker, so that nobody ever sees the run started and not alive.

        Raises:
            RunError: a worker is running this run already, or none can be started.
        """
        with RunLock.take(self.directory) as lock:
            Mailbox(self.directory).discard_stale()
            now = time.time()
            before = self._read_status()
            starting = dataclasses.replace(
                before, state="starting", phase="starting", message="", pid=None, started_at=now, updated_at=now,
                max_steps=before.max_steps or self.config.train.max_steps, eta_seconds=None, tokens_per_second=None,
            )  # fmt: skip
            try:
                self.write_status(starting)
            except OSError as error:
                raise self._unwritable(error) from error
            # -P: a file of the user's that is called random.py must not end up inside the worker.
            command = [sys.executable, "-P", "-m", "gpt_model.worker", str(self.directory), "--lock", str(lock.number)]
            command += [f"--nproc={processes}"] if processes else []
            try:
                with (self.directory / "log.txt").open("ab") as log:
                    worker = subprocess.Popen(
                        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[lock.number],
                        start_new_session=True, cwd=self.directory, env=computing_environment(),
                    )  # fmt: skip
            except OSError as error:
                with contextlib.suppress(OSError):
                    self.write_status(dataclasses.replace(starting, state="failed", message=f"No worker: {error}."))
                raise RunError(f"The worker of the run '{self.name}' cannot be started: {error}.") from error
            lock.sign(worker.pid)
        # Waited for in the background, so that a worker that ends before this process leaves no zombie.
        threading.Thread(target=worker.wait, name=f"worker of {self.name}", daemon=True).start()

    def send(self, command: str, **arguments: Any) -> str:
        """Leave a command for the worker and return its id: pause, resume, stop, checkpoint, sample, set(name=value).

        A `stop` that cannot be written down goes to the worker as the signal TERM; it has no id, and no answer.

        Raises:
            RunError: there is no such command, no worker to carry it out, or no room to write it down.
            ConfigError: `set` names something that cannot be set while a run is running, or a value it cannot have.
        """
        check_command(command, arguments, self.config.train)
        if not self.is_locked():
            raise RunError(
                f"The run '{self.name}' is not running ({self.status().state}), so there is nobody to {command} it."
            )
        try:
            return Mailbox(self.directory).send(command, arguments)
        except OSError as error:
            if command == "stop" and terminate_holder(self.directory / "lock"):
                return ""
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> RunError:
        return RunError(
            f"Nothing can be written to {self.directory}: {error.strerror or error}. "
            "Make room on that disk, or make it writable, and try again."
        )

    def acknowledgement(self, command_id: str) -> Acknowledgement | None:
        """Return what the worker answered to a command; None when it has not yet."""
        return Mailbox(self.directory).acknowledgement(command_id)

    def remove(self) -> None:
        """Delete the run and everything in it.

        Raises:
            RunError: a worker is running it, or its files cannot be deleted.
        """
        with RunLock.take(self.directory):
            gone = self.directory.with_name(f".removed-{self.name}-{time.time_ns()}")
            try:
                self.directory.rename(gone)  # out of every list at once, whatever becomes of the deletion
                shutil.rmtree(gone)
            except OSError as error:
                raise RunError(f"The run '{self.name}' cannot be deleted: {error}.") from error

    def owner(self) -> str:
        """Return who holds (or held last) the lock, as in "pid 123 since 2026-01-31 12:00"."""
        return read_owner(self.directory / "lock")

    def write_status(self, status: Status) -> None:
        """Replace status.json. For whoever holds the lock."""
        values = dataclasses.asdict(status)
        for name, value in values.items():
            if isinstance(value, float) and not math.isfinite(value):
                values[name] = None
        write_atomically(self.directory / "status.json", json.dumps(values), durable=False)

    def _read_status(self) -> Status:
        try:
            values = json.loads((self.directory / "status.json").read_bytes())
            known = {each.name for each in dataclasses.fields(Status)}
            return Status(**{name: value for name, value in values.items() if name in known})
        except FileNotFoundError:
            return Status(phase="created", max_steps=self.config.train.max_steps, message="Not started yet.")
        except (OSError, ValueError, TypeError, AttributeError) as error:
            return Status(state="lost", max_steps=self.config.train.max_steps, message=f"status.json: {error}.")


def list_runs(root: Path) -> list[Run]:
    """Return the runs under `root`, newest first; what is not a whole run is skipped."""
    found: list[tuple[float, Run]] = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(root):
            if _NAME.fullmatch(entry.name):
                with contextlib.suppress(GptError, OSError):
                    created = (Path(entry.path) / "config.toml").stat().st_mtime
                    found.append((created, Run.at(Path(entry.path))))
    found.sort(key=lambda pair: (-pair[0], pair[1].name))
    return [run for _, run in found]


def extend_metrics(metrics: list[dict[str, Any]], new: list[dict[str, Any]]) -> None:
    """Append metrics that were read later, dropping what a resume among them has made void."""
    for record in new:
        if record.get("resumed"):
            metrics[:] = [each for each in metrics if each["step"] <= record["step"] and not each.get("resumed")]
        metrics.append(record)


def _number(value: Any) -> Any:
    return float(value) if value in ("nan", "inf", "-inf") else value


def _link_target(link: Path) -> str | None:
    try:
        return link.readlink().name
    except OSError:
        return None
