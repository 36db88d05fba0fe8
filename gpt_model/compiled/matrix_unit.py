"""The matrix unit of newer Intel CPUs (AMX) inside compiled functions: slabs of 16 columns by blocks of 32 rows.

It multiplies bytes, so a column's 16-bit numbers come as two planes, 256 × high + low; the sums are the same whole
numbers as integer_tile.py's, to the bit. Its tile registers belong to a thread and are shared with whatever else runs
there, torch's own kernels too: their configuration is kept and given back.
"""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gpt_model.compiled.cpu import LANES
from gpt_model.compiled.layout import GROUP, QUAD, ROWS, SIDE
from gpt_model.compiled.simd import vector

_BYTE, _INT32, _INT64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_INTS, _FLOATS = ir.VectorType(_INT32, LANES), ir.VectorType(ir.FloatType(), LANES)
_LINE = 64  # bytes of a tile's row
_AHEAD = 8192  # bytes
_SECOND_CACHE = 2
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


def _stage(slabs: int, multiplies: bool, adds: bool) -> Any:
    """Return what multiplies a stage's group into four tiles, or adds a stage's sums to the results, or both.

    The unit's work, the vectors' and what is asked of the memory are mixed, so that each goes on while another waits.
    """

    def stage(
        typing_context: Any, w: Any, w_at: Any, planes: Any, x_at: Any, x_step: Any,
        sums: Any, now: Any, before: Any, w_scales: Any, scale_at: Any, x_scales: Any, x_scale_at: Any,
        out: Any, out_at: Any,
    ) -> Any:  # fmt: skip
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            kinds = signature.args
            _, w_at, _, x_at, x_step, _, now, before, _, scale_at, x_scales, x_scale_at, _, out_at = values
            waiting: Iterator[None] = iter(())
            if adds:
                arrays = _Arrays(*(_Place(context, builder, kinds[i], values[i]) for i in (5, 8, 10, 12)))
                step = builder.extract_value(context.make_array(kinds[10])(context, builder, x_scales).shape, 1)
                waiting = _add_results(builder, slabs, arrays, before, scale_at, x_scale_at, step, out_at)
            if multiplies:
                weights, bytes_of_x = (_Place(context, builder, kinds[i], values[i]) for i in (0, 2))
                lines = ROWS * GROUP // _LINE // 8 // slabs
                for turn, _ in enumerate(_multiply(builder, slabs, weights, w_at, bytes_of_x, x_at, x_step)):
                    for line in range(turn * lines, turn * lines + lines):
                        _ask(builder, weights, builder.add(w_at, w_at.type(_AHEAD + line * slabs * _LINE)))
                    for _ in itertools.islice(waiting, slabs * SIDE // 8):
                        pass
            for _ in waiting:
                pass
            if multiplies:
                for number in range(4):
                    place = builder.add(now, now.type(number * SIDE * SIDE))
                    address = _at(context, builder, kinds[5], values[5], place)
                    _call(builder, "tilestored64", _BYTE(number), address, _INT64(_LINE))
            return context.get_dummy_value()

        size = types.intp
        return types.void(
            w, size, planes, size, size, sums, size, size, w_scales, size, x_scales, size, out, size
        ), generate

    stage.__doc__ = f"""One stage: {slabs} slab{"s" if slabs > 1 else ""} of 16 columns by {3 - slabs} half of 32 rows.

    w: int8 from `w_at` on, a group of 32 rows, or of its second half. planes: uint8 from `x_at` on, the first slab's
    group (`store_planes` tells how it lies); the next slab lies `x_step` further.
    sums: int32, two rooms of (4, 16, 16); this stage's tiles, of high and low bytes for each slab or else each half,
    go to `now`, and those from `before` are added: times w_scales, float32, from `scale_at` on, one a row, and
    x_scales, float32 (columns, groups), from `x_scale_at` on, one a column, to out, float32 (columns, 32), from
    `out_at` on.
    """
    return intrinsic(stage)


class _Place:
    """An array's data, from which vectors are read and to which they are written."""

    def __init__(self, context: Any, builder: Any, kind: Any, value: Any) -> None:
        self._builder = builder
        self.data = context.make_array(kind)(context, builder, value).data

    def at(self, index: Any, *, kind: Any = None) -> Any:
        address = self._builder.gep(self.data, [index])
        return address if kind is None else self._builder.bitcast(address, kind.as_pointer())


class _Arrays(NamedTuple):
    sums: _Place
    w_scales: _Place
    x_scales: _Place
    out: _Place


def _ask(builder: Any, array: _Place, place: Any) -> None:
    """Emit a request for what stands at a place, which may lie behind the array's end."""
    kind = ir.FunctionType(ir.VoidType(), [_BYTES, _INT32, _INT32, _INT32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [array.at(place, kind=_BYTE), _INT32(0), _INT32(_SECOND_CACHE), _INT32(1)])


def _multiply(builder: Any, slabs: int, w: _Place, w_at: Any, planes: _Place, x_at: Any, x_step: Any) -> Iterator[None]:
    """Emit a group's products of bytes; stop behind each instruction that keeps the unit busy for a while."""
    tile = _BYTE
    for number in range(4):
        _call(builder, "tilezero", tile(number))
    for k in range(GROUP // _LINE):

        def load_w(register: int, half: int, k: int = k) -> None:
            place = builder.add(w_at, w_at.type(k * _LINE * ROWS + half * _LINE))
            _call(builder, "tileloadd64", tile(register), w.at(place, kind=_BYTE), _INT64(QUAD * ROWS))

        def load_x(register: int, slab: int, low: int, k: int = k) -> None:
            place = builder.add(x_at, x_at.type((2 * k + low) * SIDE * _LINE))
            if slab:
                place = builder.add(place, x_step)
            _call(builder, "tileloadd64", tile(register), planes.at(place, kind=_BYTE), _INT64(_LINE))

        load_w(6, 0)
        for slab in range(slabs):
            for low, name in ((0, "tdpbssd"), (1, "tdpbusd")):
                load_x(4 + low, slab, low)
                _call(builder, name, tile(2 * slab + low), tile(4 + low), tile(6))
                yield
        if slabs == 1:
            load_w(7, 1)
            for low, name in ((0, "tdpbssd"), (1, "tdpbusd")):
                _call(builder, name, tile(2 + low), tile(4 + low), tile(7))
                yield


def _add_results(
    builder: Any, slabs: int, arrays: _Arrays, before: Any, scale_at: Any, x_scale_at: Any, step: Any, out_at: Any
) -> Iterator[None]:
    """Emit what adds the sums, 256 × the high bytes' + the low ones', to the results; stop behind each column."""
    sums, w_scales, x_scales, out = arrays
    halves = 3 - slabs
    factors = [
        builder.load(w_scales.at(builder.add(scale_at, scale_at.type(SIDE * half)), kind=_FLOATS), align=4)
        for half in range(halves)
    ]
    fma = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_FLOATS, [_FLOATS] * 3), f"llvm.fma.v{LANES}f32"
    )
    eight = ir.Constant(_INTS, [8] * LANES)
    for column in range(slabs * SIDE):
        place = builder.add(x_scale_at, builder.mul(step, step.type(column)))
        x_factor = _splat(builder, builder.load(x_scales.at(place)), _FLOATS)
        for half in range(halves):
            tiles = column // SIDE if slabs == 2 else half
            place = builder.add(before, before.type(2 * tiles * SIDE * SIDE + column % SIDE * SIDE))
            high = builder.load(sums.at(place, kind=_INTS), align=4)
            low = builder.load(sums.at(builder.add(place, place.type(SIDE * SIDE)), kind=_INTS), align=4)
            total = builder.sitofp(builder.add(builder.shl(high, eight), low), _FLOATS)
            target = out.at(builder.add(out_at, out_at.type(column * ROWS + half * SIDE)), kind=_FLOATS)
            both = builder.fmul(factors[half], x_factor)
            builder.store(builder.call(fma, [total, both, builder.load(target, align=4)]), target, align=4)
        yield


def _splat(builder: Any, value: Any, kind: Any) -> Any:
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, value, _INT32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_INTS, [0] * LANES))


