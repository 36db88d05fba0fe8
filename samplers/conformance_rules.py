"""The rules that every stage keeps, each a function that takes a stage's class and raises BrokenRuleError.

conformance.py runs them as tests. They are the contract of stage.py, with every extreme of every parameter.
"""

import copy
import dataclasses
import importlib
import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from samplers.chain import format_stage
from samplers.errors import ChainError
from samplers.stage import Context, build, is_off, parameters

if TYPE_CHECKING:
    from torch import Tensor

VOCAB = 40
_END = VOCAB - 1


class BrokenRuleError(Exception):
    """A sentence that says which rule is broken, with what, and what came back."""


class Letters:
    """A small vocabulary: a letter a token, and an end of text."""

    vocab_size = VOCAB
    end_of_text = _END
    _LETTERS = "abcdefghijklmnopqrstuvwxyz .,:!?\n\"'*01-"

    def encode(self, text: str) -> list[int]:
        """Return a token a letter."""
        return [self._LETTERS.index(letter) for letter in text if letter in self._LETTERS]

    def token_bytes(self, token: int) -> bytes:
        """Return a token's letter."""
        return b"" if token == _END else self._LETTERS[token].encode()


def load_target(target: str) -> type:
    """Return the class of `package.module:Class`.

    Raises:
        BrokenRuleError: there is none.
    """
    module, colon, name = target.partition(":")
    if not colon:
        raise BrokenRuleError(f"{target} is not of the form package.module:Class.")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise BrokenRuleError(f"{target} cannot be imported: {type(error).__name__}: {error}.") from error
    if not isinstance(found, type):
        raise BrokenRuleError(f"{target} is not a class.")
    return found


# --- the rules


def is_a_frozen_value(stage: type) -> None:
    """A stage is a frozen dataclass with a name and documentation; equal parameters make equal, hashable stages."""
    if not dataclasses.is_dataclass(stage) or not stage.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise BrokenRuleError(f"{stage.__name__} is not a frozen dataclass: write @dataclass(frozen=True) above it.")
    if not isinstance(getattr(stage, "name", None), str) or not stage.name:  # type: ignore[attr-defined]
        raise BrokenRuleError(f'{stage.__name__} has no name: write name: ClassVar[str] = "…" in it.')
    if not (stage.__doc__ or "").strip() or stage.__doc__.startswith(f"{stage.__name__}("):  # type: ignore[union-attr]
        raise BrokenRuleError(f"{stage.__name__} has no docstring: its first line is what people read in lists.")
    one, other = stage(), stage()
    if one != other or hash(one) != hash(other):
        raise BrokenRuleError(f"Two {stage.__name__}() are not equal, or have other hashes.")


def has_parameters_that_can_be_read(stage: type) -> None:
    """Every field has a Param and a default inside its limits, and every setting reads back from its text."""
    try:
        known = parameters(stage)
    except TypeError as error:
        raise BrokenRuleError(f"{error}.") from error
    for each in known:
        if each.kind in (int, float) and not each.param.lo <= each.default <= each.param.hi:
            raise BrokenRuleError(
                f"{each.name} = {each.default!r} by default, which is not between {each.param.lo:g} and "
                f"{each.param.hi:g}."
            )
        if not each.param.help:
            raise BrokenRuleError(f'{each.name} has no help: write Param(…, help="…").')
    for setting in _settings(stage):
        text = format_stage(setting)
        values = {each.name: str(getattr(setting, each.name)) for each in known}
        if build(stage, values) != setting:
            raise BrokenRuleError(f"{text} does not read back to itself.")


def keeps_shape_type_and_device(stage: type) -> None:
    """Logits (B, V) float32 come back as such, of any number of rows and a vocabulary of one token too."""
    import torch

    for setting in _settings(stage):
        for rows in (_rows(), _rows()[:1], torch.zeros(1, 1), torch.full((2, 1), -3.0)):
            result = _called(setting, rows)
            if getattr(result, "shape", None) != rows.shape or result.dtype != torch.float32:
                raise BrokenRuleError(f"{_told(setting)} returns {_kind(result)} for {_kind(rows)}.")
            if result.device != rows.device:
                raise BrokenRuleError(f"{_told(setting)} returns logits on {result.device} for ones on {rows.device}.")


