"""Orders: what reaches a training from outside, carried out between two updates, and edits that are made again."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from gpt_model.config import TrainConfig
from gpt_model.control import Control
from gpt_model.edits import Edit
from gpt_model.errors import GptError, RunError
from gpt_model.mailbox import Acknowledgement, Command, apply_live_settings
from gpt_model.recorder import Recorder


class Rewind(Exception):
    """Training is to go back to the checkpoint of a step, and there perhaps to change settings."""

    def __init__(self, to: int, settings: dict[str, Any] | None = None, why: str = "") -> None:
        super().__init__(to)
        self.to, self.settings, self.why = to, settings, why


class Obedient(Protocol):
    """What a training lets itself be told."""

    settings: TrainConfig

    @property
    def step(self) -> int: ...
    @property
    def checkpoint_steps(self) -> Sequence[int]: ...
    def settle(self) -> None: ...
    def save(self) -> None: ...
    def evaluate(self) -> bool: ...
    def sample(self) -> None: ...
    def check(self, settings: TrainConfig) -> None: ...
    def tell(self, **changes: Any) -> None: ...
    def pause(self) -> None: ...
    def go_on(self) -> None: ...


class Orders:
    """The commands to a training, and the edits of an earlier launch that its checkpoint does not hold."""

    def __init__(self, training: Obedient, recorder: Recorder, control: Control, edits: Sequence[Edit]) -> None:
        self._training, self._recorder, self._control = training, recorder, control
        self._edits = list(edits)
        self.paused = False

    def obey(self) -> Command | None:
        """Carry out what was commanded, waiting here while paused; return the command to stop, if that came.

        Raises:
            Rewind: somebody wants to go back.
        """
        self._make_edits_again()
        while True:
            while command := self._control.take():
                if command.name == "stop":
                    return command
                rewind: Rewind | None = None
                try:
                    answer = Acknowledgement(True, self._carry_out(command), self._training.step)
                except GptError as error:
                    answer = Acknowledgement(False, str(error), self._training.step)
                except Rewind as asked:
                    rewind = asked
                    answer = Acknowledgement(True, f"Goes back to step {rewind.to:,}.", self._training.step)
                self._control.acknowledge(command, answer)
                if rewind is not None:
                    raise rewind
            if not self.paused:
                return None
            self._recorder.status(phase="paused")
            self._control.wait()

    def _make_edits_again(self) -> None:
        """Set what was set at this step before the run was resumed from an earlier one."""
        while self._edits and self._edits[0].step <= self._training.step:
            edit = self._edits.pop(0)
            before, after = self._training.settings, apply_live_settings(self._training.settings, edit.settings)
            self._training.settings = after
            self._recorder.event("edit", f"Set again, as before the resume: {_changes(before, after, edit.settings)}.")

    def _carry_out(self, command: Command) -> str:
        """Carry out a command and return the answer to it.

        Raises:
            GptError: it cannot be carried out.
            Rewind: it is to go back.
        """
        training, step = self._training, self._training.step
        doing: dict[str, Callable[[], object]] = {
            "checkpoint": training.save,
            "sample": training.sample,
            "evaluate": self._evaluate,
            "pause": self._pause,
            "resume": self._go_on,
        }
        match command.name:
            case "set":
                return self._set(command.arguments)
            case "rewind":
                raise Rewind(self._rewind_target(command.arguments.get("step")))
            case "pause" if self.paused:
                return f"Paused already, at step {step:,}."
            case "resume" if not self.paused:
                return f"Nothing to do at step {step:,}."
            case name if name in doing:
                doing[name]()
                return f"Done at step {step:,}."
            case name:
                raise RunError(f"A worker knows no command '{name}'.")

    def _pause(self) -> None:
        self._training.settle()
        self.paused = True
        self._training.pause()
        self._training.tell(state="paused", phase="paused")
        self._recorder.event("pause", f"Paused at step {self._training.step:,}.")

    def _go_on(self) -> None:
        self.paused = False
        self._training.go_on()
        self._training.tell(state="running", phase="training")
        self._recorder.event("continue", f"Goes on at step {self._training.step:,}.")

    def _evaluate(self) -> None:
        self._training.settle()
        if self._training.evaluate():
            self._training.save()  # what is told to be the best can be had

    def _set(self, changes: dict[str, Any]) -> str:
        before, after = self._training.settings, apply_live_settings(self._training.settings, changes)
        self._training.check(after)
        told = _changes(before, after, changes)
        # The event first: a resume sets again what was told, and so what is not told must not be set.
        if not self._recorder.event_now("edit", f"{told}.", settings=changes):
            raise RunError("The run's events cannot be written, so nothing was set: is the disk full?")
        self._training.settings = after
        self._training.tell()
        return f"{told}, from step {self._training.step + 1:,} on."

    def _rewind_target(self, step: Any) -> int:
        steps = self._training.checkpoint_steps
        if not steps:
            raise RunError("There is no checkpoint yet to go back to.")
        if step is None:
            return max(steps)
        if step not in steps:
            raise RunError(f"There is no checkpoint of step {step}. There are: {', '.join(map(str, steps))}.")
        return int(step)


def _changes(before: TrainConfig, after: TrainConfig, changes: dict[str, Any]) -> str:
    return ", ".join(f"{name} {getattr(before, name)} → {getattr(after, name)}" for name in changes)
