"""Team: the threads that run a compiled function together (teamwork.py tells how they share its work)."""

import queue
import threading
import weakref
from typing import Any

import numpy as np

from gpt_model.compiled import layout as at
from gpt_model.compiled.machine_code import Entry, load_entry
from gpt_model.compiled.memory import address

Board = np.ndarray[Any, np.dtype[np.int64]]


def new_board(phases: int) -> Board:
    """Return a board for so many phases."""
    return np.zeros(phases * at.LINE, np.int64)


def clear(board: Board, call: int) -> None:
    """Begin a call; its number must never have been used on this board."""
    board[:] = call << 32


class Team:
    """Threads that are at work on an entry's calls as soon as they are told, and without Python.

    They watch for the next call for a while and sleep then. They end when nobody holds the team any more, and before
    the interpreter does: a thread that the interpreter stops at its end is unwound through whatever it is in, which
    aborts the process.

    Args:
        entry: what they call, with a table of at.CALL_SIZE numbers and their own number, from 1 on.
        helpers: how many they are.
        alive: what the entry needs beside the table's own arrays; a thread that comes late may still look at it.

    Raises:
        CompileError: the code cannot be compiled here.
    """

    def __init__(self, entry: Entry, helpers: int, alive: object) -> None:
        self._entry, self.helpers = entry, helpers
        self._jobs = np.zeros((at.JOB_LINES + helpers) * at.LINE, np.int64)
        self._tables = np.zeros((2, at.CALL_SIZE), np.int64)
        own = np.zeros((helpers, at.CALL_SIZE), np.int64)  # a thread works by a copy that nobody writes to
        self._count = 0
        self._publish = load_entry("publish")
        self._place = address(self._jobs)
        self._wake = self._jobs[at.JOB_LINES * at.LINE + at.JOB_WAKE :: at.LINE]
        self._jobs[at.JOB_ENTRY], self._jobs[at.JOB_TABLES] = entry.address, address(self._tables)
        for number in range(helpers):
            self._jobs[(at.JOB_LINES + number) * at.LINE + at.JOB_OWN] = address(own[number])
        self._queues: list[queue.SimpleQueue[bool]] = [queue.SimpleQueue() for _ in range(helpers)]
        kept = (self._jobs, self._tables, own, alive)
        threads = [
            threading.Thread(target=_serve, args=(works, number, kept), name=f"decode-{number}", daemon=True)
            for number, works in enumerate(self._queues, start=1)
        ]
        for thread in threads:
            thread.start()
        weakref.finalize(self, _dismiss, self._queues, self._jobs, threads)

    def begin(self, table: Board) -> None:
        """Have the helpers at work on a call. Until it is joined, or all its work is done, no other may begin."""
        self._count += 1
        self._tables[self._count % 2] = table
        self._publish(self._place, self.helpers)
        for number, asleep in enumerate(self._wake.tolist()):
            if asleep:
                self._queues[number].put(True)

    def join(self, table: Board) -> None:
        """Take part in a call, as number 0; return when it is done."""
        self._entry(address(table), 0)


def _dismiss(queues: "list[queue.SimpleQueue[bool]]", jobs: Board, threads: list[threading.Thread]) -> None:
    jobs[at.JOB_END] = 1
    for works in queues:
        works.put(False)
    for thread in threads:
        if thread is not threading.current_thread():
            thread.join()


def _serve(works: "queue.SimpleQueue[bool]", number: int, kept: tuple[Board, Board, Board, object]) -> None:
    serve, place = load_entry("serve"), address(kept[0])
    while works.get():
        serve(place, number)
