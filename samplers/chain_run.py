"""ChainRun: one chain at work on one generation. Calls the stages, keeps their memories, survives their faults."""

import functools
import math
import time
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from samplers.chain import Chain, format_stage
from samplers.errors import ChainError, NotFiniteError
from samplers.guard import Guard, checked
from samplers.plan import Plan
from samplers.rows import Rows, RowsStage, numbers
from samplers.stage import Context, Stage, Vocabulary, is_off
from samplers.uniform import keyed_uniform

if TYPE_CHECKING:
    from torch import Tensor

STRIKES = 3
"""Faults in a row after which a stage is switched off."""

Memories = tuple[tuple[type, tuple[Any, ...]], ...]
"""What the stages with memory remember: the type of each, and its memory of every row."""


class StageAccount(NamedTuple):
    """What one stage did to one row."""

    stage: str
    kept: int
    """Candidates left."""
    mass: float
    """The model's probability that is left, of the row before the chain."""
    milliseconds: float
    entropy: float
    """Of what is left, in nats."""
    threshold: float | None = None
    """Where it cut at one number: that number, of logits as they were then."""
    off: bool = False
    """Whether it is set to change nothing."""
    cut: tuple[int, ...] = ()
    """Of the tokens that somebody asks about, those that it took out."""
    shares: tuple[float, ...] = ()
    """Their probabilities after it, in their order."""


@dataclass(frozen=True)
class Processed:
    """What came of one step of a chain."""

    chosen: Rows | Plan
    """What is left of the rows, (B, V), with at least one finite number in every row; or what will be."""
    accounts: tuple[tuple[StageAccount, ...], ...] = ()
    """A tuple of accounts a row, when asked for."""
    faults: tuple[str, ...] = ()
    """A sentence for each stage that was bypassed at this step."""
    left: tuple[Rows, ...] = ()
    """What each stage that has an account left."""

    @property
    def rows(self) -> Rows:
        """What is left of the rows."""
        return self.chosen.decided

    @property
    def logits(self) -> "Tensor":
        """(B, V) float32"""
        return self.rows.dense


class _Placed:
    """A stage in its place: what is known of it, and how often in a row it failed."""

    def __init__(self, stage: Stage, strikes: int) -> None:
        self.stage = stage
        self.strikes = strikes
        # someone else's may break the rule that its input stays unchanged
        self.foreign = not type(stage).__module__.startswith("samplers.")
        self.remembers = hasattr(stage, "start")
        self.decides = isinstance(stage, RowsStage) and not self.remembers
        self.plans = self.decides and not self.foreign

    @functools.cached_property
    def off(self) -> bool:
        return is_off(self.stage)


