"""Pace: how long a run has been training, how fast it is, when it will be done. Knows no torch."""

import time
from collections.abc import Callable

from gpt_model.smoothing import Smoothed


class Pace:
    """A clock over all launches of a run that stands still while the run is paused. Times are in seconds."""

    def __init__(self, elapsed_before: float, tokens_per_step: int, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._tokens_per_step = tokens_per_step
        self._elapsed = elapsed_before
        self._since: float | None = now()
        self._step_seconds = Smoothed()
        self._launched_at = elapsed_before
        self._steps, self._stepping = 0, 0.0

    def pause(self) -> None:
        """Stop the clock."""
        self._elapsed, self._since = self.elapsed, None

    def go_on(self) -> None:
        """Let the clock run again."""
        self._since = self._now()

    @property
    def elapsed(self) -> float:
        """Time spent training, evaluations and checkpoints included."""
        return self._elapsed + (self._now() - self._since if self._since is not None else 0.0)

    def step_took(self, seconds: float) -> None:
        """Take in how long one update took."""
        if self._steps == 1:
            self._step_seconds = Smoothed()  # the first update also paid for starting up
        self._step_seconds.add(seconds)
        self._steps += 1
        self._stepping += seconds

    @property
    def tokens_per_second(self) -> float | None:
        """Speed of the updates alone."""
        seconds = self._step_seconds.value
        return self._tokens_per_step / seconds if seconds else None

    def eta(self, steps_left: int) -> float | None:
        """Time until that many more steps are made, with the share that evaluations and checkpoints have had so far."""
        seconds = self._step_seconds.value
        if not seconds:
            return None
        others = max(self.elapsed - self._launched_at - self._stepping, 0.0) / self._steps
        return max(steps_left, 0) * (seconds + others)