begin_slab, go_on_slab, end_slab = _stage(1, True, False), _stage(1, True, True), _stage(1, False, True)
"""One slab of columns by a block of 32 rows: the first group, each further one, and the last one's sums."""
begin_two, go_on_two, end_two = _stage(2, True, False), _stage(2, True, True), _stage(2, False, True)
"""Two slabs by half a block: what comes from memory is used twice, and has twice the time to come."""


@intrinsic
def store_planes(typing_context: Any, planes: Any, index: Any, value: Any) -> Any:
    """Write a vector of 16-bit numbers, rounded to whole ones, as bytes: high from `index`, low 1024 further.

    So the planes (columns / 16, groups, 2, 2, 16, 64) lie: of 16 columns and half a group, first all high bytes.
    """

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        planes, index, value = values
        rint = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(value.type, [value.type]), f"llvm.rint.v{LANES}f32"
        )
        lanes = ir.VectorType(_BYTE, LANES)
        whole = builder.fptosi(builder.call(rint, [value]), _INTS)
        for part, further in ((builder.ashr(whole, ir.Constant(_INTS, [8] * LANES)), 0), (whole, SIDE * _LINE)):
            address = _at(context, builder, signature.args[0], planes, builder.add(index, index.type(further)))
            builder.store(builder.trunc(part, lanes), builder.bitcast(address, lanes.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(planes, types.intp, vector), generate


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
