"""Was the machine ours alone? A process beside a measurement can halve it, and some programs more than others."""

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")

NOISE = 0.1
"""Cores that others may keep busy before a measurement is made anew."""
_ATTEMPTS = 4


class Watch:
    """What other processes take of the processor, from now on; on systems without /proc nobody knows."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._everybody = _everybody()
        self._mine = _mine()

    def others(self) -> float | None:
        """Return how many cores the others, and the host's other guests, kept busy on average."""
        everybody = _everybody()
        if everybody is None or self._everybody is None:
            return None
        seconds = everybody - self._everybody - (_mine() - self._mine)
        return max(0.0, seconds) / (time.monotonic() - self._began)


def least_disturbed(measure: Callable[[], Result]) -> tuple[Result, float]:
    """Measure until nobody else uses the machine meanwhile, or patience ends; return the best and what others used."""
    attempts: list[tuple[Result, float]] = []
    for _ in range(_ATTEMPTS):
        watch = Watch()
        attempts.append((measure(), watch.others() or 0.0))
        if attempts[-1][1] <= NOISE:
            break
    return min(attempts, key=lambda attempt: attempt[1])


def _everybody() -> float | None:
    try:
        line = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0]
    except OSError:
        return None
    user, nice, system, _idle, _waiting, interrupts, soft, stolen = map(int, line.split()[1:9])
    return (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")


def _mine() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
