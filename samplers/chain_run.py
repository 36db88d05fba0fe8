"""ChainRun: one chain at work on one generation. Calls the stages, keeps their memories, survives their faults."""

import math
import time
import typing
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from samplers.chain import Chain, format_stage
from samplers.errors import ChainError
from samplers.rows import Rows, RowsStage
from samplers.stage import Context, Stage, Vocabulary
from samplers.uniform import keyed_uniform

if TYPE_CHECKING:
    from torch import Tensor

STRIKES = 3
"""Faults in a row after which a stage is switched off."""


class StageAccount(NamedTuple):
    """What one stage did to one row."""

    stage: str
    kept: int
    """Candidates left."""
    mass: float
    """The model's probability that is left, of the row before the chain."""
    milliseconds: float


@dataclass(frozen=True)
class Processed:
    """What came of one step of a chain."""

    rows: Rows
    """(B, V), with at least one finite number in every row."""
    accounts: tuple[tuple[StageAccount, ...], ...] = ()
    """A tuple of accounts a row, when asked for."""
    faults: tuple[str, ...] = ()
    """A sentence for each stage that was bypassed at this step."""

    @property
    def logits(self) -> "Tensor":
        """(B, V) float32"""
        return self.rows.dense


class ChainRun:
    """The state of a chain on B rows that grow together. `switch` swaps the chain between two tokens."""

    def __init__(self, chain: Chain, seeds: Sequence[int], vocabulary: Vocabulary | None = None) -> None:
        self._seeds = tuple(seeds)  # one a row
        self._vocabulary = vocabulary
        self._strikes: dict[Stage, int] = {}
        self._memories: list[list[Any]] = []
        self._seen: list[tuple[Tensor, Tensor] | None] = []
        self.chain = Chain()
        self.switch(chain)

    def switch(self, chain: Chain) -> None:
        """Take another chain from the next token on; a stage of a type that was there before keeps its memory."""
        old = [(type(stage), memories) for stage, memories in zip(self.chain, self._memories, strict=True)]
        self._memories = []
        for stage in chain:
            kept = next((pair for pair in old if pair[0] is type(stage)), None)
            if kept:
                old.remove(kept)
                self._memories.append(kept[1])
            else:
                self._memories.append(
                    [start() if (start := getattr(stage, "start", None)) else None for _ in self._seeds]
                )
        self._seen = [None] * len(chain)
        self._strikes = {stage: self._strikes.get(stage, 0) for stage in chain}
        self.chain = chain

    def process(
        self, logits: "Tensor | Rows", tokens: "Tensor", prompt_length: int, account: bool = False
    ) -> Processed:
        """Return the logits after every stage. logits (B, V) float32, tokens (B, T) int64.

        A stage that raises, changes its input, empties a row, or returns NaN, +inf or another shape or type is
        bypassed for this token, and switched off after three in a row.
        """
        accounts: list[list[StageAccount]] = [[] for _ in self._seeds]
        faults = []
        self._seen = [None] * len(self.chain)
        rows = logits if isinstance(logits, Rows) else Rows(logits)
        before = rows.dense.softmax(dim=-1) if account else None
        for place, stage in enumerate(self.chain):
            if self._strikes[stage] >= STRIKES:
                continue
            began = time.perf_counter()
            uniforms = _Uniforms(self._seeds, tokens.shape[1], place + 1)
            context = Context(tokens, prompt_length, uniforms, None, self._vocabulary)
            try:
                result = self._call(place, stage, rows, context)
            except Exception as error:  # nothing that a stage does may end the stream
                self._strikes[stage] += 1
                off = "; switched off" if self._strikes[stage] >= STRIKES else "; bypassed for this token"
                faults.append(f"{format_stage(stage)}: {type(error).__name__}: {error}{off}")
                continue
            self._strikes[stage] = 0
            if hasattr(stage, "after"):
                self._seen[place] = (rows.dense, result.dense)
            rows = result
            if before is not None:
                spent = (time.perf_counter() - began) * 1000
                alive = rows.dense > -math.inf  # (B, V)
                kept, mass = alive.sum(dim=-1).tolist(), (before * alive).sum(dim=-1).tolist()
                for row, mine in enumerate(accounts):
                    mine.append(StageAccount(format_stage(stage), kept[row], mass[row], spent))
        return Processed(rows, tuple(map(tuple, accounts)) if account else (), tuple(faults))

    def after(self, row: int, token: int) -> None:
        """Tell the stages with memory which token was drawn in a row."""
        for place, stage in enumerate(self.chain):
            seen = self._seen[place]
            if seen is not None and (step := getattr(stage, "after", None)):
                self._memories[place][row] = step(self._memories[place][row], token, seen[0][row], seen[1][row])

    def _call(self, place: int, stage: Stage, rows: Rows, context: Context) -> Rows:
        ours = not _foreign(stage)  # ours keep the contract: a test holds each to it, with every extreme
        if ours and isinstance(stage, RowsStage):
            return stage.on(rows, context)
        logits = rows.dense
        if not hasattr(stage, "start"):
            return Rows(stage(logits, context) if ours else _checked(stage(logits.clone(), context), logits))
        results = []
        for row, memory in enumerate(self._memories[place]):
            own = replace(
                context, tokens=context.tokens[row : row + 1], uniform=context.uniform[row : row + 1], memory=memory
            )
            results.append(_checked(stage(logits[row : row + 1].clone(), own), logits[row : row + 1]))
        result = logits.clone()
        for row, each in enumerate(results):
            result[row] = each[0]
        return Rows(result)


class _Uniforms(Sequence[float]):
    """A keyed number a row, made when it is asked for: most stages never do."""

    def __init__(self, seeds: tuple[int, ...], position: int, place: int) -> None:
        self._seeds, self._position, self._place = seeds, position, place

    def __len__(self) -> int:
        return len(self._seeds)

    @typing.overload
    def __getitem__(self, row: int) -> float: ...
    @typing.overload
    def __getitem__(self, row: slice) -> tuple[float, ...]: ...
    def __getitem__(self, row: int | slice) -> float | tuple[float, ...]:
        if isinstance(row, slice):
            return tuple(keyed_uniform(seed, self._position, self._place) for seed in self._seeds[row])
        return keyed_uniform(self._seeds[row], self._position, self._place)


def _foreign(stage: Stage) -> bool:
    """Return whether the stage is someone else's, and may break the rule that its input stays unchanged."""
    return not type(stage).__module__.startswith("samplers.")


def _checked(result: Any, logits: "Tensor") -> "Tensor":
    """Return a stage's result if it keeps the contract; the best token of a row is what the checks look at."""
    if getattr(result, "shape", None) != logits.shape:
        raise ChainError(f"returned {_shape(result)} instead of logits of shape {tuple(logits.shape)}")
    if result.dtype != logits.dtype or result.device != logits.device:
        raise ChainError(f"returned {result.dtype} on {result.device} instead of {logits.dtype} on {logits.device}")
    for best in result.amax(dim=-1).tolist():  # NaN if any is NaN, +inf if any is, -inf if the row is empty
        if math.isnan(best):
            raise ChainError("returned NaN")
        if math.isinf(best):
            raise ChainError("returned +inf" if best > 0 else "removed every token")
    return result  # type: ignore[no-any-return]


def _shape(result: Any) -> str:
    return f"shape {tuple(result.shape)}" if hasattr(result, "shape") else type(result).__name__
