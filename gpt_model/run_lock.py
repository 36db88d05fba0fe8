"""The lock of a run directory: one worker a run. The kernel frees it when its holder dies, however it dies."""

import contextlib
import fcntl
import json
import os
import signal
import time
from pathlib import Path
from types import TracebackType

from gpt_model.errors import RunError


class RunLock:
    """An exclusive flock on a run's lock file, alive until the last process that inherited it closes it or dies."""

    def __init__(self, number: int) -> None:
        self.number = number
        """The file descriptor that carries the lock."""

    @classmethod
    def take(cls, directory: Path) -> "RunLock":
        """Take the lock.

        Raises:
            RunError: another process holds it.
        """
        path = directory / "lock"
        try:
            number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise RunError(f"The lock {path} cannot be opened: {error.strerror}.") from error
        # A viewer that asks whether the run is alive holds the lock for microseconds: not refused for that.
        for attempt in range(5):
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.02 * (attempt + 1))
            else:
                lock = cls(number)
                lock.sign(os.getpid())
                return lock
        os.close(number)
        raise RunError(
            f"The run '{directory.name}' is running already, as {read_owner(path)}. "
            f"To follow it instead: gpt-tui runs watch {directory.name}"
        )

    @classmethod
    def inherit(cls, number: int) -> "RunLock":
        """Return the lock that a parent process took and passed on; children of ours do not get it."""
        os.set_inheritable(number, False)
        return cls(number)

    def sign(self, pid: int) -> None:
        """Write into the lock file who holds it. The lock holds without that too, as on a full disk."""
        owner = json.dumps({"pid": pid, "since": time.time(), "host": os.uname().nodename}).encode()
        with contextlib.suppress(OSError):
            os.pwrite(self.number, owner, 0)  # over what is there, which needs no room
            os.ftruncate(self.number, len(owner))

    def close(self) -> None:
        """Let go of the lock; a process that inherited it keeps it."""
        os.close(self.number)

    def __enter__(self) -> "RunLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock. Asks with a shared lock, so that viewers do not see each other."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(number, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(number)
    return False


def read_owner(path: Path) -> str:
    """Return who signed the lock last, as in "pid 123 since 2026-01-31 12:00:00"."""
    try:
        owner = json.loads(path.read_bytes())
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner["since"]))
        return f"pid {owner['pid']} since {since}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def terminate_holder(path: Path) -> bool:
    """Send TERM to the process that holds the lock; return whether that could be done: it must be on this machine."""
    try:
        owner = json.loads(path.read_bytes())
        if not is_locked(path) or owner["host"] != os.uname().nodename:
            return False
        os.kill(int(owner["pid"]), signal.SIGTERM)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True