class ChainRun:
    """The state of a chain on B rows that grow together. `switch` swaps the chain between two tokens.

    What stages remember are values: `memories` are those of this position, and `restore` goes back to others.
    """

    def __init__(self, chain: Chain, seeds: Sequence[int], vocabulary: Vocabulary | None = None) -> None:
        self._seeds = tuple(seeds)  # one a row
        self._vocabulary = vocabulary
        self._placed: list[_Placed] = []
        self._memories: list[list[Any]] = []
        self._seen: list[tuple[Tensor, Tensor] | None] = []
        self._guard = Guard()
        self.chain = Chain()
        self.switch(chain)

    def switch(self, chain: Chain) -> None:
        """Take another chain from the next token on; a stage of a type that was there before keeps its memory."""
        remembered, strikes = self.memories, {each.stage: each.strikes for each in self._placed}
        self._placed = [_Placed(stage, strikes.get(stage, 0)) for stage in chain]
        self.chain = chain
        self.restore(remembered)

    @property
    def memories(self) -> Memories:
        """What the stages with memory remember now."""
        pairs = zip(self._placed, self._memories, strict=True)
        return tuple((type(placed.stage), tuple(rows)) for placed, rows in pairs if placed.remembers)

    def restore(self, memories: Memories) -> None:
        """Go back, or on, to what was remembered elsewhere; stages of a type that is not in it start anew."""
        left = list(memories)
        self._memories = []
        for stage in self.chain:
            kept = next((pair for pair in left if pair[0] is type(stage) and len(pair[1]) == len(self._seeds)), None)
            if kept:
                left.remove(kept)
            start = getattr(stage, "start", None)
            self._memories.append(list(kept[1]) if kept else [start() if start else None for _ in self._seeds])
        self._seen = [None] * len(self.chain)

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these of the rows, each with what it remembers; one may be named several times."""
        self._seeds = tuple(self._seeds[row] for row in rows)
        self._memories = [[memories[row] for row in rows] for memories in self._memories]
        chosen = list(rows)
        self._seen = [seen and (seen[0][chosen], seen[1][chosen]) for seen in self._seen]

    def process(
        self, logits: "Tensor | Rows", tokens: "Tensor", prompt_length: int, account: bool = False,
        remaining: int | None = None,
    ) -> Processed:  # fmt: skip
        """Return the logits after every stage. logits (B, V) float32, tokens (B, T) int64.

        A stage that raises, changes its input, empties a row, does not return, or returns NaN, +inf or another shape
        or type is bypassed for this token, and switched off after three in a row.
        """
        accounts: list[list[StageAccount]] = [[] for _ in self._seeds]
        faults, left = [], []
        self._seen = [None] * len(self.chain)
        rows = logits if isinstance(logits, Rows) else Rows(logits)
        plan: Plan | None = None
        before = rows.probabilities if account else None
        uniforms = _Uniforms(self._seeds, tokens.shape[1])
        context = Context(tokens, prompt_length, uniforms, None, self._vocabulary, remaining)
        for place, placed in enumerate(self._placed):
            if placed.strikes >= STRIKES:
                continue
            stage = placed.stage
            if before is None and placed.plans and (step := stage.step(context)) is not None:  # type: ignore[attr-defined]
                plan = (plan or Plan(rows)).then(stage, context, step)  # type: ignore[arg-type]
                continue
            if plan is not None:
                rows, plan = plan.decided, None
            began = time.perf_counter()
            uniforms.place = place + 1
            try:
                result = self._call(place, placed, rows, context)
            except NotFiniteError:  # no fault of the stage's: the model's
                raise
            except (
                BaseException
            ) as error:  # nothing that a stage does may end the stream, not even sys.exit in a plugin
                if not isinstance(error, Exception) and (isinstance(error, KeyboardInterrupt) or not placed.foreign):
                    raise
                placed.strikes += 1
                off = "; switched off" if placed.strikes >= STRIKES else "; bypassed for this token"
                faults.append(f"{format_stage(stage)}: {_sentence(error)}{off}")
                continue
            placed.strikes = 0
            if placed.remembers:
                self._seen[place] = (rows.dense, result.dense)
            if before is not None:
                spent = (time.perf_counter() - began) * 1000
                told = zip(accounts, _account(result, before), _thresholds(rows, result), strict=True)
                for mine, (kept, mass, nats), threshold in told:
                    mine.append(StageAccount(format_stage(stage), kept, mass, spent, nats, threshold, placed.off))
                left.append(result)
            rows = result
        return Processed(plan or rows, tuple(map(tuple, accounts)) if account else (), tuple(faults), tuple(left))

    def after(self, row: int, token: int) -> None:
        """Tell the stages with memory which token was drawn in a row."""
        for place, placed in enumerate(self._placed):
            if (seen := self._seen[place]) is None:
                continue
            step: Any = getattr(placed.stage, "after", None)
            if step is not None:
                try:
                    self._memories[place][row] = step(self._memories[place][row], token, seen[0][row], seen[1][row])
                except Exception:  # a plugin's: its memory stays as it was, and it comes nearer to being switched off
                    if not placed.foreign:
                        raise
                    placed.strikes += 1

    def close(self) -> None:
        """Let go of what the stages of others ran on."""
        self._guard.close()

    def _call(self, place: int, placed: "_Placed", rows: Rows, context: Context) -> Rows:
        stage = placed.stage
        if not placed.foreign:  # ours keep the contract: a test holds each to it, with every extreme
            if placed.decides:
                return stage.on(rows, context)  # type: ignore[attr-defined, no-any-return]
            if not placed.remembers:
                return Rows(stage(rows.dense, context))
            return Rows(_stacked([stage(each, own) for each, own in self._apart(place, rows.dense, context)]))
        logits = rows.dense
        # what a stage of others is given is its own, so that changing it changes nothing
        if not placed.remembers:
            own = replace(context, tokens=context.tokens.clone(), uniform=context.uniform[:])
            return Rows(checked(self._guard.call(functools.partial(stage, logits.clone(), own)), logits))
        results = []
        for row, own in self._apart(place, logits, context):
            call = functools.partial(stage, row.clone(), replace(own, tokens=own.tokens.clone()))
            results.append(checked(self._guard.call(call), row))
        return Rows(_stacked(results))

    def _apart(self, place: int, logits: "Tensor", context: Context) -> "Iterator[tuple[Tensor, Context]]":
        """Yield each row (1, V) with a context of its own."""
        for row, memory in enumerate(self._memories[place]):
            alone = slice(row, row + 1)
            own = replace(context, tokens=context.tokens[alone], uniform=context.uniform[alone], memory=memory)
            yield logits[alone], own


def _stacked(rows: "list[Tensor]") -> "Tensor":
    if len(rows) == 1:
        return rows[0]
    stacked = rows[0].new_empty((len(rows), rows[0].shape[-1]))
    for row, each in enumerate(rows):
        stacked[row] = each[0]
    return stacked


def _account(rows: Rows, before: "Tensor") -> list[tuple[int, float, float]]:
    """Return of each row how many candidates are left, the mass of `before` that is theirs, and their entropy."""
    alive = rows.dense > -math.inf  # (B, V)
    kept, mass = alive.sum(dim=-1).tolist(), (before * alive).sum(dim=-1).tolist()
    return list(zip(kept, mass, rows.entropy[:, 0].clamp(min=0.0).tolist(), strict=True))


def _thresholds(before: Rows, after: Rows) -> list[float | None]:
    """Return of each row the number at which a stage cut it; None where an earlier cut was higher, or it has none."""
    for old, new in ((before.floor, after.floor), (before.last_floor, after.last_floor)):
        if new is not None and new is not old:
            lower = [-math.inf] * len(after.logits) if old is None else numbers(old)
            return [now if now > then else None for now, then in zip(numbers(new), lower, strict=True)]
    return [None] * len(after.logits)


def _sentence(error: BaseException) -> str:
    text = str(error)
    return (
        text if isinstance(error, ChainError) else f"{type(error).__name__}: {text}" if text else type(error).__name__
    )


class _Uniforms(Sequence[float]):
    """A keyed number a row, of the stage in `place`, made when it is asked for: most stages never do."""

    def __init__(self, seeds: tuple[int, ...], position: int) -> None:
        self._seeds, self._position, self.place = seeds, position, 0

    def __len__(self) -> int:
        return len(self._seeds)

    @typing.overload
    def __getitem__(self, row: int) -> float: ...
    @typing.overload
    def __getitem__(self, row: slice) -> tuple[float, ...]: ...
    def __getitem__(self, row: int | slice) -> float | tuple[float, ...]:
        if isinstance(row, slice):
            return tuple(keyed_uniform(seed, self._position, self.place) for seed in self._seeds[row])
        return keyed_uniform(self._seeds[row], self._position, self.place)
