"""amend: commands to a run that nobody trains: what is set and where it goes on from, for the next worker to obey."""

from collections.abc import Mapping
from typing import Any

from gpt_model.edits import describe_changes, settings_after
from gpt_model.errors import RunError
from gpt_model.mailbox import apply_live_settings, check_command
from gpt_model.progress import Progress
from gpt_model.recorder import Recorder
from gpt_model.run_lock import RunLock
from gpt_model.runs import ALIVE, Run

AMENDING = ("set", "rewind")
"""The commands that need no worker."""
_ENDS = ("max_steps", "target_loss", "target_metric")
"""The settings that say when a run is finished."""


def amend(run: Run, command: str, arguments: Mapping[str, Any]) -> str:
    """Carry out one of these commands for a run that is not running, and return the answer.

    It is noted in the run's events as a worker would note it, and the next worker goes on accordingly.

    Raises:
        RunError: a worker is running it, it has no such checkpoint, or its events cannot be written.
        ConfigError: a setting that cannot be changed, or a value it cannot have.
    """
    check_command(command, arguments, run.config.train)
    status = run.status()  # before the lock is ours: who holds it passes for a worker
    if status.state in ALIVE:
        raise RunError(f"The run '{run.name}' is running just now; try again.")
    with RunLock.take(run.directory), Recorder(run) as recorder:
        recorder.current = status
        return _set(run, recorder, dict(arguments)) if command == "set" else _rewind(run, recorder, arguments)


def _set(run: Run, recorder: Recorder, changes: dict[str, Any]) -> str:
    """Note settings for the step that training goes on from."""
    before = settings_after(run.config.train, run.read_events()[0])
    after = apply_live_settings(before, changes)
    saved = run.checkpoints()
    step = saved[-1].step if saved else 0
    told = describe_changes(before, after, changes)
    if not recorder.event_now("edit", f"{told}.", step=step, settings=changes, at_rest=True):
        raise RunError("The run's events cannot be written, so nothing was set: is the disk full?")
    recorder.status(max_steps=after.max_steps)
    answer = f"{told}, from step {step + 1:,} on, when the run is resumed."
    if recorder.current.state == "finished" and any(name in _ENDS for name in changes):
        recorder.status(state="stopped", message=answer)
    recorder.flush()
    return answer


def _rewind(run: Run, recorder: Recorder, arguments: Mapping[str, Any]) -> str:
    """Set later checkpoints aside."""
    from gpt_model.checkpoint import load_training_state  # here, because this brings torch
    from gpt_model.checkpoint_shelf import CheckpointShelf
    from gpt_model.going_back import Rewind, choose_target, go_back

    shelf = CheckpointShelf(run)
    target = choose_target(run, shelf, arguments.get("step"))
    progress = Progress.from_state(load_training_state(run.checkpoint_path(str(target)), lazily=True)["progress"])
    go_back(shelf, recorder, recorder.current.step, Rewind(target))
    answer = f"Went back to step {target:,}; resuming goes on from there."
    max_steps = settings_after(run.config.train, run.read_events()[0]).max_steps
    recorder.status(
        state="stopped", message=answer, max_steps=max_steps, eta_seconds=None, train_loss=progress.train_loss.value,
        val_loss=progress.val_loss, best_val_loss=progress.best_val_loss, best_step=progress.best_step,
    )  # fmt: skip
    return answer
