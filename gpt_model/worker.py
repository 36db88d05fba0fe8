"""python -m gpt_model.worker RUN_DIRECTORY: the process that trains a run, launched by Run.launch or by hand.

It opens the run, takes its lock and says so before it imports torch, so that a run that cannot be is told at once.
"""

import argparse
import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from gpt_model.control import Control
from gpt_model.errors import GptError
from gpt_model.narration import say
from gpt_model.processes import keep_freed_memory, spin_briefly
from gpt_model.recorder import Recorder
from gpt_model.run_lock import RunLock
from gpt_model.runs import Run


def main(arguments: Sequence[str] | None = None) -> int:
    """Train a run; return 0 when it finished or was stopped, 1 when it failed, 2 when there is no run to train."""
    parser = argparse.ArgumentParser(prog="python -m gpt_model.worker", description="Train a run, or resume it.")
    parser.add_argument("run_directory", type=Path)
    parser.add_argument("--lock", type=int, metavar="FD", help="an open file that carries the run's lock already")
    parser.add_argument("--nproc", type=int, metavar="N", help="processes on this machine; the run's own if not given")
    parser.add_argument("--follow", action="store_true", help="end when standard input does: its writer is rank 0")
    options = parser.parse_args(arguments)
    spin_briefly()
    if int(os.environ.get("RANK", "0")) > 0:
        return _follow(options.follow)
    try:
        run = Run.at(options.run_directory)
        lock = RunLock.take(run.directory) if options.lock is None else RunLock.inherit(options.lock)
    except GptError as error:
        say(error)
        return 2
    with lock:
        return _work(run, options.nproc, launched=options.lock is not None)


def _work(run: Run, processes: int | None, launched: bool) -> int:
    keep_freed_memory()
    control = Control(run)
    if not launched:
        control.discard_rest()  # Run.launch did that for its worker, before anyone could command it
    with Recorder(run) as recorder:
        recorder.status(state="starting", phase="loading torch", pid=os.getpid(), message="", started_at=time.time())

        def last_words() -> None:
            recorder.status(state="stopped", phase="", message="Left at once, without saving what was not saved yet.")

        with control.signals(last_words):
            try:
                from gpt_model.training import train

                train(run, recorder, control, processes)
                return 0
            except GptError as error:
                _fail(recorder, str(error))
            except BaseException as error:
                # A bug, or a library that gives up: told like any failure, and kept whole in the log.
                if not launched:
                    say(traceback.format_exc())
                with contextlib.suppress(OSError), (run.directory / "log.txt").open("a", encoding="utf-8") as log:
                    log.write(traceback.format_exc())
                told = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                _fail(recorder, f"Training broke off with an error that was not foreseen ({told}). See log.txt.")
            finally:
                control.discard_rest()
            return 1


def _follow(leader_writes: bool) -> int:
    """Take part in a run that another process trains: it alone is to be told to stop, and then tells this one."""
    keep_freed_memory()
    if leader_writes:  # nothing, ever: its end of the pipe is closed when it dies, also before there is a connection
        # By the system's own call: a thread within sys.stdin has its lock, which the interpreter wants at its end.
        threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    from gpt_model.distributed import LOST, join
    from gpt_model.following import follow

    def leave() -> None:
        say(LOST)
        os._exit(1)

    over = threading.Event()
    try:
        follow(join(leave, over))
        over.set()
        return 0
    except GptError as error:
        say(error)
        return 1


def _fail(recorder: Recorder, message: str) -> None:
    recorder.event("fail", message)
    say(message)  # before the state: who sees that looks for the reason
    recorder.status(state="failed", phase="", message=message, eta_seconds=None)


if __name__ == "__main__":
    sys.exit(main())
