"""The average that the training loss is watched by. Knows no torch."""

import math


class Smoothed:
    """An exponential average without the bias towards zero of its first values.

    Kingma and Ba 2015, arXiv 1412.6980, section 3: the running sum is divided by the weight it has gathered, so that a
    constant series stays constant. Values that are not finite are left out.
    """

    def __init__(self, decay: float = 0.95, total: float = 0.0, weight: float = 0.0) -> None:
        self.decay = decay
        self.total = total
        self.weight = weight

    @property
    def value(self) -> float | None:
        """The average; None before the first value."""
        return self.total / self.weight if self.weight else None

    @property
    def settled(self) -> bool:
        """Whether so many values went in that no single one decides: 1 / (1 - decay) of them, 20 by default."""
        return self.weight >= 1 - self.decay ** round(1 / (1 - self.decay)) - 1e-12

    def add(self, value: float) -> None:
        """Take in the next value."""
        if math.isfinite(value):
            self.total = self.decay * self.total + (1 - self.decay) * value
            self.weight = self.decay * self.weight + (1 - self.decay)
