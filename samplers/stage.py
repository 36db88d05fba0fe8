"""The contract of a decoding strategy: Stage, its parameters, and the context it is called with.

A stage is a frozen dataclass whose fields are its parameters. This file knows no chain, no engine and no torch.
"""

import dataclasses
import functools
import math
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol, runtime_checkable

from samplers.errors import ChainError, nearest

if TYPE_CHECKING:
    from torch import Tensor


class Vocabulary(Protocol):
    """What a stage may ask about token ids."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def end_of_text(self) -> int: ...
    def encode(self, text: str) -> list[int]: ...
    def token_bytes(self, token: int) -> bytes: ...


@dataclass(frozen=True)
class Param:
    """What a parameter may be, written beside its field: `k: Annotated[int, Param(0, 1000, off=0)] = 40`.

    Command-line options, TOML keys and the app's sliders are all made from it.
    """

    lo: float
    hi: float
    step: float = 0.01
    """What one key press adds or takes away."""
    off: float | None = None
    """The value at which the stage changes nothing."""
    log: bool = False
    """A key press multiplies instead of adding: for parameters whose sizes span decades."""
    help: str = ""


@dataclass(frozen=True)
class Context:
    """What a stage is told beside the logits."""

    tokens: "Tensor"
    """(B, T) int64: prompt and output so far, to be read only."""
    prompt_length: int
    """How many of the T tokens are prompt."""
    uniform: Sequence[float] = ()
    """B numbers in [0, 1), keyed by (the row's seed, position, place in the chain)."""
    memory: Any = None
    """What the stage's `start` and `after` returned; None for a stage without memory."""
    vocabulary: Vocabulary | None = None
    remaining: int | None = None
    """How many tokens may still come, the next one included; None where nobody knows."""


@runtime_checkable
class Stage(Protocol):
    """One decoding strategy.

    A stage is called with float32 logits (B, V), where `-inf` stands for a token that is out already, and returns
    logits of the same shape. It keeps ties at a cut, always keeps the best token, and leaves its input unchanged.
    A stage that remembers more than the tokens has two more pure functions, `start() -> memory` and
    `after(memory, token, logits_in, logits_out) -> memory`, of one row.
    """

    name: ClassVar[str]

    def __call__(self, logits: "Tensor", context: Context) -> "Tensor": ...


@dataclass(frozen=True)
class Parameter:
    """A field of a stage, resolved: its name, type, default and limits."""

    name: str
    kind: type
    default: Any
    param: Param


@functools.cache
def parameters(stage_class: type) -> tuple[Parameter, ...]:
    """Return the parameters of a stage class in the order of its fields.

    Raises:
        TypeError: the class is no dataclass, or a field is not annotated with a Param.
    """
    if not dataclasses.is_dataclass(stage_class):
        raise TypeError(f"{stage_class.__name__} is not a dataclass, so its parameters cannot be read")
    hints = typing.get_type_hints(stage_class, include_extras=True)
    found = []
    for each in dataclasses.fields(stage_class):
        hint = hints[each.name]
        notes = [note for note in typing.get_args(hint)[1:] if isinstance(note, Param)]
        if typing.get_origin(hint) is not Annotated or not notes:
            raise TypeError(f"{stage_class.__name__}.{each.name} is not annotated with a Param")
        if each.default is dataclasses.MISSING:
            raise TypeError(f"{stage_class.__name__}.{each.name} has no default")
        found.append(Parameter(each.name, typing.get_args(hint)[0], each.default, notes[0]))
    return tuple(found)


def build(stage_class: type, values: dict[str, Any], kind: str = "stage") -> Stage:
    """Return a stage with these parameters, given as text or as numbers.

    Raises:
        ChainError: a parameter is unknown (the nearest is named), of another type, or out of its range.
    """
    known = {each.name: each for each in parameters(stage_class)}
    stage_name = stage_class.name  # type: ignore[attr-defined]
    for name in values:
        if name not in known:
            raise ChainError(f"The {kind} '{stage_name}' has no parameter '{name}'.{nearest(name, known)}")
    checked = {name: _check(stage_name, known[name], value) for name, value in values.items()}
    return typing.cast(Stage, stage_class(**checked))


def is_off(stage: Stage) -> bool:
    """Return whether the stage, as it is set, changes nothing: a parameter stands at its `off` value."""
    return any(p.param.off is not None and getattr(stage, p.name) == p.param.off for p in parameters(type(stage)))


def nudged(stage: Stage, name: str, presses: int) -> Stage:
    """Return the stage with one parameter moved by so many key presses, kept inside its limits."""
    parameter = next(each for each in parameters(type(stage)) if each.name == name)
    value, param = getattr(stage, name), parameter.param
    if parameter.kind is bool:
        moved: Any = not value if presses % 2 else value
    elif parameter.kind is str:
        moved = value
    elif param.log and value > 0:
        moved = value * 1.25**presses
        if parameter.kind is int:  # a press must move a small whole number too
            moved = max(value + 1, round(moved)) if presses > 0 else min(value - 1, round(moved))
    else:
        moved = round(value / param.step + presses) * param.step
    if parameter.kind in (int, float):
        moved = min(max(moved, param.lo), param.hi)
        moved = int(moved) if parameter.kind is int else float(f"{moved:.6g}")
    return dataclasses.replace(stage, **{name: moved})  # type: ignore[type-var]


def _check(stage_name: str, parameter: Parameter, value: Any) -> Any:
    where, kind, param = f"{stage_name}: {parameter.name}", parameter.kind, parameter.param
    if kind is str:
        return str(value)
    if kind is bool:
        words = {"true": True, "1": True, "false": False, "0": False}
        if str(value).lower() not in words:
            raise ChainError(f"{where} = {value}: must be true or false.")
        return words[str(value).lower()]
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if math.isnan(number) or (kind is int and number != round(number, 0)):
        raise ChainError(f"{where} = {value}: must be {'a whole number' if kind is int else 'a number'}.")
    if not param.lo <= number <= param.hi:
        raise ChainError(f"{where} = {value}: must be between {param.lo:g} and {param.hi:g}.")
    return kind(number)
