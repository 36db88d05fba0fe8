"""train(run): the loop. When to update, evaluate, save, sample and end, and when to go back.

What a run needs to begin is in preparation.py, one update in update.py, what reaches a run from outside in control.py
and orders.py, and what it tells in recorder.py.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from gpt_model.batches import Batches, evaluation_batches
from gpt_model.config import TrainConfig
from gpt_model.config_values import from_table, to_table
from gpt_model.control import Control
from gpt_model.distributed import LOST, Company, gather
from gpt_model.errors import CheckpointError, ConfigError, DataError, RunError
from gpt_model.following import build_updater
from gpt_model.going_back import Rewind, choose_target, go_back, recover
from gpt_model.lora import adapters_state, merged
from gpt_model.loss_watch import LossWatch
from gpt_model.mailbox import Acknowledgement, Command
from gpt_model.orders import Orders
from gpt_model.pace import Pace
from gpt_model.preparation import Prepared, prepare
from gpt_model.recorder import Recorder
from gpt_model.runs import Run
from gpt_model.sampling import write_sample
from gpt_model.update import Reading, is_out_of_memory


def train(run: Run, recorder: Recorder, control: Control, processes: int | None = None) -> None:
    """Train a run to its end, from its last checkpoint if it has one. The caller holds the run's lock.

    Ends with the status "finished", or "stopped" when it was asked to stop. `processes` are as many as the
    configuration says when not given.

    Raises:
        GptError: the run cannot be trained; the status "failed" is the caller's to write.
    """

    def on_progress(what: str, share: float) -> None:
        if control.leaving:
            raise _Left
        control.refuse_waiting(f"The run is not training yet ({what}). Send the command again when it is.")
        recorder.status(phase=f"{what}, {share:.0%}" if share > 0 else what)

    def on_loss() -> None:
        recorder.event("fail", LOST)
        recorder.status(state="failed", phase="", message=LOST, eta_seconds=None)

    recorder.status(state="starting", phase="loading")
    with _memory_told(run.config.train), gather(processes or run.config.train.processes, on_loss) as company:
        paused = False
        while True:
            try:
                prepared = prepare(run, recorder, on_progress, company)
                training = _Training(run, recorder, control, prepared, company)
            except _Left:
                _stop(recorder, control, "Stopped before the first step.", control.take_stop())
                return
            try:
                training.run_to_end(paused)
                return
            except Rewind as back:
                go_back(prepared.shelf, recorder, training.step, back)
                paused = back.stays_paused
                del training, prepared  # their memory is needed for what comes


class _Left(Exception):
    """Somebody asked to stop while the run was being prepared."""


class _Training:
    """A run that is being trained."""

    def __init__(self, run: Run, recorder: Recorder, control: Control, prepared: Prepared, company: Company) -> None:
        state = prepared.state or {}
        self._run, self._recorder, self._control = run, recorder, control
        self._shelf, self._model, self._tokenizer = prepared.shelf, prepared.model, prepared.shards.tokenizer
        self.settings = run.config.train
        if state:  # but threads, which are the machine's
            self.settings = replace(from_table(TrainConfig, state["settings"]), threads=self.settings.threads)
        self._progress = prepared.progress
        self._watch = LossWatch(state.get("watch"))
        self._environment = prepared.environment
        self._is_fine_tuning = run.config.init is not None
        block_size = self._model.config.block_size
        length = self.settings.sequence_length or block_size
        if length > block_size:
            raise ConfigError(f"sequence_length = {length}: must not be above block_size = {block_size}.")
        batch_size = self.settings.batch_size
        self._batches = Batches(prepared.shards.train, batch_size, length, self.settings.seed)
        val = prepared.shards.val
        self._validation = evaluation_batches(val, batch_size, length, self.settings.eval_batches)
        self.check(self.settings)
        if len(val) <= length and self.settings.val_fraction > 0:
            how = "in one shorter sequence" if self._validation else "not at all"
            recorder.event("evaluation", f"The validation split has only {len(val):,} tokens; it is used {how}.")
        self._updater = build_updater(self._model, self.settings, company)
        if state:
            self._updater.restore(state["updater"])
        self._orders = Orders(self, recorder, control, prepared.edits)
        self._saved_at = self.step if state else -1
        self._pace = Pace(self._progress.elapsed_seconds, self._batches.tokens_per_step)
        self._saved_when = self._pace.elapsed
        self._owes_sample = False

    # --- the loop

    def run_to_end(self, paused: bool) -> None:
        """Train until the run is finished or somebody stops it, or first wait when it is `paused`.

        Raises:
            Rewind: it is to go on from an earlier checkpoint.
        """
        if paused:
            self._orders.pause()
        else:
            self.tell(state="running", phase="training")
        while True:
            kept = self._keep_house()
            if stop := self._orders.obey():
                self._leave(stop)
                return
            if not kept:
                continue
            reached = self._target_reached()
            if reached or self.step >= self.settings.max_steps:
                if self._validation and self._progress.evaluated_at != self.step:
                    continue  # a command has moved the end to this step just now
                self._finish(reached)
                return
            self._recorder.status(phase="training")
            began, size = time.monotonic(), self._updater.micro_batch_size
            readings = self._updater.update(self._batches.batch(self.step), self.step, self.settings)
            self._progress.step += 1
            self._pace.step_took(time.monotonic() - began)
            if self._updater.micro_batch_size < size:
                now = self._updater.micro_batch_size
                told = f"Memory ran out: the batch is computed in parts of {now} sequences from here on."
                self._recorder.event("memory", told)
            self._note(readings)
            self.tell()

    def _keep_house(self) -> bool:
        """Evaluate, save and sample when their turn has come; return whether all of that is done.

        An evaluation and a sample are broken off by a command, and made again when that is carried out.
        """
        progress, settings, step = self._progress, self.settings, self.step
        best_before = progress.best_val_loss, progress.best_step
        # Fine-tuning is measured against where it begins; what a fresh model's loss is, is known.
        # And where the run ends: before the checkpoint of that step, which then knows whether it is the best.
        ending = step >= settings.max_steps or self._target_reached() is not None
        evaluating = _is_due(step, settings.eval_interval) or ending or (step == 0 and self._is_fine_tuning)
        improved = evaluating and progress.evaluated_at != step and self.evaluate()
        if improved is None and not self._control.leaving:
            return False
        if _is_due(step, settings.sample_interval) and progress.sampled_at != step:
            progress.sampled_at = step  # before saving: a resumed run does not write it again
            self._owes_sample = True
        minutes = (self._pace.elapsed - self._saved_when) / 60
        late = step > 0 and 0 < settings.checkpoint_minutes <= minutes
        if improved or late or _is_due(step, settings.checkpoint_interval):
            try:
                self.save()
            except CheckpointError as error:
                progress.best_val_loss, progress.best_step = best_before  # what is not saved is not the best one kept
                self._saved_when = self._pace.elapsed  # tried again when its turn comes again, not at once
                self._recorder.event("fail", f"{error} Training goes on.")
        if self._owes_sample:
            self._owes_sample = not self.sample()
        return not self._owes_sample

    def _target_reached(self) -> str | None:
        """Return in words that the target loss is reached; None when it is not, or there is none."""
        settings, progress = self.settings, self._progress
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
        """Save for the last time, whatever the intervals are."""
        self.settle()
        step, target = self.step, self.settings.target_loss
        self.save()
        if reached:
            self._recorder.event("target", f"Step {step:,}: {reached}.")
        missed = f"; the target loss {target:g} was not reached" if target is not None else ""
        ending = f"Finished after {step:,} steps{f': {reached}' if reached else missed}."
        self._recorder.event("finish", ending)
        self.tell(state="finished", phase="", message=ending, eta_seconds=0.0)

    def _leave(self, stop: Command) -> None:
        """Save and stop."""
        self.settle()
        step = self.step
        if step > 0:
            self.save()
        self.tell()
        _stop(self._recorder, self._control, f"Stopped at step {step:,}; resuming goes on from there.", stop)

    def _note(self, readings: list[Reading]) -> None:
        """Take in what updates showed, and tell it.

        Raises:
            Rewind: the loss was not finite too often in a row.
            RunError: that happened again after going back, or there is nothing to go back to.
        """
        for reading in readings:
            self._progress.train_loss.add(reading.loss)
            self._recorder.metrics(
                step=reading.step, train_loss=reading.loss, smoothed=self._progress.train_loss.value,
                learning_rate=reading.learning_rate, grad_norm=reading.grad_norm,
                tokens_per_second=self._pace.tokens_per_second,
            )  # fmt: skip
            self._recorder.status(learning_rate=reading.learning_rate, grad_norm=reading.grad_norm)
            what = f"Step {reading.step:,}: loss {reading.loss:g}, norm of the gradient {reading.grad_norm:g}"
            spike = self._watch.take(reading.loss, reading.finite)
            if spike is not None:
                self._recorder.event("spike", f"{what}. The loss is {spike:.1f} standard deviations above the usual.")
            if not reading.finite:
                self._recorder.event("nan", f"{what}. The update was skipped.")
                if self._watch.hopeless:
                    raise recover(self._run, self._shelf, what)

    # --- what a step can bring beside the update, by its turn or by command

    @property
    def step(self) -> int:
        """Updates made."""
        return self._progress.step

    def rewind_target(self, step: int | None) -> int:
        """Return the step to go back to: the one that is asked for, or that of the last checkpoint.

        Raises:
            RunError: there is no such checkpoint, or it is damaged.
        """
        return choose_target(self._run, self._shelf, step)

    def settle(self) -> None:
        """Take in what is still under way."""
        self._note(self._updater.settle())

    def pause(self) -> None:
        """Stop the clock."""
        self._pace.pause()

    def go_on(self) -> None:
        """Let the clock run again."""
        self._pace.go_on()

    def check(self, settings: TrainConfig) -> None:
        """Refuse settings that this run cannot have.

        Raises:
            DataError: the target is a loss that cannot be measured.
        """
        if settings.target_loss is not None and settings.target_metric == "val" and not self._validation:
            raise DataError(
                "The target loss is one on the validation split, and that holds no text here. Train on more text, set "
                "a larger val_fraction, or set target_metric to train."
            )

    def evaluate(self) -> bool | None:
        """Measure the validation loss; return whether it is the best so far, None when a command broke it off."""
        progress = self._progress
        if not self._validation:
            return False
        self._recorder.status(phase="evaluating")
        loss = self._updater.evaluate(self._validation, self._interrupted)
        if loss is None:
            return None
        if progress.evaluated_at != progress.step:
            self._recorder.metrics(step=progress.step, val_loss=loss)
        # With the number: the checkpoint of this step may be saved already, and a resume finds it here.
        if progress.measure(loss):
            self._recorder.event("best", f"Validation loss {loss:.4f}, the best so far.", val_loss=loss)
            return True
        best = "none yet" if progress.best_val_loss is None else f"{progress.best_val_loss:.4f}"
        self._recorder.event("evaluation", f"Validation loss {loss:.4f}; the best is {best}.", val_loss=loss)
        return False

    def save(self) -> None:
        """Commit a checkpoint of the present step, unless there is one, and delete those that are not kept.

        Raises:
            CheckpointError: it could not be saved; earlier ones are untouched.
        """
        self.settle()
        step = self.step
        if self._saved_at == step:
            self._shelf.link(self._progress.best_step)  # evaluated since then, perhaps
            return
        self._recorder.status(phase="saving")
        self._recorder.catch_up()  # with the checkpoint these steps count as told
        self._recorder.flush()  # a large model is long at it, and nothing is told meanwhile
        self._progress.elapsed_seconds = self._pace.elapsed
        with self._updater.shown():
            state = {
                "progress": self._progress.to_state(),
                "watch": self._watch.to_state(),
                "settings": to_table(self.settings),
                "updater": self._updater.to_state(),
                "adapters": adapters_state(self._model),
                "environment": dict(self._environment),
                "events": self._recorder.position("events"),
            }
            self._shelf.save(step, merged(self._model), self._tokenizer, state)
        self._saved_at, self._saved_when = step, self._pace.elapsed
        self._shelf.link(self._progress.best_step)
        is_best = self._progress.best_step == step
        self._recorder.event("checkpoint", f"Checkpoint saved at step {step:,}{' (best)' if is_best else ''}.")
        self._shelf.prune(self.settings.keep_checkpoints, self._progress.best_step)

    def sample(self) -> bool:
        """Write what the model makes of the sample prompt; return whether that is done and no command broke it off."""
        self._recorder.status(phase="sampling")
        with self._updater.shown():
            text, whole = write_sample(self._model, self._tokenizer, self.settings, self._interrupted)
        if not whole and not self._control.leaving:
            return False
        self._recorder.sample(self.settings.sample_prompt, text)
        return True

    def _interrupted(self) -> bool:
        """Show a sign of life; return whether somebody wants something else now."""
        self._recorder.status()
        return self._control.wanted

    def tell(self, **changes: Any) -> None:
        """Bring the status up to date."""
        progress = self._progress
        steps_left = self.settings.max_steps - progress.step
        told = {
            "step": progress.step,
            "max_steps": self.settings.max_steps,
            "train_loss": progress.train_loss.value,
            "val_loss": progress.val_loss,
            "best_val_loss": progress.best_val_loss,
            "best_step": progress.best_step,
            "tokens_per_second": self._pace.tokens_per_second,
            "eta_seconds": None if self._orders.paused else self._pace.eta(steps_left),
            "elapsed_seconds": self._pace.elapsed,
        }
        self._recorder.status(**told | changes)


def _is_due(step: int, interval: int) -> bool:
    return step > 0 and interval > 0 and step % interval == 0


def _stop(recorder: Recorder, control: Control, message: str, stop: Command | None = None) -> None:
    recorder.event("stop", message)
    if stop is not None:  # first: who sees that it has stopped looks for the answer
        control.acknowledge(stop, Acknowledgement(True, message, recorder.current.step))
    recorder.status(state="stopped", phase="", message=message, eta_seconds=None)


@contextmanager
def _memory_told(settings: TrainConfig) -> Iterator[None]:
    """Say in a sentence that memory ran out."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(
            "There is not enough memory for one sequence at a time. Start a new run with a smaller sequence_length, "
            "or a smaller model."
        ) from error
