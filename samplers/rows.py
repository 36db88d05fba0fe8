"""Rows: logits on which a chain has decided, but not yet acted.

Most strategies come to one number a row: what lies below it is out. Two such cuts and the division between them are
kept as numbers, so that nothing of a vocabulary's size is written until the draw, which reads it once. On a CPU these
numbers are Python's, for a tensor of one number takes longer to make than all that is done with it; elsewhere they are
tensors, so that nobody waits for them.
"""

import math
import struct
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Union, cast

from samplers.stage import Context

if TYPE_CHECKING:
    from torch import Tensor

Threshold = Union["Tensor", Sequence[float]]
"""A number a row: a tensor (B, 1), or B numbers."""


class Rows:
    """Logits (B, V) float32, then a cut, a division, and another cut. `dense` carries them out. Never changed."""

    def __init__(
        self, logits: "Tensor", floor: Threshold | None = None, divisor: float = 1.0,
        last_floor: Threshold | None = None, top: Threshold | None = None, few: Sequence[Any] | None = None,
    ) -> None:  # fmt: skip
        self.logits = logits
        self.floor = floor
        """Lower logits are out."""
        self.divisor = divisor
        self.last_floor = last_floor
        """Lower ones are out after the division."""
        self._top = top  # the largest of `logits`, where it is known already
        self._few = few  # of each row those logits, in a numpy array, that are not below `floor`, or a few more
        self.on_cpu = on_cpu(logits)

    @cached_property
    def tops(self) -> tuple[float, ...]:
        """On a CPU the largest logit of each row as it is now; no cut takes it away."""
        return tuple(top / self.divisor for top in self.raw_tops)

    @cached_property
    def raw_tops(self) -> Sequence[float]:
        """On a CPU the largest of `logits` of each row."""
        if self._top is None:
            self._top = [float(self.raw(row).max()) for row in range(self.logits.shape[0])]
        return numbers(self._top)

    @cached_property
    def best(self) -> "Tensor":
        """(B, 1): the largest logit as it is now; no cut takes it away."""
        if self.on_cpu:
            return self.logits.new_tensor(self.tops)[:, None]
        if self._top is None:
            self._top = self.logits.amax(dim=-1, keepdim=True)
        return cast("Tensor", self._top) / self.divisor

    def below_best(self, distance: float) -> Threshold:
        """Return the threshold that lies so far below the best."""
        return [top - distance for top in self.tops] if self.on_cpu else self.best - distance

    def keep(self, threshold: Threshold, few: Sequence[Any] | None = None) -> "Rows":
        """Return rows in which logits, as they are now, below a threshold are out; the best always stays.

        Args:
            threshold: one number a row.
            few: of each row what of `logits` is kept, in a numpy array, where that is known.
        """
        floor, last = self.floor, self.last_floor
        if self.divisor == 1.0:
            floor = self._raised(floor, threshold)
        else:
            last = self._raised(last, threshold)
        return Rows(self.logits, floor, self.divisor, last, self._top, self._few if few is None else few)

    def _raised(self, old: Threshold | None, new: Threshold) -> Threshold:
        if self.on_cpu:
            lowered = [min(pair) for pair in zip(numbers(new), self.tops, strict=True)]
            return lowered if old is None else [max(pair) for pair in zip(numbers(old), lowered, strict=True)]
        threshold = cast("Tensor", new).minimum(self.best)
        return threshold if old is None else cast("Tensor", old).maximum(threshold)

    def divide(self, divisor: float) -> "Rows":
        """Return rows with every logit divided by a number above 0."""
        if self.divisor != 1.0:
            return Rows(self.dense).divide(divisor)
        (divisor,) = struct.unpack("f", struct.pack("f", divisor))  # as float32 has it
        return Rows(self.logits, self.floor, divisor, self.last_floor, self._top, self._few)

    @cached_property
    def dense(self) -> "Tensor":
        """(B, V): the logits as they are now."""
        return self.carried_out(self.logits)

    def carried_out(self, logits: "Tensor") -> "Tensor":
        """Return some of each row's logits, (B, n), as the cuts and the division leave them."""
        if self.floor is not None:
            logits = _cut(logits, self.floor)
        if self.divisor != 1.0:
            logits = logits / self.divisor
        return logits if self.last_floor is None else _cut(logits, self.last_floor)

    @cached_property
    def log_probabilities(self) -> "Tensor":
        """(B, V): ln p, -inf for what is out."""
        return self.dense.log_softmax(dim=-1)

    @cached_property
    def probabilities(self) -> "Tensor":
        """(B, V): the softmax of the logits as they are now."""
        return self.dense.softmax(dim=-1)

    @cached_property
    def log_total(self) -> "Tensor":
        """(B, 1): ln Σ exp z over the logits as they are now, so that ln p = z - log_total."""
        if self.on_cpu:
            return self.logits.new_tensor([total for total, _ in self._moments])[:, None]
        return self.dense.logsumexp(dim=-1, keepdim=True)

    @cached_property
    def entropy(self) -> "Tensor":
        """(B, 1): H = -Σ p ln p in nats; what is out counts nothing."""
        if self.on_cpu:
            return self.logits.new_tensor([entropy for _, entropy in self._moments])[:, None]
        # clamped, for 0 × -inf is no number
        return -(self.probabilities * self.log_probabilities.clamp(min=-1e4)).sum(dim=-1, keepdim=True)

    @cached_property
    def _moments(self) -> list[tuple[float, float]]:
        """Of each row ln Σ exp z and H, from what is left of it: the same alone as in a batch, on any threads.

        A sum by torch of one long row is parted among threads, and that of a row in a batch is not.
        """
        import numpy as np  # here, for this storey is imported where nothing is computed

        found = []
        for row in range(self.logits.shape[0]):
            values = self.alive(row)
            best = values.max()
            with np.errstate(over="ignore"):
                distances = np.maximum(values - best, np.float32(-1e4))  # 0 × -inf is no number
            weights = np.exp(distances)
            total = float(weights.sum(dtype=np.float64))
            log_total = math.log(total)
            weights *= distances
            found.append((float(best) + log_total, log_total - float(weights.sum(dtype=np.float64)) / total))
        return found

    def raw(self, row: int) -> Any:
        """Return one row's `logits`, on a CPU, in a numpy array to be read only: all, or those that are not below
        `floor` and perhaps a few more, where they are known."""
        return self._arrays[row] if self._few is None else self._few[row]

    def alive(self, row: int) -> Any:
        """Return one row's logits as they are now without those that are out, in a numpy array (n,) to be read only.

        For rows on a CPU; a row with a cut costs what its few tokens cost, not what the vocabulary does.
        """
        values = self.raw(row)
        if self.floor is not None:
            values = values[(values >= self.floor[row]).nonzero()[0]]
        if self.divisor != 1.0:
            values = values / values.dtype.type(self.divisor)
        return values if self.last_floor is None else values[values >= self.last_floor[row]]

    @cached_property
    def _arrays(self) -> Any:
        return self.logits.numpy()


def on_cpu(logits: "Tensor") -> bool:
    """Return whether logits can be read without waiting for another device."""
    return logits.device.type == "cpu"


def numbers(threshold: Threshold) -> Sequence[float]:
    """Return a threshold as numbers."""
    return threshold if isinstance(threshold, Sequence) else cast("list[float]", threshold.flatten().tolist())


def _cut(logits: "Tensor", floor: Threshold) -> "Tensor":
    if not isinstance(floor, Sequence):
        return logits.masked_fill(logits < floor, -math.inf)
    limit = floor[0] if len(floor) == 1 else logits.new_tensor(floor)[:, None]
    return logits.masked_fill(logits < limit, -math.inf)


class RowsStage:
    """A stage that decides on rows: it defines `on`, and is called like any other."""

    def on(self, rows: Rows, context: Context) -> Rows:
        """Return what is left of the rows."""
        raise NotImplementedError

    def __call__(self, logits: "Tensor", context: Context) -> "Tensor":
        return self.on(Rows(logits), context).dense
