"""The matrix unit of newer Intel CPUs (AMX) inside compiled functions: 16 columns by 32 rows of weights at a time.

It multiplies bytes, so a column's 16-bit numbers come as two planes, 256 × high + low; the sums are the same whole
numbers as integer_tile.py's, to the bit. Its tile registers belong to a thread and are shared with whatever else runs
there, torch's own kernels too: their configuration is kept and given back.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gpt_model.compiled.cpu import LANES
from gpt_model.compiled.layout import GROUP, QUAD, ROWS, SIDE
from gpt_model.compiled.simd import vector

_BYTE, _INT32, _INT64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_LINE = 64  # bytes of a tile's row
_BYTES = _BYTE.as_pointer()


def _call(builder: Any, name: str, *arguments: Any) -> None:
    kind = ir.FunctionType(ir.VoidType(), [each.type for each in arguments])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{name}"), arguments)


def _at(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _BYTES)


@intrinsic
def begin_tiles(typing_context: Any, kept: Any) -> Any:
    """Configure this thread's tiles, all of 16 rows of 64 bytes; keep the old configuration in `kept`, 64 bytes."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = _at(context, builder, signature.args[0], values[0], _INT64(0))
        _call(builder, "sttilecfg", place)
        wanted = [1, *[0] * 15, *[_LINE, 0] * 8, *[0] * 16, *[SIDE] * 8, *[0] * 8]
        kind = ir.ArrayType(_BYTE, _LINE)
        configuration = builder.alloca(kind)
        builder.store(ir.Constant(kind, wanted[:_LINE]), configuration)
        _call(builder, "ldtilecfg", builder.bitcast(configuration, _BYTES))
        return context.get_dummy_value()

    return types.void(kept), generate


@intrinsic
def end_tiles(typing_context: Any, kept: Any) -> Any:
    """Give the tiles back as they were configured before."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _call(builder, "ldtilecfg", _at(context, builder, signature.args[0], values[0], _INT64(0)))
        return context.get_dummy_value()

    return types.void(kept), generate


@intrinsic
def multiply_group(typing_context: Any, w: Any, w_at: Any, planes: Any, x_at: Any, plane: Any, step: Any) -> Any:
    """Multiply one group, 16 columns by 32 rows, high bytes and low ones: four tiles of sums.

    w: int8 from `w_at` on. planes: uint8, from `x_at` on; the low bytes lie `plane` further, a column every `step`
    bytes.
    """

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        w, w_at, planes, x_at, plane, step = values
        tile = _BYTE
        for number in range(4):
            _call(builder, "tilezero", tile(number))
        for inputs in range(0, GROUP, _LINE):
            high = builder.add(x_at, x_at.type(inputs))
            for register, at in ((4, high), (5, builder.add(high, plane))):
                address = _at(context, builder, signature.args[2], planes, at)
                _call(builder, "tileloadd64", tile(register), address, step)
            for half in (0, 1):
                place = builder.add(w_at, w_at.type(inputs * ROWS + half * _LINE))
                address = _at(context, builder, signature.args[0], w, place)
                _call(builder, "tileloadd64", tile(6 + half), address, _INT64(QUAD * ROWS))
            for half in (0, 1):
                _call(builder, "tdpbssd", tile(2 * half), tile(4), tile(6 + half))
                _call(builder, "tdpbusd", tile(2 * half + 1), tile(5), tile(6 + half))
        return context.get_dummy_value()

    size = types.intp
    return types.void(w, size, planes, size, size, size), generate


@intrinsic
def store_sums(typing_context: Any, sums: Any) -> Any:
    """Write the tiles of sums as int32 (4, 16, 16): rows 0–15 high and low, rows 16–31 high and low."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        for number in range(4):
            address = _at(context, builder, signature.args[0], values[0], _INT64(number * SIDE * SIDE))
            _call(builder, "tilestored64", _BYTE(number), address, _INT64(_LINE))
        return context.get_dummy_value()

    return types.void(sums), generate


@intrinsic
def load_sum(typing_context: Any, sums: Any, index: Any) -> Any:
    """Return 16 sums as float32: 256 × those of the high bytes, from `index` on, + those of the low ones."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        sums, index = values
        kind = ir.VectorType(_INT32, LANES)
        both = []
        for further in (0, SIDE * SIDE):
            place = _at(context, builder, signature.args[0], sums, builder.add(index, index.type(further)))
            both.append(builder.load(builder.bitcast(place, kind.as_pointer()), align=4))
        total = builder.add(builder.shl(both[0], ir.Constant(kind, [8] * LANES)), both[1])
        return builder.sitofp(total, ir.VectorType(ir.FloatType(), LANES))

    return vector(sums, types.intp), generate


@intrinsic
def store_planes(typing_context: Any, planes: Any, index: Any, plane: Any, value: Any) -> Any:
    """Write a vector of 16-bit numbers, rounded to whole ones, as bytes: high from `index`, low `plane` further."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        planes, index, plane, value = values
        rint = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(value.type, [value.type]), f"llvm.rint.v{LANES}f32"
        )
        ints, lanes = ir.VectorType(_INT32, LANES), ir.VectorType(_BYTE, LANES)
        whole = builder.fptosi(builder.call(rint, [value]), ints)
        for part, at in (
            (builder.ashr(whole, ir.Constant(ints, [8] * LANES)), index),
            (whole, builder.add(index, plane)),
        ):
            address = _at(context, builder, signature.args[0], planes, at)
            builder.store(builder.trunc(part, lanes), builder.bitcast(address, lanes.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(planes, types.intp, types.intp, vector), generate


@intrinsic
def spread_group(typing_context: Any, w: Any, w_at: Any, target: Any, at: Any) -> Any:
    """Write one group of four-bit weights (uint8) of 32 rows to `target` as bytes, 16 times as large."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        w, w_at, target, at = values
        kind = ir.VectorType(_BYTE, _LINE)
        upper, four = ir.Constant(kind, [0xF0] * _LINE), ir.Constant(kind, [4] * _LINE)
        quad_size = QUAD * ROWS
        for pair in range(GROUP // QUAD // 2):
            for half in range(0, quad_size, _LINE):
                place = _at(
                    context, builder, signature.args[0], w, builder.add(w_at, w_at.type(pair * quad_size + half))
                )
                both = builder.load(builder.bitcast(place, kind.as_pointer()), align=1)
                for further, value in ((0, builder.shl(both, four)), (quad_size, both)):
                    to = builder.add(at, at.type(2 * pair * quad_size + further + half))
                    address = builder.bitcast(_at(context, builder, signature.args[2], target, to), kind.as_pointer())
                    builder.store(builder.and_(value, upper), address, align=1)
        return context.get_dummy_value()

    return types.void(w, types.intp, target, types.intp), generate