def returns_numbers_and_empties_no_row(stage: type) -> None:
    """No NaN, no +inf, and something is left in every row: flat, peaked, huge, tied, or almost all out already."""
    for setting in _settings(stage):
        for kind, rows in _extremes().items():
            result = _called(setting, rows)
            if bool(result.isnan().any()) or bool((result == math.inf).any()):
                raise BrokenRuleError(f"{_told(setting)} returns NaN or +inf for {kind}.")
            if bool((result.amax(dim=-1) == -math.inf).any()):
                raise BrokenRuleError(f"{_told(setting)} removes every token of {kind}.")


def leaves_out_what_is_out(stage: type) -> None:
    """-inf stays -inf: another stage's cut holds. A constraint that must win says so by `revives = True`."""
    if getattr(stage, "revives", False):
        return
    rows = _extremes()["rows of which half is out"]
    for setting in _settings(stage):
        if bool(((rows == -math.inf) & (_called(setting, rows) > -math.inf)).any()):
            raise BrokenRuleError(f"{_told(setting)} brings tokens back that were out.")


def treats_equals_as_equals(stage: type) -> None:
    """Tokens with equal logits that were not in the text fare alike: ties at a cut stay, and no id is preferred.

    A stage that means to choose among equals says so by `breaks_ties = True`, one that knows tokens by
    `knows_tokens = True`.
    """
    if getattr(stage, "breaks_ties", False) or getattr(stage, "knows_tokens", False):
        return
    rows = _extremes()["rows with many equals"]
    for setting in _settings(stage):
        result = _called(setting, rows)
        for row in range(len(rows)):
            fresh = [token for token in range(_END) if token not in _tokens(len(rows))[row].tolist()]
            for one, other in itertools.combinations(fresh, 2):
                if rows[row, one] == rows[row, other] and abs(_gap(result[row, one], result[row, other])) > 1e-5:
                    raise BrokenRuleError(
                        f"{_told(setting)} treats equal logits of tokens {one} and {other} differently: "
                        f"{result[row, one]:g} and {result[row, other]:g}. Cut by z >= threshold, not by the place in "
                        "a sort."
                    )


def changes_nothing_it_is_given(stage: type) -> None:
    """Neither the logits nor the tokens are changed."""
    for setting in _settings(stage):
        rows = _rows()[:1]  # one, as a stage that remembers is called
        context = _context(setting, 1)
        before, tokens = rows.clone(), context.tokens.clone()
        setting(rows, context)
        if not bool((rows == before).all()):
            raise BrokenRuleError(f"{_told(setting)} changes the logits it is given: work on a copy.")
        if not bool((context.tokens == tokens).all()):
            raise BrokenRuleError(f"{_told(setting)} changes the tokens it is given.")


def gives_the_same_again(stage: type) -> None:
    """The same logits and context give the same, whatever was asked between: a stage has no state of its own."""
    for setting in _settings(stage):
        first = _called(setting, _rows())
        for rows in _extremes().values():
            _called(setting, rows)
        if not bool((first == _called(setting, _rows())).all()):
            raise BrokenRuleError(
                f"{_told(setting)} returns something else the second time. What it remembers belongs into start and "
                "after, its luck is context.uniform."
            )


def sees_each_row_alone(stage: type) -> None:
    """A row of a batch comes out as it would alone."""
    rows = _rows()
    for setting in _settings(stage):
        together = _called(setting, rows)
        for row in range(len(rows)):
            context = _context(setting, len(rows))
            alone = dataclasses.replace(
                context, tokens=context.tokens[row : row + 1], uniform=tuple(context.uniform)[row : row + 1]
            )
            if not bool((setting(rows[row : row + 1].clone(), alone)[0] == together[row]).all()):
                raise BrokenRuleError(
                    f"{_told(setting)} makes something else of a row in a batch than of the row alone."
                )


def changes_nothing_when_off(stage: type) -> None:
    """At a parameter's off value the logits come back as they were, to the bit."""
    for setting in _settings(stage):
        if is_off(setting):
            for kind, rows in _extremes().items():
                if not bool((_called(setting, rows) == rows).all()):
                    raise BrokenRuleError(f"{_told(setting)} is off and changes {kind} all the same.")


