"""train(run): the loop. When to update, evaluate, save, sample and end, and what people command meanwhile.

What a run needs to begin is in preparation.py, one update in update.py, what reaches a run from outside in control.py,
and what it tells in recorder.py.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from gpt_model.config import TrainConfig
from gpt_model.config_values import from_table, to_table
from gpt_model.control import Control
from gpt_model.data import Batches, evaluation_batches
from gpt_model.errors import CheckpointError, ConfigError, DataError, GptError, RunError
from gpt_model.generation import Engine, Request
from gpt_model.lora import adapters_state, merged
from gpt_model.mailbox import Acknowledgement, Command, apply_live_settings
from gpt_model.pace import Pace
from gpt_model.preparation import Prepared, environment, prepare
from gpt_model.progress import Progress
from gpt_model.recorder import Recorder
from gpt_model.runs import Run
from gpt_model.update import Reading, Updater
from samplers import Chain
from samplers.temperature import Temperature
from samplers.top_k import TopK

SAMPLE_CHAIN = Chain((TopK(40), Temperature(0.8)))
METRICS_SECONDS = 0.1
"""Between two lines of metrics; slower steps get a line each."""
NOT_FINITE_LIMIT = 3
"""So many steps in a row without a finite loss end the run."""


def train(run: Run, recorder: Recorder, control: Control) -> None:
    """Train a run to its end, from its last checkpoint if it has one. The caller holds the run's lock.

    Ends with the status "finished", or "stopped" when it was asked to stop.

    Raises:
        GptError: the run cannot be trained; the status "failed" is the caller's to write.
    """

    def on_progress(what: str, share: float) -> None:
        if control.leaving:
            raise _Left
        recorder.status(phase=f"{what}, {share:.0%}" if share > 0 else what)

    recorder.status(state="starting", phase="loading")
    with _memory_told(run.config.train):
        try:
            training = _Training(run, recorder, control, prepare(run, recorder, on_progress))
        except _Left:
            _stop(recorder, control, "Stopped before the first step.")
        else:
            training.run_to_end()


class _Left(Exception):
    """Somebody asked to stop while the run was being prepared."""


class _Training:
    """A run that is being trained."""

    def __init__(self, run: Run, recorder: Recorder, control: Control, prepared: Prepared) -> None:
        state = prepared.state
        self._recorder, self._control = recorder, control
        self._shelf, self._model, self._tokenizer = prepared.shelf, prepared.model, prepared.shards.tokenizer
        self._settings = run.config.train if state is None else from_table(TrainConfig, state["settings"])
        self._progress = Progress() if state is None else Progress.from_state(state["progress"])
        self._is_fine_tuning = run.config.init is not None
        block_size = self._model.config.block_size
        length = self._settings.sequence_length or block_size
        if length > block_size:
            raise ConfigError(f"sequence_length = {length}: must not be above block_size = {block_size}.")
        batch_size = self._settings.batch_size
        self._batches = Batches(prepared.shards.train, batch_size, length, self._settings.seed)
        val = prepared.shards.val
        self._validation = evaluation_batches(val, batch_size, length, self._settings.eval_batches)
        self._require_validation(self._settings)
        if len(val) <= length and self._settings.val_fraction > 0:
            how = "in one shorter sequence" if self._validation else "not at all"
            recorder.event("evaluation", f"The validation split has only {len(val):,} tokens; it is used {how}.")
        self._updater = Updater(self._model, self._settings)
        if state is not None:
            self._updater.restore(state["updater"])
        self._saved_at = self._progress.step if state is not None else -1
        self._paused = False
        self._pace = Pace(self._progress.elapsed_seconds, self._batches.tokens_per_step)
        self._metrics_at = 0.0

    # --- the loop

    def run_to_end(self) -> None:
        """Train until the run is finished or somebody stops it."""
        self._tell(state="running", phase="training")
        while True:
            self._keep_house()
            if stop := self._obey():
                self._leave(stop)
                return
            reached = self._target_reached()
            if reached or self._progress.step >= self._settings.max_steps:
                self._finish(reached)
                return
            began, step = time.monotonic(), self._progress.step
            readings = self._updater.update(self._batches.batch(step), step, self._settings)
            self._progress.step += 1
            self._pace.step_took(time.monotonic() - began)
            self._note(readings)
            self._tell(phase="training")

    def _keep_house(self) -> None:
        """Evaluate, save and sample when their turn has come."""
        progress, settings, step = self._progress, self._settings, self._progress.step
        best_before = progress.best_val_loss, progress.best_step
        # Fine-tuning is measured against where it begins; what a fresh model's loss is, is known.
        evaluating = _is_due(step, settings.eval_interval) or (step == 0 and self._is_fine_tuning)
        improved = evaluating and progress.evaluated_at != step and self._evaluate()
        sampling = _is_due(step, settings.sample_interval) and progress.sampled_at != step
        if sampling:
            progress.sampled_at = step  # before saving: a resumed run does not write it again
        if (improved or _is_due(step, settings.checkpoint_interval)) and self._saved_at != step:
            try:
                self._save()
            except CheckpointError as error:
                progress.best_val_loss, progress.best_step = best_before  # what is not saved is not the best one kept
                self._recorder.event("fail", f"{error} Training goes on.")
        if sampling:
            self._sample()

    def _target_reached(self) -> str | None:
        """Return in words that the target loss is reached; None when it is not, or there is none."""
        settings, progress = self._settings, self._progress
        if settings.target_loss is None:
            return None
        if settings.target_metric == "val":
            name, watched = "validation loss", progress.val_loss
        else:  # one lucky batch is no reason to end: the average counts once it stands on enough of them
            name = "smoothed training loss"
            watched = progress.train_loss.value if progress.train_loss.settled else None
        if watched is None or watched > settings.target_loss:
            return None
        return f"the {name} reached {watched:.4f}, the target was {settings.target_loss:g}"

    def _finish(self, reached: str | None) -> None:
        """Evaluate and save for the last time, whatever the intervals are."""
        self._note(self._updater.settle())
        step, target = self._progress.step, self._settings.target_loss
        if self._progress.evaluated_at != step:
            self._evaluate()
        if self._saved_at != step:
            self._save()
        if reached:
            self._recorder.event("target", f"Step {step:,}: {reached}.")
        missed = f"; the target loss {target:g} was not reached" if target is not None else ""
        ending = f"Finished after {step:,} steps{f': {reached}' if reached else missed}."
        self._recorder.event("finish", ending)
        self._tell(state="finished", phase="", message=ending, eta_seconds=0.0)

    def _leave(self, stop: Command) -> None:
        """Save and stop."""
        self._note(self._updater.settle())
        step = self._progress.step
        if step > 0 and self._saved_at != step:
            self._save()
        self._tell()
        _stop(self._recorder, self._control, f"Stopped at step {step:,}; resuming goes on from there.", stop)

    def _note(self, readings: list[Reading]) -> None:
        """Take in what updates showed, and tell it.

        Raises:
            RunError: the loss is not finite for the third time in a row.
        """
        progress = self._progress
        for reading in readings:
            progress.train_loss.add(reading.loss)
            now = time.monotonic()
            marked = reading.step == self._settings.max_steps or _is_due(reading.step, self._settings.eval_interval)
            if now - self._metrics_at >= METRICS_SECONDS or marked or not reading.finite:
                self._metrics_at = now
                self._recorder.metrics(
                    step=reading.step, train_loss=reading.loss, smoothed=progress.train_loss.value,
                    learning_rate=reading.learning_rate, grad_norm=reading.grad_norm,
                    tokens_per_second=self._pace.tokens_per_second,
                )  # fmt: skip
            self._recorder.status(learning_rate=reading.learning_rate, grad_norm=reading.grad_norm)
            progress.not_finite = 0 if reading.finite else progress.not_finite + 1
            if not reading.finite:
                what = f"Step {reading.step:,}: loss {reading.loss:g}, norm of the gradient {reading.grad_norm:g}"
                self._recorder.event("nan", f"{what}. The update was skipped.")
                if progress.not_finite >= NOT_FINITE_LIMIT:
                    raise RunError(
                        f"{what}: not finite {NOT_FINITE_LIMIT} steps in a row, so training ended. Start a new run "
                        "from the last good checkpoint (init) with a lower learning_rate."
                    )

    # --- what a step can bring beside the update

    def _evaluate(self) -> bool:
        """Measure the validation loss; return whether it is the best so far. Broken off when somebody wants to stop."""
        progress = self._progress
        if not self._validation:
            return False
        self._recorder.status(phase="evaluating")
        loss = self._updater.evaluate(self._validation, self._interrupted)
        if loss is None:
            return False
        progress.evaluated_at, progress.val_loss = progress.step, loss
        self._recorder.metrics(step=progress.step, val_loss=loss)
        best = math.inf if progress.best_val_loss is None else progress.best_val_loss
        if loss < best:  # which what is no number never is
            progress.best_val_loss, progress.best_step = loss, progress.step
            self._recorder.event("best", f"Validation loss {loss:.4f}, the best so far.")
            return True
        self._recorder.event("evaluation", f"Validation loss {loss:.4f}; the best is {best:.4f}.")
        return False

    def _save(self) -> None:
        """Commit a checkpoint of the present step, then delete those that are not kept.

        Raises:
            CheckpointError: it could not be saved; earlier ones are untouched.
        """
        self._note(self._updater.settle())
        self._recorder.status(phase="saving")
        self._recorder.flush()  # a large model is long at it, and nothing is told meanwhile
        step = self._progress.step
        self._progress.elapsed_seconds = self._pace.elapsed
        state = {
            "progress": self._progress.to_state(),
            "settings": to_table(self._settings),
            "updater": self._updater.to_state(),
            "adapters": adapters_state(self._model),
            "environment": environment(self._model.device),
        }
        self._shelf.save(step, merged(self._model), self._tokenizer, state)
        self._saved_at = step
        is_best = self._progress.best_step == step
        if is_best:
            self._shelf.mark_best(step)
        self._recorder.event("checkpoint", f"Checkpoint saved at step {step:,}{' (best)' if is_best else ''}.")
        self._shelf.prune(self._settings.keep_checkpoints)

    def _sample(self) -> None:
        """Write what the model makes of the sample prompt: always on the same luck, so that samples compare."""
        self._recorder.status(phase="sampling")
        prompt, count = self._settings.sample_prompt, self._settings.sample_tokens
        request = Request(prompt, SAMPLE_CHAIN, self._settings.seed, max_new_tokens=count, candidates=1)
        text = ""
        self._model.eval()
        try:
            for token in Engine(self._model, self._tokenizer).generate(request):
                text += token.text
                if self._interrupted():
                    break
        finally:
            self._model.train()
        self._recorder.sample(prompt, text)

    # --- what people command

    def _obey(self) -> Command | None:
        """Carry out what was commanded, waiting here while paused; return the command to stop, if that came."""
        while True:
            while command := self._control.take():
                if command.name == "stop":
                    return command
                try:
                    answer = Acknowledgement(True, self._carry_out(command), self._progress.step)
                except GptError as error:
                    answer = Acknowledgement(False, str(error), self._progress.step)
                self._control.acknowledge(command, answer)
            if not self._paused:
                return None
            self._recorder.status(phase="paused")
            self._control.wait()

    def _carry_out(self, command: Command) -> str:
        """Carry out a command and return the answer to it.

        Raises:
            GptError: it cannot be carried out.
        """
        step = self._progress.step
        match command.name:
            case "pause" if not self._paused:
                self._note(self._updater.settle())
                self._paused = True
                self._pace.pause()
                self._tell(state="paused", phase="paused")
                self._recorder.event("pause", f"Paused at step {step:,}.")
            case "resume" if self._paused:
                self._paused = False
                self._pace.go_on()
                self._tell(state="running", phase="training")
                self._recorder.event("continue", f"Goes on at step {step:,}.")
            case "pause" | "resume":
                return f"Nothing to do at step {step:,}."
            case "checkpoint":
                if self._saved_at != step:
                    self._save()
            case "sample":
                self._sample()
            case "set":
                return self._set(command.arguments)
            case _:
                raise RunError(f"A worker knows no command '{command.name}'.")
        return f"Done at step {step:,}."

    def _set(self, changes: dict[str, Any]) -> str:
        before, after = self._settings, apply_live_settings(self._settings, changes)
        self._require_validation(after)
        told = ", ".join(f"{name} {getattr(before, name)} → {getattr(after, name)}" for name in changes)
        self._settings = after
        self._recorder.event("edit", f"{told}.", settings=changes)
        self._tell()
        return f"{told}, from step {self._progress.step + 1:,} on."

    def _interrupted(self) -> bool:
        """Show a sign of life; return whether somebody wants to stop."""
        self._recorder.status()
        return self._control.leaving

    def _require_validation(self, settings: TrainConfig) -> None:
        if settings.target_loss is not None and settings.target_metric == "val" and not self._validation:
            raise DataError(
                "The target loss is one on the validation split, and that holds no text here. Train on more text, set "
                "a larger val_fraction, or set target_metric to train."
            )

    def _tell(self, **changes: Any) -> None:
        """Bring the status up to date."""
        progress = self._progress
        steps_left = self._settings.max_steps - progress.step
        told = {
            "step": progress.step,
            "max_steps": self._settings.max_steps,
            "train_loss": progress.train_loss.value,
            "val_loss": progress.val_loss,
            "best_val_loss": progress.best_val_loss,
            "best_step": progress.best_step,
            "tokens_per_second": self._pace.tokens_per_second,
            "eta_seconds": None if self._paused else self._pace.eta(steps_left),
            "elapsed_seconds": self._pace.elapsed,
        }
        self._recorder.status(**told | changes)


def _is_due(step: int, interval: int) -> bool:
    return step > 0 and interval > 0 and step % interval == 0


def _stop(recorder: Recorder, control: Control, message: str, stop: Command | None = None) -> None:
    recorder.event("stop", message)
    recorder.status(state="stopped", phase="", message=message, eta_seconds=None)
    if stop is not None:
        control.acknowledge(stop, Acknowledgement(True, message, recorder.current.step))


@contextmanager
def _memory_told(settings: TrainConfig) -> Iterator[None]:
    """Say in a sentence that memory ran out."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        short = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not short:
            raise
        raise RunError(
            f"There is not enough memory for batch_size = {settings.batch_size}. Start a new run with a smaller "
            "batch_size or sequence_length, or a smaller model."
        ) from error
