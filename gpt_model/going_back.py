"""Going back to a checkpoint: what a run sets aside for that, and how it recovers when the loss stays no number."""

from typing import Any

from gpt_model.checkpoint import load_training_state
from gpt_model.checkpoint_shelf import CheckpointShelf
from gpt_model.edits import find_edits
from gpt_model.errors import CheckpointError, RunError
from gpt_model.loss_watch import NOT_FINITE_LIMIT
from gpt_model.recorder import Recorder
from gpt_model.runs import Run

_RATES = ("learning_rate", "min_learning_rate", "muon_learning_rate")


class Rewind(Exception):
    """Training is to go back to the checkpoint of a step, and there perhaps to change settings."""

    def __init__(
        self, to: int, settings: dict[str, Any] | None = None, why: str = "", stays_paused: bool = False
    ) -> None:
        super().__init__(to)
        self.to, self.settings, self.why, self.stays_paused = to, settings, why, stays_paused


def choose_target(run: Run, shelf: CheckpointShelf, step: int | None) -> int:
    """Return the step to go back to: the one that is asked for, or the last.

    Raises:
        RunError: there is no such checkpoint, or it is damaged.
    """
    saved = {each.step: each for each in run.checkpoints()}
    if not saved:
        raise RunError("There is no checkpoint yet to go back to.")
    target = max(saved) if step is None else step
    if target not in saved:
        raise RunError(f"There is no checkpoint of step {step}. There are: {', '.join(map(str, saved))}.")
    try:
        shelf.require_whole(saved[target].path)
    except CheckpointError as error:
        others = ", ".join(str(each) for each in saved if each != target)
        raise RunError(
            f"{error} So the run does not go back to it. Others to go back to: {others or 'none'}."
        ) from error
    return target


def go_back(shelf: CheckpointShelf, recorder: Recorder, gone: int, back: Rewind) -> None:
    """Set aside what lies between a checkpoint and the `gone` steps, so that training goes on from that one."""
    shelf.set_aside_after(back.to)
    recorder.event("rewind", f"Went back from step {gone:,} to step {back.to:,}.", to=back.to)
    recorder.status(step=back.to)
    if back.settings:
        recorder.event("edit", f"{back.why}.", settings=back.settings, automatic=back.to)


def recover(run: Run, shelf: CheckpointShelf, what: str) -> Rewind:
    """Return how a run goes on whose loss stays no number: from its last whole checkpoint with half the learning rate.

    That is half of what the checkpoint was trained with. What somebody set after it is not set again, because it may be
    the reason. From one checkpoint this is tried once, and again only if somebody has changed settings since.

    Raises:
        RunError: there is no checkpoint, or this was tried from it.
    """
    what = f"{what}: not finite {NOT_FINITE_LIMIT} steps in a row"
    path = shelf.newest_whole()
    if path is None:
        raise RunError(
            f"{what}, and there is no checkpoint to go back to, so training ended. Start a new run with a lower "
            "learning_rate, or a longer warm-up (warmup_steps)."
        )
    state = load_training_state(path, lazily=True)
    step, settings = int(state["progress"]["step"]), state["settings"]
    since = run.read_events(int(state["events"]))[0]
    if _tried_from(step, since):
        raise RunError(
            f"{what}, also with half the learning rate from step {step:,} on, so training ended. Start a new run from "
            f"the last good checkpoint (--init {run.name}:{step}) with a lower learning_rate."
        )
    halved = {name: settings[name] / 2 for name in _RATES if settings.get(name) is not None}
    edits = find_edits([event for event in since if "automatic" not in event])
    undone = sorted({name for edit in edits if edit.step >= step for name in edit.settings})
    told = f"; what was set after that checkpoint is not set again ({', '.join(undone)})" if undone else ""
    return Rewind(step, halved, f"{what}, so the learning rate of step {step:,} is halved{told}")


def _tried_from(step: int, since: list[dict[str, Any]]) -> bool:
    """Whether going back to the checkpoint of a step was the last thing that changed how training goes on from it."""
    tried = False
    for event in since:
        if event.get("automatic") == step:
            tried = True
        elif event.get("kind") == "edit" and "settings" in event:
            tried = False
    return tried
