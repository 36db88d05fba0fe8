"""Messages between the app and the engine's process: dataclasses, one JSON line each. Knows no torch and no screen.

The app sends Load, Generate, SwitchChain and Cancel; the engine answers with the events below. Any program that
reads and writes these lines can take either side, also at the other end of `ssh gpubox gpt-tui engine`.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from gpt_model.errors import GenerationError
from gpt_model.token_record import Finished, Token


@dataclass(frozen=True)
class Load:
    """Open a checkpoint by name; an empty one is the default."""

    checkpoint: str
    device: str = "auto"
    threads: int = 0
    tokenizer: str | None = None
    dtype: str = "auto"


@dataclass(frozen=True)
class Generate:
    """Complete a prompt. Requests are answered in order, one at a time."""

    request: int
    prompt: str
    """Text to go on from; what `tokens` stand for is not repeated in it."""
    tokens: tuple[int, ...] = ()
    """Ids that stand before the text: what was generated before is continued as it is, never tokenized anew."""
    chain: str = ""
    seed: int = 0
    max_new_tokens: int = 200
    stop: tuple[str, ...] = ()
    account: bool = True
    decoder: str = ""
    """What drives the model; empty: one token after the other."""


@dataclass(frozen=True)
class SwitchChain:
    """Use another chain from the next token on."""

    chain: str


@dataclass(frozen=True)
class Cancel:
    """End the running generation before its next token."""


@dataclass(frozen=True)
class EngineStarted:
    """The process is there; the model is not yet."""

    pid: int


@dataclass(frozen=True)
class EngineTold:
    """Something takes time, and why."""

    message: str


@dataclass(frozen=True)
class CheckpointLoaded:
    """A checkpoint is ready."""

    label: str
    path: str
    parameters: int
    n_layer: int
    n_head: int
    n_embd: int
    block_size: int
    tokenizer: str
    device: str
    seconds: float
    dtype: str = "float32"
    backend: str = ""
    """What computes, in words."""
    note: str = ""
    """A sentence when it is not what could be had."""


@dataclass(frozen=True)
class PromptRead:
    """The prompt's ids, before the first token comes."""

    request: int
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class TokenArrived:
    """One more token."""

    request: int
    token: Token


@dataclass(frozen=True)
class GenerationFinished:
    """The request is done."""

    request: int
    finished: Finished


@dataclass(frozen=True)
class EngineFailed:
    """A request or a load could not be carried out; the engine lives on."""

    message: str
    request: int | None = None


Request = Load | Generate | SwitchChain | Cancel
Event = EngineStarted | EngineTold | CheckpointLoaded | PromptRead | TokenArrived | GenerationFinished | EngineFailed

_KINDS: dict[str, type] = {kind.__name__: kind for kind in (*Request.__args__, *Event.__args__)}


def to_line(message: Request | Event) -> str:
    """Return a message as one line of JSON, without the newline."""
    values = {field.name: getattr(message, field.name) for field in dataclasses.fields(message)}
    for name, value in values.items():
        if isinstance(value, Token | Finished):
            values[name] = value.to_dict()
    return json.dumps({"kind": type(message).__name__} | values, ensure_ascii=True, separators=(",", ":"))


def from_line(line: str | bytes) -> Request | Event:
    """Return the message of a line.

    Raises:
        GenerationError: the line is no message.
    """
    try:
        values: dict[str, Any] = json.loads(line)
        kind = _KINDS[values.pop("kind")]
        if kind is TokenArrived:
            values["token"] = Token.from_dict(values["token"])
        elif kind is GenerationFinished:
            values["finished"] = Finished.from_dict(values["finished"])
        for name, value in values.items():
            if isinstance(value, list):
                values[name] = tuple(value)
        message: Request | Event = kind(**values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GenerationError(f"Not a message of the engine's wire: {line[:80]!r} ({error}).") from error
    return message
