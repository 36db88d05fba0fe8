"""Teamwork: several threads inside one compiled function, phase after phase, without a threading layer.

Every thread calls the same function. A phase's work is cut into chunks; a thread takes the next one until none is
left, then waits until all are finished. So a thread that comes late, or is put aside by the system, holds nobody up
that could go on without it, and with one thread the same code runs alone. Numba's `prange` would wake a pool 60 times
a token, and its pools fight with torch's.

A board is an int64 array with a line of memory for each phase: the chunks taken, and the chunks finished, both under
the number of the call in the upper half, so that a straggler from an earlier call finds nothing to take.

Helpers never go back to Python between two calls (`serve`): to hand them work through Python's own lock would cost a
small model half its time, and nothing could be computed while Python thinks.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from gpt_model.compiled.cpu import IS_X86
from gpt_model.compiled.layout import (
    ASLEEP,
    AWAKE,
    CALL_SIZE,
    CALLED,
    JOB_COUNT,
    JOB_END,
    JOB_ENTRY,
    JOB_LINES,
    JOB_OWN,
    JOB_SEEN,
    JOB_STATE,
    JOB_TABLES,
    JOB_WAKE,
    LINE,
)  # fmt: skip
from gpt_model.compiled.simd import pointer

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
def _put(typing_context: Any, board: Any, index: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        builder.atomic_rmw("xchg", builder.gep(data, [values[1]]), values[2], "seq_cst")
        return context.get_dummy_value()

    return types.void(board, types.intp, types.int64), generate


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
def wait(board, call, phase, chunks):
    """Return when all chunks of a phase are done."""
    goal = (call << 32) + chunks
    turns = 0
    while _read(board, phase * LINE + LINE // 2) < goal:
        _pause()
        turns += 1
        if turns > _PATIENCE:  # whoever holds the chunk may be waiting for this core
            _yield_core()


@intrinsic
def _call(typing_context: Any, entry: Any, table: Any, number: Any) -> Any:
    """Call the entry at an address, as numba's own convention has it: see machine_code.py."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        whole = ir.IntType(64)
        kind = ir.FunctionType(ir.IntType(32), [byte.as_pointer(), byte.as_pointer(), whole, whole])
        result, error = (cgutils.alloca_once_value(builder, ir.Constant(byte, None)) for _ in range(2))
        builder.call(builder.inttoptr(values[0], kind.as_pointer()), [result, error, values[1], values[2]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@njit(nogil=True, error_model="numpy")
def publish(jobs, helpers):
    """Tell a team that its next call stands in its tables; note which of its threads must be woken."""
    _add(jobs, JOB_COUNT, 1)
    for line in range(JOB_LINES * LINE, (JOB_LINES + helpers) * LINE, LINE):
        jobs[line + JOB_WAKE] = _swap_if(jobs, line + JOB_STATE, ASLEEP, CALLED)


@njit(nogil=True, error_model="numpy")
def _await(jobs, line, turns):
    """Return the number of a call that was not seen yet; -1 when none came, and this thread counts as asleep."""
    seen = jobs[line + JOB_SEEN]
    turn = 0
    while _read(jobs, JOB_COUNT) == seen:
        if turn == turns or jobs[JOB_END]:
            _put(jobs, line + JOB_STATE, ASLEEP)
            if _add(jobs, JOB_COUNT, 0) == seen:  # who publishes now finds this thread asleep
                return -1
            _put(jobs, line + JOB_STATE, AWAKE)
        _pause()
        turn += 1
        if turn % 64 == 0:
            _yield_core()
    return _read(jobs, JOB_COUNT)


@njit(nogil=True, error_model="numpy")
def serve(jobs, number, turns):
    """Carry out a team's calls as its thread of this number, until for so many turns there is none."""
    line = (JOB_LINES + number - 1) * LINE
    _put(jobs, line + JOB_STATE, AWAKE)
    call = _await(jobs, line, turns)
    while call >= 0:
        tables = carray(pointer(jobs[JOB_TABLES]), (2, CALL_SIZE), np.int64)
        own = carray(pointer(jobs[line + JOB_OWN]), (CALL_SIZE,), np.int64)
        for k in range(CALL_SIZE):
            own[k] = tables[call % 2, k]
        if _add(jobs, JOB_COUNT, 0) == call:  # nobody wrote there meanwhile
            jobs[line + JOB_SEEN] = call
            _call(jobs[JOB_ENTRY], jobs[line + JOB_OWN], number)
        call = _await(jobs, line, turns)
