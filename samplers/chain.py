"""Chain: an immutable tuple of stages, its text form and its TOML form."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from samplers.discovery import load_stage
from samplers.errors import ChainError
from samplers.stage import Stage, build, parameters


@dataclass(frozen=True)
class Chain:
    """Stages in the order in which they act. The engine draws from what the last one leaves."""

    stages: tuple[Stage, ...] = ()

    def __iter__(self) -> Iterator[Stage]:
        return iter(self.stages)

    def __len__(self) -> int:
        return len(self.stages)

    @classmethod
    def parse(cls, text: str) -> "Chain":
        """Return the chain of a text such as `top_k=40,dry:multiplier=0.8:base=1.75,temperature=0.8`.

        Commas part stages, colons part a stage's parameters; a value without a parameter's name is the first
        parameter's. A value with a comma, a colon or a space at an end stands in double quotes, in which a quote is
        doubled and all else is itself. An empty text is the empty chain: the model's own distribution.

        Raises:
            ChainError: a stage or a parameter is unknown, out of range or written twice, or a plugin is broken.
        """
        return cls(tuple(parse_stage(part.strip()) for part in _split(text, ",") if part.strip()))

    @classmethod
    def from_toml(cls, tables: Sequence[Mapping[str, Any]]) -> "Chain":
        """Return the chain of an array of tables such as `[{stage = "top_k", k = 40}]`.

        Raises:
            ChainError: as `parse`, or a table has no key "stage".
        """
        stages = []
        for number, table in enumerate(tables, start=1):
            if "stage" not in table:
                raise ChainError(f"Table {number} of the chain has no key 'stage'.")
            values = {name: value for name, value in table.items() if name != "stage"}
            stages.append(build(load_stage(str(table["stage"])), values))
        return cls(tuple(stages))

    def to_toml(self) -> list[dict[str, Any]]:
        """Return the chain as an array of tables that `from_toml` reads."""
        return [
            {"stage": stage.name} | {p.name: getattr(stage, p.name) for p in parameters(type(stage))} for stage in self
        ]

    def with_stage(self, place: int, stage: Stage) -> "Chain":
        """Return the chain with the stage at `place` replaced."""
        return replace(self, stages=(*self.stages[:place], stage, *self.stages[place + 1 :]))

    def without(self, place: int) -> "Chain":
        """Return the chain without the stage at `place`."""
        return replace(self, stages=self.stages[:place] + self.stages[place + 1 :])

    def added(self, stage: Stage) -> "Chain":
        """Return the chain with a stage more at its end."""
        return replace(self, stages=(*self.stages, stage))

    def moved(self, place: int, by: int) -> "Chain":
        """Return the chain with the stage at `place` moved `by` places, as far as the chain goes."""
        stages = list(self.stages)
        stage = stages.pop(place)
        stages.insert(min(max(place + by, 0), len(stages)), stage)
        return replace(self, stages=tuple(stages))

    def __str__(self) -> str:
        return ",".join(map(format_stage, self.stages))


def format_stage(stage: Any) -> str:
    """Return the text form of one stage, with every parameter that is not at its default (a single one always)."""
    known = parameters(stage.__class__)
    if len(known) == 1:
        return f"{stage.name}={_format(getattr(stage, known[0].name))}"
    shown = [f"{p.name}={_format(value)}" for p in known if (value := getattr(stage, p.name)) != p.default]
    return ":".join([stage.name, *shown])


def _split(text: str, mark: str) -> list[str]:
    """Return the parts of a text between marks that stand outside of quotes."""
    parts, quoted = [""], False
    for letter in text:
        quoted ^= letter == '"'
        if letter == mark and not quoted:
            parts.append("")
        else:
            parts[-1] += letter
    if quoted:
        raise ChainError(f"A quote is open at the end of: {text}")
    return parts


def _unquoted(value: str) -> str:
    """Return what a value stands for: itself, or what is between its quotes."""
    return value[1:-1].replace('""', '"') if len(value) > 1 and value[0] == value[-1] == '"' else value


def parse_stage(text: str, load: Callable[[str], type] = load_stage, kind: str = "stage") -> Any:
    """Return what stands between two commas of a chain's text; `load` finds classes by name, `kind` names them.

    Raises:
        ChainError: as `Chain.parse`.
    """
    head, *settings = _split(text, ":")
    name, has_value, value = (part.strip() for part in head.partition("="))
    stage_class = load(name)
    known = parameters(stage_class)
    values: dict[str, str] = {}
    if has_value:
        if not known:
            raise ChainError(f"The {kind} '{name}' has no parameters: write '{name}' alone, not '{head}'.")
        values[known[0].name] = _unquoted(value)
    for setting in settings:
        parameter, equals, value = (part.strip() for part in setting.partition("="))
        if not equals:
            raise ChainError(f"'{setting}' in '{text}' is not of the form parameter=value.")
        if parameter in values:
            raise ChainError(f"'{parameter}' is given twice in '{text}'.")
        values[parameter] = _unquoted(value)
    return build(stage_class, values, kind)


def _format(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value).removesuffix(".0")  # the shortest text that reads back as the same float
    text = str(value)
    if isinstance(value, str) and (text != text.strip() or any(mark in text for mark in ',:"')):
        return '"' + text.replace('"', '""') + '"'
    return text
