"""Rows: logits on which a chain has decided, but not yet acted.

Most strategies come to one number a row: what lies below it is out. Two such cuts and the division between them are
kept as numbers, so that nothing of a vocabulary's size is written until the draw, which reads it once. On a CPU these
numbers are Python's, for a tensor of one number takes longer to make than all that is done with it; elsewhere they are
tensors, so that nobody waits for them.
"""

import math
import struct
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Union, cast

from samplers.head import Head, Look, Moments, find_head
from samplers.stage import Context

if TYPE_CHECKING:
    from torch import Tensor

Threshold = Union["Tensor", Sequence[float]]
"""A number a row: a tensor (B, 1), or B numbers."""


class Step(NamedTuple):
    """One decision that can be told by a number."""

    kind: Literal["penalise", "most", "mass", "near", "divide"]
    """Repetition penalty, the k most likely, the nucleus of a mass, those so many nats below the best, a division."""
    number: float
    tokens: "Tensor | None" = None
    """(B, n) int64: those that are penalised."""


class Rows:
    """Logits (B, V) float32, then a cut, a division, and another cut. `dense` carries them out. Never changed.

    On a CPU some logits may have been lowered before all this; and what is known of a row already, its largest
    logits and its sums, is handed on as long as it is true.
    """

    def __init__(
        self, logits: "Tensor", floor: Threshold | None = None, divisor: float = 1.0,
        last_floor: Threshold | None = None, top: Threshold | None = None, heads: Sequence[Head] | None = None,
        look: Callable[[], Sequence[Look]] | None = None, lowered: tuple[Any, Callable[[Any], Any]] | None = None,
    ) -> None:  # fmt: skip
        self._logits = logits
        self.floor = floor
        """Lower logits are out."""
        self.divisor = divisor
        self.last_floor = last_floor
        """Lower ones are out after the division."""
        self._top = top  # the largest of `logits`, where it is known already
        self._heads = heads  # of `logits`, where they are known
        self._look = look  # finds out what `logits` hold, quicker than it is done here
        self._lowered = lowered  # ids (B, n), and what becomes of their logits

    @cached_property
    def on_cpu(self) -> bool:
        """Whether the logits can be read without waiting for another device."""
        return on_cpu(self._logits)

    @property
    def decided(self) -> "Rows":
        """These rows: of a Plan it is what comes of it."""
        return self

    @cached_property
    def logits(self) -> "Tensor":
        """(B, V): what is cut and divided."""
        if self._lowered is None:
            return self._logits
        changed = self._logits.clone()
        tokens, lowered = self._lowered
        for row, ids in zip(changed.numpy(), tokens, strict=True):
            row[ids] = lowered(row[ids])
        return changed

    @property
    def shape(self) -> tuple[int, int]:
        """B, V."""
        rows, size = self._logits.shape
        return rows, size

    @cached_property
    def tops(self) -> tuple[float, ...]:
        """On a CPU the largest logit of each row as it is now; no cut takes it away."""
        return tuple(top / self.divisor for top in self.raw_tops)

    @cached_property
    def raw_tops(self) -> Sequence[float]:
        """On a CPU the largest of `logits` of each row."""
        if self._top is None:
            looks = self._looks
            rows = range(self.shape[0])
            self._top = [each.top for each in looks] if looks else [float(self.raw(row).max()) for row in rows]
        return numbers(self._top)

    @cached_property
    def best(self) -> "Tensor":
        """(B, 1): the largest logit as it is now; no cut takes it away."""
        if self.on_cpu:
            return self._logits.new_tensor(self.tops)[:, None]
        if self._top is None:
            self._top = self.logits.amax(dim=-1, keepdim=True)
        return cast("Tensor", self._top) / self.divisor

    def below_best(self, distance: float) -> Threshold:
        """Return the threshold that lies so far below the best."""
        return [top - distance for top in self.tops] if self.on_cpu else self.best - distance

    def keep(self, threshold: Threshold, heads: Sequence[Head] | None = None) -> "Rows":
        """Return rows in which logits, as they are now, below a threshold are out; the best always stays.

        Args:
            threshold: one number a row.
            heads: of each row a head that is shorter than the one it has, where that is known.
        """
        floor, last = self.floor, self.last_floor
        if self.divisor == 1.0:
            floor = self._raised(floor, threshold)
        else:
            last = self._raised(last, threshold)
        return self._decided(floor, self.divisor, last, heads)

    def _decided(
        self, floor: Threshold | None, divisor: float, last_floor: Threshold | None,
        heads: Sequence[Head] | None = None,
    ) -> "Rows":  # fmt: skip
        known = self._heads if heads is None else heads
        return Rows(self._logits, floor, divisor, last_floor, self._top, known, self._look, self._lowered)

    def lower(self, tokens: Any, lowered: Callable[[Any], Any]) -> "Rows":
        """Return rows in which the logits of some tokens are lowered: nothing of a vocabulary's size is written.

        Args:
            tokens: (B, n) ids of an untouched row on a CPU, in a numpy array; one may come twice.
            lowered: returns, for logits in a numpy array, numbers that are not larger.
        """
        import numpy as np  # here, for this storey is imported where nothing is computed

        heads, tops = [], []
        for row, ids in enumerate(tokens):
            head = self.head(row)
            marked = np.zeros(self.shape[1], np.bool_)
            marked[ids] = True
            inside = marked[head.ids].nonzero()[0]
            if len(inside):
                values = head.values.copy()
                values[inside] = lowered(values[inside])
                head = Head(head.ids, values, head.lowest)
            top = float(head.values.max(initial=-math.inf))
            if top < head.lowest:  # what was behind the head may be the best now
                return Rows(Rows(self._logits, lowered=(tokens, lowered)).logits)
            heads.append(head)
            tops.append(top)
        return Rows(self._logits, top=tops, heads=heads, lowered=(tokens, lowered))

    @property
    def untouched(self) -> bool:
        """Whether nothing is cut, divided or lowered."""
        return self.floor is None and self.divisor == 1.0 and self.last_floor is None and self._lowered is None

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
        return self._decided(self.floor, divisor, self.last_floor)

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
            return self._logits.new_tensor([each.log_total for each in self._moments])[:, None]
        return self.dense.logsumexp(dim=-1, keepdim=True)

    @cached_property
    def entropy(self) -> "Tensor":
        """(B, 1): H = -Σ p ln p in nats; what is out counts nothing."""
        if self.on_cpu:
            return self._logits.new_tensor([each.entropy for each in self._moments])[:, None]
        # clamped, for 0 × -inf is no number
        return -(self.probabilities * self.log_probabilities.clamp(min=-1e4)).sum(dim=-1, keepdim=True)

    @cached_property
    def _moments(self) -> list[Moments]:
        """Of each row ln Σ exp z and H, from what is left of it: the same alone as in a batch, on any threads.

        A sum by torch of one long row is parted among threads, and that of a row in a batch is not.
        """
        import numpy as np  # here, for this storey is imported where nothing is computed

        found = []
        for row in range(self.shape[0]):
            values = self.alive(row)
            best = values.max()
            with np.errstate(over="ignore"):
                distances = np.maximum(values - best, np.float32(-1e4))  # 0 × -inf is no number
            weights = np.exp(distances)
            total = float(weights.sum(dtype=np.float64))
            log_total = math.log(total)
            weights *= distances
            entropy = log_total - float(weights.sum(dtype=np.float64)) / total
            found.append(Moments(float(best) + log_total, entropy))
        return found

    @cached_property
    def _looks(self) -> Sequence[Look] | None:
        return self._look() if self._look else None

    def look(self, row: int) -> Look | None:
        """Return what a look at one row of untouched `logits` has found, if somebody had a reason to look already."""
        return self._looks[row] if self.untouched and self.__dict__.get("_looks") else None  # type: ignore[index]

    def moments(self, row: int) -> Moments | None:
        """Return what one row sums up to, where that is quickly told."""
        return self._looks[row].moments if self.untouched and self._looks else None

    def raw(self, row: int) -> Any:
        """Return one row's `logits`, on a CPU, in a numpy array (V,) to be read only."""
        return self._arrays[row]

    def head(self, row: int) -> Head:
        """Return the largest of one row's `logits`, on a CPU."""
        if self._heads is None:
            looks = self._looks
            rows = range(self.shape[0])
            self._heads = (
                [each.head for each in looks]
                if looks
                else [find_head(self.raw(each), self.raw_tops[each]) for each in rows]
            )
        return self._heads[row]

    def few(self, row: int) -> tuple[Any, Any] | None:
        """Return one row's ids and logits, as they are now, that are left, in numpy arrays (n,); None where its head
        does not hold them all. For rows on a CPU."""
        if self.floor is None and self.last_floor is None:
            return None
        bound = -math.inf if self.floor is None else self.floor[row]
        if self.last_floor is not None:  # of the logits before the division, whatever that rounds
            last = float(self.last_floor[row]) * self.divisor
            bound = max(bound, last - 1e-5 * abs(last))
        head = self.head(row)
        if bound < head.lowest:
            return None
        ids, values = head.ids, head.values
        if self.floor is not None and self.floor[row] > head.lowest:
            kept = (values >= self.floor[row]).nonzero()[0]
            ids, values = ids[kept], values[kept]
        if self.divisor != 1.0:
            values = values / values.dtype.type(self.divisor)
        if self.last_floor is not None:
            kept = (values >= self.last_floor[row]).nonzero()[0]
            ids, values = ids[kept], values[kept]
        return ids, values

    def alive(self, row: int) -> Any:
        """Return one row's logits as they are now without those that are out, in a numpy array (n,) to be read only.

        For rows on a CPU; a row with a cut costs what its few tokens cost, not what the vocabulary does.
        """
        few = self.few(row)
        if few is not None:
            return few[1]
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

    def step(self, context: Context) -> Step | None:
        """Return in one step what `on` does; None where it is no such step."""
        return None

    def __call__(self, logits: "Tensor", context: Context) -> "Tensor":
        return self.on(Rows(logits), context).dense
