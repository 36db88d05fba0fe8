"""lifeline: child processes that work for this one alone end when it does, however it ends."""

import contextlib
import os
import stat
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def lifeline() -> Iterator[int]:
    """Yield the standard input for children that `end_with_parent`: they end with the block, or with this process."""
    reading, writing = os.pipe()
    try:
        yield reading
    finally:
        os.close(writing)
        os.close(reading)


def end_with_parent() -> None:
    """Have this process end as soon as nobody holds the other end of the pipe that is its standard input."""
    with contextlib.suppress(OSError):  # started by hand, with no input at all
        if stat.S_ISFIFO(os.fstat(0).st_mode):
            threading.Thread(target=_wait, name="lifeline", daemon=True).start()


def _wait() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)
