"""Narration: what a process that trains says on standard error, which for a launched worker is the run's log.txt."""

import contextlib
import sys


def say(words: object) -> None:
    """Print to standard error if that is possible: a log on a full disk, or a closed one, must end no training."""
    with contextlib.suppress(OSError, ValueError):
        print(words, file=sys.stderr, flush=True)
