"""verify: whether a run would do again what it did: the steps between two of its checkpoints, made once more.

The replay is a run of its own in a temporary directory, which borrows the tokens and the earlier checkpoint; nothing
of the verified run is written to, but its lock is held meanwhile.
"""

import dataclasses
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gpt_model.checkpoint import WEIGHTS, load_training_state
from gpt_model.control import Control
from gpt_model.errors import CheckpointError, RunError
from gpt_model.exactness import Exactness, judge
from gpt_model.journal import Journal
from gpt_model.mailbox import Acknowledgement, Command
from gpt_model.manifest import MANIFEST
from gpt_model.recorder import Recorder
from gpt_model.run_lock import RunLock
from gpt_model.runs import Run, SavedCheckpoint
from gpt_model.shards import require_whole
from gpt_model.training import train

_UNDISTURBED = {"eval_interval": 0, "checkpoint_interval": 0, "checkpoint_minutes": 0.0, "sample_interval": 0}
"""What changes no weight is left out of a replay."""


@dataclass(frozen=True)
class Verification:
    """What a replay showed."""

    first: int
    """The step that it began from."""
    last: int
    """The step up to which it went."""
    exactness: Exactness
    """Whether the same numbers were to be expected here."""
    expected: str
    """SHA-256 of the run's weights at the last step."""
    found: str
    """Of the replay's."""
    same_state: bool
    """Whether what the optimizers and random generators hold is the same too."""

    @property
    def same(self) -> bool:
        """Whether the run did what it would do again."""
        return self.expected == self.found and self.same_state


OnStep = Callable[[int, int], None]
"""Called with the step that a replay is at, and the last one."""


def verify(run: Run, from_step: int | None = None, on_step: OnStep = lambda step, last: None) -> Verification:
    """Make the steps from a checkpoint (the last but one, when no step is given) to the next again, and compare.

    Raises:
        RunError: a worker is running it, or it has no two checkpoints.
        CheckpointError: one of them is damaged.
        DataError: the tokens are.
    """
    with RunLock.take(run.directory):
        first, last = _choose(run, from_step)
        require_whole(run.directory / "data")  # the replay itself would make them again
        expected = load_training_state(last.path)
        processes, threads = _as_it_was(run, expected["environment"])
        with tempfile.TemporaryDirectory(prefix="gpt-tui-verify-") as directory:
            replay = _borrow(run, first, Path(directory) / "replay", threads)
            with RunLock.take(replay.directory), Recorder(replay) as recorder:
                train(replay, recorder, _Until(replay, recorder, last.step, on_step), processes)
            if replay.status().step != last.step:
                raise RunError(f"The replay ended at step {replay.status().step:,}: {replay.status().message}")
            again = replay.checkpoint_path("last")
            found = load_training_state(again)
            same = all(_equal(expected[name], found[name]) for name in ("updater", "adapters"))
            exactness = judge(expected["environment"], found["environment"])
            return Verification(first.step, last.step, exactness, _sealed(last.path), _sealed(again), same)


class _Until(Control):
    """Control of a replay: it is to stop at a step, and hears nothing else."""

    def __init__(self, run: Run, recorder: Recorder, last: int, on_step: OnStep) -> None:
        super().__init__(run)
        self._recorder, self._last, self._on_step = recorder, last, on_step

    @property
    def leaving(self) -> bool:
        return False

    def take(self) -> Command | None:
        step = self._recorder.current.step
        self._on_step(step, self._last)
        return Command("", "stop", {}) if step >= self._last else None

    def acknowledge(self, command: Command, answer: Acknowledgement) -> None:
        """Nobody asked."""


def _choose(run: Run, from_step: int | None) -> tuple[SavedCheckpoint, SavedCheckpoint]:
    saved = run.checkpoints()
    steps = [each.step for each in saved]
    told = ", ".join(f"{step:,}" for step in steps) or "none"
    if len(saved) < 2:
        raise RunError(
            f"To verify the run '{run.name}' takes two checkpoints, one to begin from and one to compare with; it has: "
            f"{told}. Train on, with keep_checkpoints above 1."
        )
    if from_step is None:
        return saved[-2], saved[-1]
    if from_step not in steps[:-1]:
        raise RunError(f"No later checkpoint follows one of step {from_step:,}. The run's checkpoints: {told}.")
    at = steps.index(from_step)
    return saved[at], saved[at + 1]


def _as_it_was(run: Run, environment: Mapping[str, str]) -> tuple[int, int]:
    """Return how many processes, and threads in each, made the steps up to a checkpoint, as far as there is room here.

    Where there is not, they are the run's own, and the verdict tells the difference.
    """
    train = run.config.train
    processes, threads = (int(environment.get(name, "0")) for name in ("processes", "threads"))
    gpus = environment["device"] != "cpu" and torch.cuda.is_available()
    room = torch.cuda.device_count() if gpus else os.cpu_count() or 1
    if processes * max(threads, 1) > room:
        return train.processes, train.threads
    return processes or train.processes, threads or train.threads


def _borrow(run: Run, first: SavedCheckpoint, directory: Path, threads: int) -> Run:
    """Return a run that stands at a checkpoint of another, with the edits that followed still to be made."""
    for name in ("checkpoints", "commands", "data"):
        (directory / name).mkdir(parents=True)
    shutil.copy(run.directory / "config.toml", directory)
    for file in (run.directory / "data").iterdir():
        (directory / "data" / file.name).symlink_to(file)
    (directory / "checkpoints" / first.path.name).symlink_to(first.path)
    journal = directory / "events.jsonl"
    shutil.copy(run.directory / journal.name, journal)  # whole: a checkpoint says from which byte on
    since = int(load_training_state(first.path)["events"])
    if journal.stat().st_size < since:
        raise CheckpointError(f"{run.directory / journal.name} has become shorter, so edits in it may be missing.")
    writer = Journal(journal)
    # At the first step, so that an edit of the run's own, which is later, stands.
    writer.append({"time": time.time(), "step": first.step, "kind": "edit", "settings": _UNDISTURBED})
    writer.close()
    replay = Run.at(directory)
    train = dataclasses.replace(replay.config.train, threads=threads)
    return dataclasses.replace(replay, config=dataclasses.replace(replay.config, train=train))


def _sealed(checkpoint: Path) -> str:
    """Return the SHA-256 of a checkpoint's weights, which loading has compared with its manifest or saving has made."""
    try:
        return str(json.loads((checkpoint / MANIFEST).read_bytes())["files"][WEIGHTS]["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{checkpoint / MANIFEST} cannot be read ({error}).") from error


def _equal(one: Any, other: Any) -> bool:
    """Whether nested values are the same, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(_equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)
