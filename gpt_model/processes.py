"""How processes that compute are set up: the run's worker and the app's engine. Knows no torch."""

import contextlib
import ctypes
import os

_SPIN_VARIABLE, _SPIN = "GOMP_SPINCOUNT", "5000"
_OF_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""glibc's numbers for what `mallopt` sets, in its malloc.h."""


def computing_environment() -> dict[str, str]:
    """Return this process's environment, with OpenMP told not to wait for too long by turning round and round.

    At the end of every operator the threads wait for each other, and GNU OpenMP's default spins so long that two
    busy processes on two cores make each other 3 to 25 times slower. 5,000 turns cost a process that is alone
    nothing (25.4 against 25.0 ms a step of gpt-micro) and bring one that is not from 86–625 ms to 74 ms.

    What torchrun tells its own processes is left out: a shell that was started by one, or a cluster's image that sets
    it for everybody, must not make a process that is launched here wait for others.
    """
    own = {name: value for name, value in os.environ.items() if name not in _OF_TORCHRUN}
    return {_SPIN_VARIABLE: _SPIN} | own


def spin_briefly() -> None:
    """Tell this process's OpenMP the same, where whoever started it did not, as torchrun: before torch is imported."""
    os.environ.setdefault(_SPIN_VARIABLE, _SPIN)


def keep_freed_memory() -> None:
    """Have this process keep the memory that it frees, for the next step's tensors of the same sizes.

    By its default glibc gives every large block back to the system and asks for it again: a step of GPT-2 touches
    150,000 new pages, which takes 8 % of its time. Where the C library is another one, nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        allocator = ctypes.CDLL(None)
        allocator.mallopt(_MMAP_MAX, 0)
        allocator.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
