"""GraphedGPT: a GPT on a GPU whose step of one token is launched as one graph instead of some two hundred kernels.

A graph replays the same kernels on the same memory. So a step writes its keys where a number on the device says, looks
at a fixed span of positions, and masks those that are not yet written; spans double, and each has its own graph.
Everything longer than one token, and a GPU that records no graphs, is the model's own business.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from gpt_model.config import ModelConfig
from gpt_model.model import GPT, KVCache

_SHORTEST = 128
"""Positions of the shortest span."""
_WARM_UP = 3
"""Runs before recording: libraries choose their kernels and take their memory in the first ones."""


class Graph(Protocol):
    """Something recorded."""

    def replay(self) -> None: ...


Record = Callable[[Callable[[], Tensor]], tuple[Graph, Tensor]]
"""Runs a function and returns its graph, and where its result stands after each replay."""


@dataclass
class _Step:
    """One recorded step."""

    graph: Graph
    logits: Tensor


class StepCache(KVCache):
    """A cache with what a recorded step reads: the token, its position, and the steps recorded on this memory."""

    def __init__(self, config: ModelConfig, batch_size: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(config, batch_size, device, dtype)
        self._store.zero_()  # what is masked is multiplied by 0, and must be a number
        self._prepare()

    def _prepare(self) -> None:
        device, rows = self._store.device, self._store.shape[2]
        self.ids = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self.position = torch.zeros(1, dtype=torch.long, device=device)
        self.steps: dict[int, _Step] = {}
        self.span: int | None = None
        self.recorded = True
        """Whether its steps are to be recorded."""

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """As KVCache; in a step, write where `position` says and return the whole span (B, H, span, D)."""
        if self.span is None:
            return super().append(layer, keys, values)
        self._store[layer, 0].index_copy_(2, self.position, keys)
        self._store[layer, 1].index_copy_(2, self.position, values)
        return self._store[layer, 0, :, :, : self.span], self._store[layer, 1, :, :, : self.span]

    def mask(self, new: int) -> Tensor | None:
        """As KVCache; in a step, what is not after the position, (1, span)."""
        if self.span is None:
            return super().mask(new)
        return (torch.arange(self.span, device=self.position.device) <= self.position)[None]

    def positions(self, new: int) -> Tensor:
        """As KVCache; in a step, the position."""
        return super().positions(new) if self.span is None else self.position

    def expand(self, batch_size: int) -> Self:
        """Return a cache in which the one sequence of this one stands `batch_size` times."""
        wide = super().expand(batch_size)
        wide._prepare()
        return wide

    def select(self, rows: list[int]) -> Self:
        """Return a cache of these of its sequences; one may be named several times."""
        chosen = super().select(rows)
        chosen._prepare()
        chosen.recorded = False  # it will be chosen from again, after fewer steps than a recording costs
        return chosen


class GraphedGPT:
    """A GPT that replays its steps. It answers to the same calls."""

    def __init__(self, model: GPT, record: Record | None = None) -> None:
        self.model = model
        self.config = model.config
        self.note = ""
        """Why steps are not recorded, if they are not."""
        self._record = record or _record_on_cuda

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    def new_cache(self, batch_size: int = 1) -> StepCache:
        """Return an empty cache for sequences of up to block_size tokens."""
        return StepCache(self.config, batch_size, self.device, self.model.wte.weight.dtype)

    def __call__(self, ids: Tensor, cache: Any = None) -> Tensor:
        """Return logits (B, T, V) for ids (B, T)."""
        logits: Tensor = self.model(ids, cache)
        return logits

    def next_logits(self, ids: Tensor, cache: Any = None) -> Tensor:
        """Return the logits (B, V) float32 of the token after ids (B, T), which follow what is in the cache.

        Raises:
            GenerationError: the sequence is longer than block_size.
        """
        if self.note or ids.shape[1] != 1 or not isinstance(cache, StepCache) or not (cache.room and cache.recorded):
            return self.model.next_logits(ids, cache)
        span = _span(cache.length + 1, self.config.block_size)
        cache.ids.copy_(ids)
        cache.position.fill_(cache.length)
        if span not in cache.steps:
            try:
                cache.steps[span] = self._recorded(cache, span)
            except RuntimeError as error:  # the model's own step is as right, only slower
                self.note = f"this GPU records no graphs ({str(error).splitlines()[0]})"
                warnings.warn(self.note, stacklevel=2)
                return self.model.next_logits(ids, cache)
        step = cache.steps[span]
        step.graph.replay()
        cache.length += 1
        return step.logits.clone()  # the next replay writes over it

    def read(self, ids: Tensor, cache: Any = None) -> tuple[Tensor, Tensor]:
        """As GPT.read, and never recorded."""
        return self.model.read(ids, cache)

    def _recorded(self, cache: StepCache, span: int) -> _Step:
        length = cache.length

        def run() -> Tensor:
            cache.length = length
            return self.model.next_logits(cache.ids, cache)

        cache.span = span
        try:
            return _Step(*self._record(run))
        finally:
            cache.span, cache.length = None, length


def _span(length: int, block_size: int) -> int:
    """Return the span in which so many positions fit."""
    span = _SHORTEST
    while span < length:
        span *= 2
    return min(span, block_size)


def _record_on_cuda(run: Callable[[], Tensor]) -> tuple[Graph, Tensor]:
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = run()
    return graph, logits
