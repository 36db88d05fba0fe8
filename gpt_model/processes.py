"""The environment of the processes that compute: the run's worker and the app's engine. Knows no torch."""

import os

_SPIN = "5000"


def computing_environment() -> dict[str, str]:
    """Return this process's environment, with OpenMP told not to wait for too long by turning round and round.

    At the end of every operator the threads wait for each other, and GNU OpenMP's default spins so long that two
    busy processes on two cores make each other 3 to 25 times slower. 5,000 turns cost a process that is alone
    nothing (25.4 against 25.0 ms a step of gpt-micro) and bring one that is not from 86–625 ms to 74 ms.
    """
    return {"GOMP_SPINCOUNT": _SPIN} | os.environ