def remembers_by_values(stage: type) -> None:
    """start and after come together, are pure, and what they return is a value that is never changed."""
    has = [name for name in ("start", "after") if hasattr(stage, name)]
    if len(has) == 1:
        raise BrokenRuleError(f"{stage.__name__} has {has[0]} but not the other of start and after.")
    if not has:
        return
    for setting in _settings(stage):
        remembering: Any = setting
        rows = _rows()[:1]
        memory = remembering.start()
        if copy.deepcopy(memory) != remembering.start():
            raise BrokenRuleError(f"{_told(setting)}: start returns something else the second time.")
        for _ in range(4):
            before = copy.deepcopy(memory)
            context = dataclasses.replace(_context(setting, 1), memory=memory)
            result = setting(rows.clone(), context)
            token = int(result[0].argmax())
            later = remembering.after(memory, token, rows[0], result[0])
            if memory != before:
                raise BrokenRuleError(f"{_told(setting)}: after, or the call, changes the memory it is given.")
            if later != remembering.after(before, token, rows[0], result[0]):
                raise BrokenRuleError(f"{_told(setting)}: after returns something else the second time.")
            if not bool((setting(rows.clone(), dataclasses.replace(context, memory=before)) == result).all()):
                raise BrokenRuleError(f"{_told(setting)} does not go on from a memory that was kept.")
            memory = later


RULES = (
    is_a_frozen_value, has_parameters_that_can_be_read, keeps_shape_type_and_device,
    returns_numbers_and_empties_no_row, leaves_out_what_is_out, treats_equals_as_equals, changes_nothing_it_is_given,
    gives_the_same_again, sees_each_row_alone, changes_nothing_when_off, remembers_by_values,
)  # fmt: skip


# --- what they are tried with


def _settings(stage: type) -> Iterator[Any]:
    """Yield the stage by default, and with every parameter, and every two, at their limits and off."""
    yield stage()
    choices: dict[str, list[Any]] = {}
    for each in parameters(stage):
        if each.kind is bool:
            choices[each.name] = [False, True]
        elif each.kind in (int, float):
            limits = (each.param.lo, each.param.hi, each.param.off)
            choices[each.name] = sorted({each.kind(value) for value in limits if value is not None})
    for name, values in choices.items():
        for value in values:
            yield from _built(stage, {name: value})
    for (one, firsts), (other, seconds) in itertools.combinations(choices.items(), 2):
        for first, second in itertools.product(firsts, seconds):
            yield from _built(stage, {one: first, other: second})


def _built(stage: type, values: dict[str, Any]) -> Iterator[Any]:
    try:
        yield stage(**values)
    except ChainError:  # it refuses what cannot be; that is its right
        return


def _rows() -> "Tensor":
    import torch

    return torch.randn(5, VOCAB, generator=torch.Generator().manual_seed(7)) * 3


def _extremes() -> dict[str, "Tensor"]:
    import torch

    rows = _rows()
    half, last, tied = rows.clone(), torch.full_like(rows, -math.inf), rows.round()
    half[:, ::2] = -math.inf
    last[:, 5] = 1.5
    peaked = torch.full_like(rows, -50.0)
    peaked[:, 9] = 30.0
    return {
        "ordinary rows": rows,
        "flat rows": torch.zeros_like(rows),
        "rows with one sure token": peaked,
        "rows of huge logits": rows.sign() * 1e30,
        "rows with many equals": tied,
        "rows of which half is out": half,
        "rows of which one token is left": last,
        "a vocabulary of one token": torch.zeros(2, 1),
    }


def _tokens(rows: int) -> "Tensor":
    import torch

    return torch.tensor([[3, 1, 4, 1, 5, 3, 1, 4]]).expand(rows, -1).clone()


def _context(stage: Any, rows: int) -> Context:
    start = getattr(stage, "start", None)
    uniform = tuple((row * 0.37 + 0.11) % 1 for row in range(rows))
    return Context(_tokens(rows), 2, uniform, start() if start else None, Letters(), 20)


def _called(stage: Any, rows: "Tensor") -> Any:
    context = _context(stage, len(rows))
    if rows.shape[-1] < VOCAB:
        context = dataclasses.replace(context, tokens=context.tokens * 0, vocabulary=_One())
    if not hasattr(stage, "start"):
        return stage(rows.clone(), context)
    # a stage that remembers is called row by row
    import torch

    results = []
    for row in range(len(rows)):
        alone = slice(row, row + 1)
        own = dataclasses.replace(context, tokens=context.tokens[alone], uniform=tuple(context.uniform)[alone])
        results.append(stage(rows[alone].clone(), own))
    return torch.cat(results)


class _One(Letters):
    """A vocabulary of the end of text."""

    vocab_size = 1
    end_of_text = 0

    def encode(self, text: str) -> list[int]:
        return [0]

    def token_bytes(self, token: int) -> bytes:
        return b""


def _told(stage: Any) -> str:
    return format_stage(stage)


def _kind(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if hasattr(value, "shape") else type(value).__name__


def _gap(one: "Tensor", other: "Tensor") -> float:
    return 0.0 if bool(one == other) else float(one - other)
