"""Head: the largest logits of a row on a CPU. Most strategies, and most draws, need to look no further.

Look: what one look at a whole row finds.
"""

import math
from typing import Any, NamedTuple

REACH = 8.0
"""Nats below the best down to which a head goes."""
MOST = 4096
"""Tokens that a head may have: of a row that is flatter none is known, and its head is empty."""
_SHORT = 256
"""A shorter head costs as much to cut as it does to read."""


class Head(NamedTuple):
    """The largest logits of one row, in numpy arrays to be read only."""

    ids: Any
    """(n,) whole numbers, ascending."""
    values: Any
    """(n,) float32: their logits."""
    lowest: float
    """Whatever is not below it is among them."""

    def down_to(self, threshold: float) -> "Head":
        """Return the head without what is below a threshold; itself where that would hardly be less."""
        if threshold < self.lowest or len(self.ids) < _SHORT:
            return self
        kept = (self.values >= threshold).nonzero()[0]
        return Head(self.ids[kept], self.values[kept], threshold)


def find_head(values: Any, top: float) -> Head:
    """Return the head of a row, given in a numpy array (V,), whose largest number is `top`."""
    lowest = float(values.dtype.type(top - REACH))
    ids = (values >= lowest).nonzero()[0]
    return head_of(ids, values[ids], lowest) if len(ids) <= MOST else head_of(ids[:0], values[:0], lowest)


def head_of(ids: Any, values: Any, lowest: float) -> Head:
    """Return a head of what was found; without anything it is empty, and above every number."""
    return Head(ids, values, lowest if len(ids) else math.inf)


class Moments(NamedTuple):
    """What one row sums up to."""

    log_total: float
    """ln Σ exp z: ln p = z - log_total."""
    entropy: float
    """-Σ p ln p in nats."""


class Look(NamedTuple):
    """What a look at one row has found."""

    top: float
    """The largest logit."""
    head: Head
    moments: Moments
