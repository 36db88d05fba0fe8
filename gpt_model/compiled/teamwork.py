"""Teamwork: several threads inside one compiled function, phase after phase, without a threading layer.

Every thread calls the same function. A phase's work is cut into chunks; a thread takes the next one until none is
left, then waits until all are finished. So a thread that comes late, or is put aside by the system, holds nobody up
that could go on without it, and with one thread the same code runs alone. Numba's `prange` would wake a pool 60 times
a token, and its pools fight with torch's.

A board is an int64 array with a line of memory for each phase: the chunks taken, and the chunks finished, both under
the number of the call in the upper half, so that a straggler from an earlier call finds nothing to take.
"""

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from gpt_model.compiled.cpu import IS_X86
from gpt_model.compiled.layout import LINE

_PATIENCE = 4000
_yield_core = types.ExternalFunction("sched_yield", types.int32())


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
    """Let the core's other thread have it for a moment."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        if IS_X86:
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), generate


@njit(nogil=True, error_model="numpy")
def take(board, call, phase, chunks):
    """Return the next chunk of a phase, or -1 when none is left."""
    place = phase * LINE
    while True:
        seen = _read(board, place)
        if seen >> 32 != call or (seen & 0xFFFFFFFF) >= chunks:
            return -1
        if _swap_if(board, place, seen, seen + 1):
            return int(seen & 0xFFFFFFFF)


@njit(nogil=True, error_model="numpy")
def finish(board, phase):
    """Tell that a chunk is done."""
    _add(board, phase * LINE + LINE // 2, 1)


@njit(nogil=True, error_model="numpy")
def linger(flag, seen, turns):
    """Return when a number is no longer what was seen, or after so many turns."""
    for turn in range(turns):
        if _read(flag, 0) != seen:
            return
        _pause()
        if turn % 64 == 63:
            _yield_core()


@njit(nogil=True, error_model="numpy")
def wait(board, call, phase, chunks):
    """Return when all chunks of a phase are done."""
    goal = (call << 32) + chunks
    turns = 0
    while _read(board, phase * LINE + LINE // 2) < goal:
        _pause()
        turns += 1
        if turns > _PATIENCE:  # whoever holds the chunk may be waiting for this core
            _yield_core()
