"""LossWatch: looks at every loss for what should not be: no number, or a spike. Knows no model and no torch."""

import math
from collections import deque
from typing import Any

NOT_FINITE_LIMIT = 3
"""So many steps in a row without a finite loss or gradient are no accident: the weights or the settings are bad."""
WINDOW = 128
"""Losses with which the next one is compared."""
FEWEST = 32
"""With fewer of them nobody can say what is usual."""
SPIKE = 5.0
"""Standard deviations above the usual. Of batches that vary as a normal distribution does, one in three million."""


class LossWatch:
    """What the latest losses were like."""

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        """Begin, or go on from what `to_state` returned."""
        self._recent: deque[float] = deque((state or {}).get("recent", ()), maxlen=WINDOW)
        self._quiet = int((state or {}).get("quiet", 0))
        self.not_finite = int((state or {}).get("not_finite", 0))
        """Steps in a row whose loss or gradient was not finite."""

    @property
    def hopeless(self) -> bool:
        """Whether it was not finite too often in a row."""
        return self.not_finite >= NOT_FINITE_LIMIT

    def take(self, loss: float, finite: bool) -> float | None:
        """Take in a step's loss; return how many standard deviations it stands above the usual if that is a spike.

        A spike is told once: what stands above the usual within the next 32 steps belongs to it.
        """
        self.not_finite = 0 if finite else self.not_finite + 1
        if not finite:
            return None
        above = self._above(loss)
        self._recent.append(loss)
        self._quiet = max(self._quiet - 1, 0)
        if above is None or above < SPIKE or self._quiet:
            return None
        self._quiet = FEWEST
        return above

    def to_state(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return {"recent": list(self._recent), "quiet": self._quiet, "not_finite": self.not_finite}

    def _above(self, loss: float) -> float | None:
        count = len(self._recent)
        if count < FEWEST:
            return None
        mean = math.fsum(self._recent) / count
        variance = math.fsum((each - mean) ** 2 for each in self._recent) / count
        return (loss - mean) / math.sqrt(variance) if variance > 0 else None
