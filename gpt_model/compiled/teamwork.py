"""Teamwork: several threads inside one compiled function, phase after phase, without a threading layer.

Every thread calls the same function. A phase's work is cut into chunks; a thread takes the next one until none is
left, then waits until all are finished. So a thread that comes late, or is put aside by the system, holds nobody up
that could go on without it, and with one thread the same code runs alone. Numba's `prange` would wake a pool 60 times
a token, and its pools fight with torch's.

A board is an int64 array with a line of memory for each phase: the chunks taken, and the chunks finished, both under
the number of the call in the upper half, so that a straggler from an earlier call finds nothing to take.
"""

import queue
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

Board = np.ndarray[tuple[int], np.dtype[np.int64]]
_LINE = 16  # int64 numbers of a phase: taken and finished in cache lines of their own
_PATIENCE = 4000
_yield_core = types.ExternalFunction("sched_yield", types.int32())


def new_board(phases: int) -> Board:
    """Return a board for so many phases."""
    return np.zeros(phases * _LINE, np.int64)


def clear(board: Board, call: int) -> None:
    """Begin a call; its number must never have been used on this board."""
    board[:] = call << 32


@intrinsic
def _read(typing_context: Any, board: Any, index: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        return builder.load_atomic(builder.gep(data, [values[1]]), "acquire", 8)

    return types.int64(board, types.intp), generate


@intrinsic
def _add(typing_context: Any, board: Any, index: Any, amount: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        return builder.atomic_rmw("add", builder.gep(data, [values[1]]), values[2], "seq_cst")

    return types.int64(board, types.intp, types.int64), generate


@intrinsic
def _swap_if(typing_context: Any, board: Any, index: Any, expected: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        result = builder.cmpxchg(builder.gep(data, [values[1]]), values[2], values[3], "seq_cst", "acquire")
        return builder.extract_value(result, 1)

    return types.boolean(board, types.intp, types.int64, types.int64), generate


@intrinsic
def _pause(typing_context: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@njit(nogil=True, cache=True)
def take(board: Board, call: int, phase: int, chunks: int) -> int:
    """Return the next chunk of a phase, or -1 when none is left."""
    place = phase * _LINE
    while True:
        seen = _read(board, place)
        if seen >> 32 != call or (seen & 0xFFFFFFFF) >= chunks:
            return -1
        if _swap_if(board, place, seen, seen + 1):
            return int(seen & 0xFFFFFFFF)


@njit(nogil=True, cache=True)
def finish(board: Board, phase: int) -> None:
    """Tell that a chunk is done."""
    _add(board, phase * _LINE + _LINE // 2, 1)


@njit(nogil=True, cache=True)
def wait(board: Board, call: int, phase: int, chunks: int) -> None:
    """Return when all chunks of a phase are done."""
    goal = (call << 32) + chunks
    turns = 0
    while _read(board, phase * _LINE + _LINE // 2) < goal:
        _pause()
        turns += 1
        if turns > _PATIENCE:  # whoever holds the chunk may be waiting for this core
            _yield_core()


class Team:
    """Threads that wait for calls. They end with the process."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._calls: list[queue.SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...]]]] = []
        for number in range(1, threads):
            calls: queue.SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...]]] = queue.SimpleQueue()
            threading.Thread(target=_serve, args=(calls,), name=f"decode-{number}", daemon=True).start()
            self._calls.append(calls)

    def run(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call a compiled function on every thread; return when this thread's call, and so the work, is done."""
        for calls in self._calls:
            calls.put((function, arguments))
        function(*arguments)


def _serve(calls: "queue.SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...]]]") -> None:
    while True:
        function, arguments = calls.get()
        function(*arguments)
        del function, arguments  # the last call must not keep a model alive
