"""Commands to a running worker: one file a command, answered by a file beside it. Knows no torch.

Files survive a lost connection, work on any filesystem, and are their own record. Ids sort by time.
"""

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt_model.config import TrainConfig
from gpt_model.config_values import field_types, parse_value
from gpt_model.errors import ConfigError, RunError, did_you_mean
from gpt_model.journal import write_atomically

COMMANDS: Mapping[str, str] = {
    "pause": "stop computing, keep everything in memory",
    "resume": "go on after a pause",
    "stop": "save a checkpoint and leave",
    "checkpoint": "save a checkpoint now",
    "sample": "write a sample now",
    "evaluate": "measure the validation loss now",
    "rewind": "go back to a checkpoint and train on from there",
    "set": "change settings from the next step on",
}

LIVE_SETTINGS = (
    "learning_rate", "min_learning_rate", "muon_learning_rate", "weight_decay", "grad_clip", "max_steps",
    "target_loss", "target_metric", "eval_interval", "checkpoint_interval", "checkpoint_minutes", "keep_checkpoints",
    "sample_interval", "sample_prompt", "sample_tokens",
)  # fmt: skip
"""The options of a run that `set` can change while it is running."""


@dataclass(frozen=True)
class Command:
    """A command as the worker finds it."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Acknowledgement:
    """What the worker answered to a command."""

    ok: bool
    message: str
    step: int | None = None


class Mailbox:
    """The commands/ directory of a run."""

    def __init__(self, run_directory: Path) -> None:
        self._directory = run_directory / "commands"

    def send(self, command: str, arguments: Mapping[str, Any]) -> str:
        """Leave a command and return its id."""
        self._directory.mkdir(exist_ok=True)
        command_id = f"{max(time.time_ns(), self._newest() + 1):020d}-{os.urandom(3).hex()}"
        write_atomically(
            self._directory / f"{command_id}.json",
            json.dumps({"command": command, "arguments": dict(arguments), "time": time.time()}),
        )
        return command_id

    def _newest(self) -> int:
        """Return the time in the newest id, which is later than now when the clock has been set back since."""
        times = (entry.name.partition("-")[0] for entry in os.scandir(self._directory))
        return max((int(each) for each in times if len(each) == 20 and each.isdecimal()), default=0)

    def pending(self) -> list[Command]:
        """Return the commands that have no answer yet, oldest first."""
        try:
            names = {entry.name for entry in os.scandir(self._directory)}
        except OSError:  # not there yet, or not to be read just now: looked into again soon
            return []
        commands = []
        for name in sorted(names):
            command_id = name.removesuffix(".json")
            if name.startswith(".") or name == command_id or name.endswith(".ack.json"):
                continue
            if f"{command_id}.ack.json" in names:
                continue
            try:
                found = json.loads((self._directory / name).read_bytes())
                commands.append(Command(command_id, str(found["command"]), dict(found.get("arguments", {}))))
            except (OSError, ValueError, KeyError, TypeError):
                with contextlib.suppress(OSError):  # a full disk: answered when there is room
                    self.acknowledge(command_id, Acknowledgement(False, "The command's file cannot be read."))
        return commands

    def acknowledge(self, command_id: str, answer: Acknowledgement) -> None:
        """Answer a command; it is no longer pending."""
        write_atomically(self._directory / f"{command_id}.ack.json", json.dumps(dataclasses.asdict(answer)))

    def acknowledgement(self, command_id: str) -> Acknowledgement | None:
        """Return the answer to a command; None when there is none yet."""
        try:
            return Acknowledgement(**json.loads((self._directory / f"{command_id}.ack.json").read_bytes()))
        except FileNotFoundError:
            return None

    def discard_stale(self) -> None:
        """Answer what was sent to a worker that is gone, so that the next one does not obey it."""
        for command in self.pending():
            with contextlib.suppress(OSError):
                self.acknowledge(command.id, Acknowledgement(False, "The worker ended before it read this."))


def check_command(command: str, arguments: Mapping[str, Any], train: TrainConfig) -> None:
    """Refuse what no worker could carry out.

    Raises:
        RunError: there is no such command, or it does not take these arguments.
        ConfigError: `set` names something that cannot be set while running, or a value it cannot have.
    """
    if command not in COMMANDS:
        raise RunError(f"There is no command '{command}' for a run.{did_you_mean(command, COMMANDS)}")
    if command == "set":
        apply_live_settings(train, arguments)
    elif command == "rewind" and arguments.keys() <= {"step"}:
        step = arguments.get("step")
        if step is not None and not (isinstance(step, int) and step >= 0):
            raise RunError(f"A run goes back to a step, a whole number; '{step}' is none.")
    elif arguments:
        raise RunError(f"The command '{command}' takes no arguments.")


def apply_live_settings(train: TrainConfig, changes: Mapping[str, Any]) -> TrainConfig:
    """Return the configuration with these changes.

    Raises:
        ConfigError: nothing to change, a name that cannot be changed while running, or a value it cannot have.
    """
    if not changes:
        raise ConfigError(f"Nothing to set. While a run is running these can be: {', '.join(LIVE_SETTINGS)}.")
    types = field_types(TrainConfig)
    values = {}
    for name, value in changes.items():
        if name not in LIVE_SETTINGS:
            raise ConfigError(f"'{name}' cannot be set while a run is running.{did_you_mean(name, LIVE_SETTINGS)}")
        values[name] = parse_value(name, "" if value is None else str(value), types[name])
    return dataclasses.replace(train, **values)
