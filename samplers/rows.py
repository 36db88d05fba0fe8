"""Rows: logits on which a chain has decided, but not yet acted.

Most strategies come to one number a row: what lies below it is out. Two such cuts and the division between them are
kept as numbers, so that nothing of a vocabulary's size is written until the draw, which reads it once.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Optional

from samplers.stage import Context

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Rows:
    """Logits (B, V) float32, then a cut, a division, and another cut. `dense` carries them out."""

    logits: "Tensor"
    floor: Optional["Tensor"] = None
    """(B, 1): lower logits are out."""
    divisor: float = 1.0
    last_floor: Optional["Tensor"] = None
    """(B, 1): lower ones are out after the division."""
    top: Optional["Tensor"] = None
    """(B, 1): the largest of `logits`, where it is known already."""

    @cached_property
    def best(self) -> "Tensor":
        """(B, 1): the largest logit as it is now; no cut takes it away."""
        top = self.logits.amax(dim=-1, keepdim=True) if self.top is None else self.top
        return top if self.divisor == 1.0 else top / self.divisor

    def keep(self, threshold: "Tensor") -> "Rows":
        """Return rows in which logits, as they are now, below `threshold` (B, 1) are out; the best always stays."""
        threshold = threshold.minimum(self.best)
        if self.divisor == 1.0:
            return replace(
                self,
                floor=threshold if self.floor is None else self.floor.maximum(threshold),
            )
        return replace(
            self,
            last_floor=threshold if self.last_floor is None else self.last_floor.maximum(threshold),
        )

    def divide(self, divisor: float) -> "Rows":
        """Return rows with every logit divided by a number above 0."""
        if self.divisor != 1.0:
            return Rows(self.dense, divisor=divisor)
        return replace(self, divisor=divisor)

    @cached_property
    def dense(self) -> "Tensor":
        """(B, V): the logits as they are now."""
        logits = self.logits if self.floor is None else _cut(self.logits, self.floor)
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
        if self.logits.device.type == "cpu":
            return self.logits.new_tensor([total for total, _ in self._moments])[:, None]
        return self.dense.logsumexp(dim=-1, keepdim=True)

    @cached_property
    def entropy(self) -> "Tensor":
        """(B, 1): H = -Σ p ln p in nats; what is out counts nothing."""
        if self.logits.device.type == "cpu":
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
            found.append(
                (
                    float(best) + log_total,
                    log_total - float(weights.sum(dtype=np.float64)) / total,
                )
            )
        return found

    def alive(self, row: int) -> Any:
        """Return one row's logits as they are now without those that are out, in a numpy array (n,) to be read only.

        For rows on a CPU; a row with a cut costs what its few tokens cost, not what the vocabulary does.
        """
        values = self.logits[row].numpy()
        if self.floor is not None:
            values = values[(values >= self.floor[row].item()).nonzero()[0]]
        if self.divisor != 1.0:
            values = values / values.dtype.type(self.divisor)
        return values if self.last_floor is None else values[values >= self.last_floor[row].item()]


def _cut(logits: "Tensor", floor: "Tensor") -> "Tensor":
    return logits.masked_fill(logits < floor, float("-inf"))


class RowsStage:
    """A stage that decides on rows: it defines `on`, and is called like any other."""

    def on(self, rows: Rows, context: Context) -> Rows:
        """Return what is left of the rows."""
        raise NotImplementedError

    def __call__(self, logits: "Tensor", context: Context) -> "Tensor":
        return self.on(Rows(logits), context).dense
