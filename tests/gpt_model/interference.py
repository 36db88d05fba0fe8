"""What tests do to a training from outside: commands at a step, a death at a step."""

from typing import Any

import pytest

from gpt_model.config import TrainConfig
from gpt_model.runs import Run
from gpt_model.update import Updater


class Killed(BaseException):
    """A worker's death, as far as one process can have it: nothing that comes after is done."""


def send_at(monkeypatch: pytest.MonkeyPatch, run: Run, step: int, *commands: tuple[str, dict[str, Any]]) -> None:
    """Have somebody send commands while the update after `step` updates is made."""
    monkeypatch.setattr("gpt_model.control.POLL_SECONDS", 0.0)
    update = Updater.update

    def update_and_send(self: Updater, batch: Any, at: int, settings: TrainConfig) -> Any:
        if at == step:
            for name, arguments in commands:
                run.send(name, **arguments)
        return update(self, batch, at, settings)

    monkeypatch.setattr(Updater, "update", update_and_send)


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let the update after `step` updates be the one in which the worker dies."""
    update = Updater.update

    def update_or_die(self: Updater, batch: Any, at: int, settings: TrainConfig) -> Any:
        if at == step:
            raise Killed
        return update(self, batch, at, settings)

    monkeypatch.setattr(Updater, "update", update_or_die)
