"""What the completion page tells the app: wishes that only the app can carry out, and what is to be kept."""

from dataclasses import dataclass

from textual.message import Message

from gpt_tui import wire
from gpt_tui.completion import Completion


@dataclass
class Sent(Message):
    """Something for the engine."""

    request: wire.Request


@dataclass
class CompletionEnded(Message):
    """A completion is over: the app keeps it."""

    completion: Completion
    checkpoint: str


@dataclass
class SettingChosen(Message):
    """A setting was changed here and is to be kept."""

    name: str
    value: object


class RestartRequested(Message):
    """The engine is dead and is to be started again."""


class CheckpointWanted(Message):
    """Another checkpoint is to be chosen; with a name it is chosen already."""

    def __init__(self, name: str = "") -> None:
        super().__init__()
        self.name = name
