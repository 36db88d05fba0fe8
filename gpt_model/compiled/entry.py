"""The ways into the compiled code: a forward pass, the draw, a team's calls; those of training are training_entries.py.

    python -m gpt_model.compiled.entry NAME FILE      compiles, in a process of its own: numba is needed for this alone

An entry takes a table's address (layout.py) and the thread's number. What numba makes of it and all it calls is one
LLVM module that needs nothing of numba's at run time: nothing is allocated in it, no Python object is touched, and
nothing is raised.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from numba import carray, njit, types

from gpt_model.compiled import layout as at
from gpt_model.compiled.cpu import IS_X86
from gpt_model.compiled.decide_row import decide_row
from gpt_model.compiled.decode_step import Crew, Scratch, Shape, Weights, forward
from gpt_model.compiled.draw_row import draw_row
from gpt_model.compiled.integer_products import Columns, Unit
from gpt_model.compiled.scan_row import scan_row
from gpt_model.compiled.simd import pointer
from gpt_model.compiled.teamwork import publish, serve
from gpt_model.compiled.training_entries import SHARED, numbers
from gpt_model.lifeline import end_with_parent

_ELEMENTS = {
    "float32": np.float32, "float16": np.int16, "bfloat16": np.uint16, "int8": np.int8, "int4": np.uint8,
}  # fmt: skip
_SHARED_CALL = """
define void @{name}_shared(ptr %table) {{
  %result = alloca ptr
  %error = alloca ptr
  %address = ptrtoint ptr %table to i64
  %status = call i32 @"{symbol}"(ptr %result, ptr %error, i64 %address, i64 0)
  ret void
}}
"""
_KNOWN = ("sched_yield", "memset", "memcpy", "sqrt", "sqrtf", "exp", "log")  # of the C library
_UNUSED = "declare void @NRT_MemInfo_call_dtor("  # of arrays that numba owns; here there are none


@njit(nogil=True, error_model="numpy")
def _no_scales(address):
    return None


@njit(nogil=True, error_model="numpy")
def _group_scales(address):
    return numbers(address)


@njit(nogil=True, error_model="numpy")
def _matrix(address, rows, columns):
    return carray(pointer(address), (rows, columns), np.float32)


@njit(nogil=True, error_model="numpy")
def _no_columns(numbers, t, whole, scales, planes):
    return Columns(numbers, None, None, None)


@njit(nogil=True, error_model="numpy")
def _whole_columns(numbers, t, whole, scales, planes):
    columns, width = numbers.shape
    return Columns(
        numbers,
        carray(pointer(t[whole]), (columns, width), np.int16),
        _matrix(t[scales], columns, width // at.GROUP),
        carray(pointer(t[planes]), (1,), np.uint8),
    )


@njit(nogil=True, error_model="numpy")
def _no_unit(t, thread, unpacked):
    return None


@njit(nogil=True, error_model="numpy")
def _unit(t, thread, unpacked):
    sums = t[at.UNIT_ROOM] + thread * at.UNIT_SIZE
    return Unit(
        t[at.MATRIX_UNIT] != 0,
        carray(pointer(sums), (1,), np.int32),
        numbers(sums + 2 * 4 * at.SIDE * at.SIDE * 4),
        carray(pointer(sums + at.UNIT_SIZE - 64), (64,), np.uint8),
        carray(pointer(unpacked), (1,), np.int8),
    )


@njit(nogil=True, error_model="numpy")
def _shape(t):
    epsilon = numbers(t[at.EPSILON])[0]
    return Shape(
        t[at.N_LAYER], t[at.N_HEAD], t[at.N_EMBD], t[at.WIDTH], t[at.HEAD], t[at.HEAD_WIDTH], t[at.ATTENTION],
        t[at.INNER], t[at.VOCAB_SIZE], t[at.VOCAB_ROWS], epsilon,
    )  # fmt: skip


@njit(nogil=True, error_model="numpy")
def _scratch(t, thread, inputs, unit):
    columns, width = t[at.COLUMNS], t[at.WIDTH]
    widest = max(width, t[at.ATTENTION], t[at.INNER])
    unpacked = t[at.UNPACKED] + thread * at.ROWS * widest * 4
    return Scratch(
        _matrix(t[at.HIDDEN], columns, width),
        inputs(_matrix(t[at.NORMED], columns, width), t, at.NORMED_WHOLE, at.NORMED_SCALES, at.NORMED_PLANES),
        _matrix(t[at.QKV], columns, 3 * t[at.ATTENTION]),
        inputs(_matrix(t[at.MIXED], columns, t[at.ATTENTION]), t, at.MIXED_WHOLE, at.MIXED_SCALES, at.MIXED_PLANES),
        inputs(_matrix(t[at.INNER_OUT], columns, t[at.INNER]), t, at.INNER_WHOLE, at.INNER_SCALES, at.INNER_PLANES),
        _matrix(t[at.OUT], columns, width),
        numbers(unpacked),
        _matrix(t[at.SCORES] + thread * 4 * t[at.SPAN] * 4, 4, t[at.SPAN]),
        unit(t, thread, unpacked),
    )


def _forward(dtype: str) -> Any:
    head = _ELEMENTS["int8" if dtype == "int4" else dtype]
    body = _ELEMENTS[dtype]
    integer = dtype in ("int8", "int4")
    scales, inputs, unit = (_group_scales, _whole_columns, _unit) if integer else (_no_scales, _no_columns, _no_unit)

    @njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
    def entry(address, thread):
        t = carray(pointer(address), (at.CALL_SIZE,), np.int64)
        crew = Crew(carray(pointer(t[at.BOARD]), (1,), np.int64), t[at.CALL], t[at.THREADS])
        layers, slots, heads = t[at.N_LAYER], t[at.SLOTS], t[at.N_HEAD]
        weights = Weights(
            carray(pointer(t[at.TABLE]), (1,), head),
            scales(t[at.TABLE_SCALES]),
            carray(pointer(t[at.MATRICES]), (1,), body),
            scales(t[at.SCALES]),
            numbers(t[at.VECTORS]),
            carray(pointer(t[at.MATRIX_AT]), (layers, 4), np.int64),
            carray(pointer(t[at.VECTOR_AT]), (layers + 1, 8), np.int64),
        )
        keys = carray(
            pointer(t[at.KEYS]), (layers, slots, heads, t[at.SPAN] // at.BLOCK, t[at.HEAD_WIDTH], at.BLOCK), np.float32
        )
        values = carray(pointer(t[at.VALUES]), (layers, slots, heads, t[at.SPAN], t[at.HEAD_WIDTH]), np.float32)
        ids = carray(pointer(t[at.IDS]), (t[at.IDS_ROWS], t[at.IDS_LENGTH]), np.int64)
        logits = _matrix(t[at.LOGITS], ids.size, t[at.VOCAB_ROWS])
        forward(
            crew, _shape(t), weights, _scratch(t, thread, inputs, unit), keys, values, ids, t[at.FIRST_ROW], t[at.PAST],
            t[at.SHARED], logits, t[at.LAST_ONLY] != 0,
        )  # fmt: skip

    return entry


@njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _draw(address, thread):
    t = carray(pointer(address), (at.DRAW_SIZE,), np.int64)
    count, known = t[at.CANDIDATES], carray(pointer(t[at.KNOWN]), (5,), np.float64)
    ids, values, few = carray(pointer(t[at.HEAD_IDS]), (1,), np.int64), numbers(t[at.HEAD_VALUES]), _few(t)
    told = carray(pointer(t[at.TOLD]), (5 + 3 * count,), np.float64)
    if t[at.LOOKED] == 0:
        _look(t)
        if known[3] != known[3]:
            told[0] = at.NOT_FINITE
            return
        t[at.HEADS] = int(known[4])
    alive = t[at.ALIVE]
    if t[at.STEP_COUNT] > 0:
        changed = numbers(t[at.CHANGED])
        for place in range(t[at.HEADS]):
            changed[place] = values[place]
        alive = decide_row(
            carray(pointer(t[at.STEPS]), (at.MOST_STEPS, 2), np.float64), t[at.STEP_COUNT],
            carray(pointer(t[at.TOKENS]), (1,), np.int64), t[at.TOKEN_COUNT], ids, changed, t[at.HEADS], known[2],
            known[0], numbers(t[at.SHARE]), few,
        )  # fmt: skip
        if alive < 0:
            told[0] = at.UNKNOWN
            return
    draw_row(
        numbers(t[at.RAW]), known, ids, values, t[at.HEADS], numbers(t[at.PROCESSED]),
        carray(pointer(t[at.CUTS]), (3,), np.float32), alive, few, t[at.SIZE],
        carray(pointer(t[at.UNIFORM]), (1,), np.float64)[0], count, numbers(t[at.SHARE]), told,
    )  # fmt: skip


@njit(nogil=True, error_model="numpy")
def _few(t):
    return carray(pointer(t[at.FEW]), (at.FEW_TOKENS, 2), np.float64)


@njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _scan(address, thread):
    _look(carray(pointer(address), (at.DRAW_SIZE,), np.int64))


@njit(nogil=True, error_model="numpy")
def _look(t):
    scan_row(
        numbers(t[at.RAW]),
        t[at.SIZE],
        carray(pointer(t[at.REACH]), (1,), np.float32)[0],
        t[at.MOST_HEADS],
        carray(pointer(t[at.HEAD_IDS]), (1,), np.int64),
        numbers(t[at.HEAD_VALUES]),
        carray(pointer(t[at.KNOWN]), (5,), np.float64),
    )


@njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _publish(address, helpers):
    publish(carray(pointer(address), (1,), np.int64), helpers)


@njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _serve(address, number):
    serve(carray(pointer(address), (1,), np.int64), number, at.LINGER_TURNS)


_ENTRIES = {
    "draw": _draw, "scan": _scan, "publish": _publish, "serve": _serve, **SHARED,
}  # fmt: skip


def compile_entry(name: str) -> tuple[str, bytes]:
    """Return the symbol of an entry (one of `_ENTRIES`, or a precision) and its machine code for this CPU."""
    entry = _ENTRIES.get(name) or _forward(name)
    entry.compile((types.int64, types.int64))
    (compiled,) = entry.overloads.values()
    symbol = compiled.fndesc.llvm_func_name
    code = compiled.library.get_llvm_str()
    line = next((line for line in code.splitlines() if line.startswith(_UNUSED)), None)
    if line is not None:
        code = code.replace(line, "define internal void @NRT_MemInfo_call_dtor(ptr %unused) { ret void }")
    if name in SHARED:
        code += _SHARED_CALL.format(name=name, symbol=symbol)
        symbol = f"{name}_shared"
    module = llvm.parse_assembly(code)
    strange = [
        function.name
        for function in module.functions
        if function.is_declaration and not function.name.startswith("llvm.")
        and function.name not in _KNOWN
    ]  # fmt: skip
    if strange:
        raise RuntimeError(f"the compiled code calls {', '.join(strange)}")
    return symbol, machine().emit_object(module)


def machine() -> Any:
    """Return LLVM's picture of this CPU."""
    # or else LLVM takes every multiply-and-add of pairs apart again
    features = llvm.get_host_cpu_features().flatten() + (",+fast-dpwssd" if IS_X86 else "")
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=3, jit=True)


def main(arguments: list[str]) -> int:
    """Write the symbol and the SHA-256 of it and the code, as one line of JSON, and the object file behind it."""
    end_with_parent()
    symbol, code = compile_entry(arguments[0])
    about = json.dumps([symbol, hashlib.sha256(symbol.encode() + code).hexdigest()])
    Path(arguments[1]).write_bytes(about.encode() + b"\n" + code)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
