"""Team: the threads that run a compiled function together (teamwork.py tells how they share its work)."""

import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from gpt_model.compiled.layout import LINE
from gpt_model.compiled.machine_code import load_entry
from gpt_model.compiled.memory import address

Board = np.ndarray[Any, np.dtype[np.int64]]
Work = Callable[[int], object]


def new_board(phases: int) -> Board:
    """Return a board for so many phases."""
    return np.zeros(phases * LINE, np.int64)


def clear(board: Board, call: int) -> None:
    """Begin a call; its number must never have been used on this board."""
    board[:] = call << 32


class Team:
    """Threads that wait for work. They end when nobody holds the team any more, and before the interpreter does.

    A thread that the interpreter stops at its end is unwound through whatever it is in, which aborts the process.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._calls = np.zeros(1, np.int64)
        self._queues: list[queue.SimpleQueue[Work | None]] = [queue.SimpleQueue() for _ in range(1, threads)]
        threads_of_mine = [
            threading.Thread(target=_serve, args=(works, number, self._calls), name=f"decode-{number}", daemon=True)
            for number, works in enumerate(self._queues, start=1)
        ]
        for thread in threads_of_mine:
            thread.start()
        weakref.finalize(self, _dismiss, self._queues, self._calls, threads_of_mine)

    def run(self, work: Work) -> None:
        """Call work(number) on every thread, this one being 0; return when this one's call, and so all, is done."""
        for works in self._queues:
            works.put(work)
        self._calls += 1
        work(0)


def _dismiss(queues: "list[queue.SimpleQueue[Work | None]]", calls: Board, threads: list[threading.Thread]) -> None:
    for works in queues:
        works.put(None)
    calls += 1  # whoever lingers looks up
    for thread in threads:
        if thread is not threading.current_thread():
            thread.join()


def _serve(works: "queue.SimpleQueue[Work | None]", number: int, calls: Board) -> None:
    linger = load_entry("linger")
    place = address(calls)
    while (work := works.get()) is not None:
        seen = int(calls[0])
        work(number)
        del work  # the last one must not keep a model alive
        if works.empty():
            linger(place, seen)
