"""Shared: compiled code for whole tensors of a training step, run by the threads of torch's own pool."""

import ctypes
import functools
import threading

import numpy as np
import torch

from gpt_model.compiled import layout as at
from gpt_model.compiled.machine_code import CompileError, load_entry
from gpt_model.compiled.memory import Array, address, aligned_zeros
from gpt_model.compiled.team import clear, new_board

_PHASES = 2
_MOST_CALLS = 2**31 - 1  # a board has half of an int64 for a call's number; the pool leaves no straggler behind


class Shared:
    """An entry (entry.py) that shares its work by a board.

    Another pool beside torch's would have to be woken each time, and the two would keep each other from the cores.
    """

    def __init__(self, name: str) -> None:
        try:
            self._run = ctypes.CDLL(None).GOMP_parallel  # of the OpenMP that torch brought along
        except AttributeError as error:
            raise CompileError("torch's threads cannot be had") from error
        self._run.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        self._entry = load_entry(name).address
        self._board = new_board(_PHASES)
        self._table = np.zeros(at.SHARED_TABLE, np.int64)
        self._places = address(self._board), address(self._table)
        self._call = 0
        self._room: Array = aligned_zeros((0,))
        self.lock = threading.Lock()
        """Held from before what a call needs is prepared until it is over: there is one board, table and room."""

    def room(self, threads: int, size: int) -> int:
        """Return the address of room for so many threads, `size` float32 numbers each."""
        if len(self._room) < threads * size:
            self._room = aligned_zeros((threads * size,))
        return address(self._room)

    def call(self, parts: int, *numbers: int) -> None:
        """Carry out a call of so many parts; `numbers` follow the board and the call's number in the table."""
        self._call = self._call % _MOST_CALLS + 1
        clear(self._board, self._call)
        self._table[: 2 + len(numbers)] = (self._places[0], self._call, *numbers)
        self._run(self._entry, self._places[1], max(min(torch.get_num_threads(), parts), 1), 0)


@functools.cache
def shared_entry(name: str) -> Shared:
    """Return the entry of that name; it is compiled if it was not before, once on this machine.

    Raises:
        CompileError: numba is missing or does not work here, or torch has other threads than OpenMP's.
    """
    return Shared(name)
