"""Orders: what reaches a training from outside, carried out between two updates, and edits that are made again."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from gpt_model.config import TrainConfig
from gpt_model.control import Control
from gpt_model.edits import Edit, describe_changes
from gpt_model.errors import GptError, RunError
from gpt_model.going_back import Rewind
from gpt_model.mailbox import Acknowledgement, Command, apply_live_settings
from gpt_model.recorder import Recorder


class _BrokenOff(Exception):
    """A command came that cannot wait for the one that is being carried out."""


class Obedient(Protocol):
    """What a training lets itself be told."""

    settings: TrainConfig

    @property
    def step(self) -> int: ...
    def settle(self) -> None: ...
    def save(self) -> None: ...
    def evaluate(self) -> bool | None: ...
    def sample(self) -> bool: ...
    def rewind_target(self, step: int | None) -> int: ...
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
            GptError: what was set while nobody trained cannot be.
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
                except _BrokenOff:
                    self._control.put_back(command)
                    continue
                except Rewind as asked:
                    rewind = asked
                    pause = " and stays paused" if self.paused else ""
                    answer = Acknowledgement(True, f"Goes back to step {rewind.to:,}{pause}.", self._training.step)
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
            self._training.check(after)
            self._training.settings = after
            told = describe_changes(before, after, edit.settings)
            self._recorder.event("edit", f"Set again, as before the resume: {told}.")

    def _carry_out(self, command: Command) -> str:
        """Carry out a command and return the answer to it.

        Raises:
            GptError: it cannot be carried out.
            Rewind: it is to go back.
        """
        training, step = self._training, self._training.step
        doing: dict[str, Callable[[], object]] = {
            "checkpoint": training.save,
            "sample": self._sample,
            "evaluate": self._evaluate,
            "pause": self.pause,
            "resume": self._go_on,
        }
        match command.name:
            case "set":
                return self._set(command.arguments)
            case "rewind":
                target = training.rewind_target(command.arguments.get("step"))
                raise Rewind(target, stays_paused=self.paused)
            case "pause" if self.paused:
                return f"Paused already, at step {step:,}."
            case "resume" if not self.paused:
                return f"Nothing to do at step {step:,}."
            case name if name in doing:
                doing[name]()
                return f"Done at step {step:,}."
            case name:
                raise RunError(f"A worker knows no command '{name}'.")

    def pause(self) -> None:
        """Compute nothing until somebody wants to go on."""
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
        improved = self._training.evaluate()
        if improved is None:
            raise _BrokenOff
        if improved:
            self._training.save()  # what is told to be the best can be had
        self._training.tell()

    def _sample(self) -> None:
        if not self._training.sample():
            raise _BrokenOff

    def _set(self, changes: dict[str, Any]) -> str:
        before, after = self._training.settings, apply_live_settings(self._training.settings, changes)
        self._training.check(after)
        told = describe_changes(before, after, changes)
        # The event first: a resume sets again what was told, and so what is not told must not be set.
        if not self._recorder.event_now("edit", f"{told}.", settings=changes):
            raise RunError("The run's events cannot be written, so nothing was set: is the disk full?")
        self._training.settings = after
        self._training.tell()
        return f"{told}, from step {self._training.step + 1:,} on."
