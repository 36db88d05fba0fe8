"""One tile of an integer product, written in LLVM's own language: a block of rows of weights by a few columns.

Whole numbers are summed exactly, so their order is free; each group of 128 then joins the float32 sum in its turn. The
CPU's instruction multiplies neighbouring pairs of 16-bit numbers and adds both (x86: pmaddwd, with VNNI vpdpwssd).
A block of weights lies in quads: four inputs' numbers of a row, then the next row's, 32 rows; then the next four
inputs. That is the order of the matrix unit too (matrix_unit.py).
"""

from collections.abc import Callable, Iterator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gpt_model.compiled.cpu import IS_ZEN, LANES, MULTIPLY_PAIRS, MULTIPLY_PAIRS_AND_ADD
from gpt_model.compiled.layout import GROUP, QUAD, ROWS
from gpt_model.compiled.simd import ask

_BYTE, _SHORT, _INT32, _INT64, _FLOAT = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
_BYTES, _SHORTS = ir.VectorType(_BYTE, 2 * LANES), ir.VectorType(_SHORT, 2 * LANES)
_INTS, _LONGS, _FLOATS = ir.VectorType(_INT32, LANES), ir.VectorType(_INT64, LANES // 2), ir.VectorType(_FLOAT, LANES)

TILE_ROWS = 2 * LANES
"""Rows of a tile: two vectors of results."""
_SUMS = 4
"""Vectors of 32-bit sums for a tile's rows: two sums a row, one of each pair of a quad."""
_PIECE = 64
"""Inputs of one turn of the loop."""
AHEAD = 4096 if IS_ZEN else 8192
"""Bytes between what is read and what the memory is asked for: without being asked, it delivers half as fast."""
LINE = 64
"""Bytes of a line of memory."""
MOST_COLUMNS = 4 if LANES == 16 else 2
"""Columns whose sums stay in registers: 16 of 32 hold them, or 8 of 16."""


@intrinsic
def numbers_in_a_byte(typing_context: Any, w: Any) -> Any:
    """Return 2 for an array of four-bit numbers (uint8), else 1."""
    count = 2 if w.dtype == types.uint8 else 1
    return types.intp(w), lambda context, builder, signature, values: _INT64(count)


def _tile(columns: int) -> Any:
    def add_group(
        typing_context: Any, w: Any, w_at: Any, scales: Any, scale_at: Any,
        x: Any, x_at: Any, x_scales: Any, x_scale_at: Any, y: Any, y_at: Any,
    ) -> Any:  # fmt: skip
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            arrays = [
                context.make_array(kind)(context, builder, value)
                for kind, value in zip(signature.args, values, strict=True)
                if isinstance(kind, types.Array)
            ]
            weights, factors, inputs, x_factors, out = (array.data for array in arrays)
            steps = [builder.extract_value(array.shape, 1) for array in arrays[2:]]
            starts = (values[5], values[7], values[9])
            x_starts, x_scale_starts, y_starts = (
                [builder.add(start, builder.mul(step, step.type(column))) for column in range(columns)]
                for start, step in zip(starts, steps, strict=True)
            )
            nothing = ir.Constant(_INTS, [0] * LANES)
            rooms = [[cgutils.alloca_once_value(builder, nothing) for _ in range(_SUMS)] for _ in range(columns)]
            nibbles = signature.args[0].dtype == types.uint8
            # a loop, for code as long as a group comes slower than it is carried out
            with cgutils.for_range(builder, _INT64(GROUP // _PIECE)) as piece:
                first = builder.mul(piece.index, _INT64(_PIECE))
                w_at = builder.add(values[1], builder.mul(first, _INT64(ROWS // 2 if nibbles else ROWS)))
                sums = [[builder.load(room) for room in mine] for mine in rooms]
                for quad, parts in _quads(builder, weights, w_at, nibbles, asks=columns == 1):
                    for column, mine in enumerate(sums):
                        at = builder.add(builder.add(x_starts[column], first), _INT64(QUAD * quad))
                        four = builder.load(builder.bitcast(builder.gep(inputs, [at]), _INT64.as_pointer()), align=8)
                        numbers = builder.bitcast(_splat(builder, four, _LONGS), _SHORTS)
                        mine[:] = [_add_pairs(builder, *each, numbers) for each in zip(mine, parts, strict=True)]
                for mine, theirs in zip(rooms, sums, strict=True):
                    for room, value in zip(mine, theirs, strict=True):
                        builder.store(value, room)
            sums = [[builder.load(room) for room in mine] for mine in rooms]
            for vector in range(TILE_ROWS // LANES):
                factor = builder.load(_vector_at(builder, factors, values[3], vector), align=4)
                for column, mine in enumerate(sums):
                    x_factor = builder.load(builder.gep(x_factors, [x_scale_starts[column]]))
                    both = builder.fmul(factor, _splat(builder, x_factor, _FLOATS))
                    target = _vector_at(builder, out, y_starts[column], vector)
                    total = builder.sitofp(_add_neighbours(builder, *mine[2 * vector : 2 * vector + 2]), _FLOATS)
                    before = builder.load(target, align=4)
                    builder.store(_call(builder, f"llvm.fma.v{LANES}f32", [total, both, before]), target, align=4)
            return context.get_dummy_value()

        size = types.intp
        return types.void(w, size, scales, size, x, size, x_scales, size, y, size), generate

    add_group.__doc__ = f"""Add one group's products of a tile's rows and {columns} neighbouring columns to y.

    w: int8, or uint8 with two four-bit numbers, from `w_at` on. scales: float32 from `scale_at` on, one a row.
    x: int16 (columns, width), x_scales: float32 (columns, groups), y: float32 (columns, rows): 2-D, for their width is
    the step between columns; from the places given on.
    """
    return intrinsic(add_group)


def _quads(builder: Any, weights: Any, at: Any, nibbles: bool, asks: bool) -> Iterator[tuple[int, list[Any]]]:
    """Yield the number of each quad of a piece's inputs and a tile's weights for it, as vectors of 16-bit numbers.

    asks: between two quads, also ask for as many bytes as are read. One column is done with a group before the memory
    has delivered the next: asked for at once, a group's lines stand in each other's way and the memory has pauses.
    """
    for quad in range(_PIECE // QUAD):
        start = (quad // 2 if nibbles else quad) * QUAD * ROWS
        if asks and not (nibbles and quad % 2):
            for line in range(start + AHEAD, start + AHEAD + QUAD * TILE_ROWS, LINE):
                ask(builder, builder.gep(weights, [builder.add(at, at.type(line))]))
        parts = []
        for vector in range(_SUMS):
            place = builder.add(at, at.type(start + 2 * vector * LANES))
            raw = builder.load(builder.bitcast(builder.gep(weights, [place]), _BYTES.as_pointer()), align=1)
            if nibbles:  # 16 times a number of four bits is its byte's upper half
                if quad % 2 == 0:
                    raw = builder.shl(raw, ir.Constant(_BYTES, [4] * 2 * LANES))
                raw = builder.and_(raw, ir.Constant(_BYTES, [0xF0] * 2 * LANES))
            parts.append(builder.sext(raw, _SHORTS))
        yield quad, parts


def _add_pairs(builder: Any, sums: Any, a: Any, b: Any) -> Any:
    """Return sums[i] + a[2i] · b[2i] + a[2i + 1] · b[2i + 1] as 32-bit numbers."""
    if MULTIPLY_PAIRS_AND_ADD:
        return _call(builder, MULTIPLY_PAIRS_AND_ADD, [sums, builder.bitcast(a, _INTS), builder.bitcast(b, _INTS)])
    if MULTIPLY_PAIRS:
        return builder.add(sums, _call(builder, MULTIPLY_PAIRS, [a, b], _INTS))
    halves = []
    for first in (0, 1):
        lanes = ir.Constant(_INTS, list(range(first, 2 * LANES, 2)))
        one, other = (builder.sext(builder.shuffle_vector(each, each, lanes), _INTS) for each in (a, b))
        halves.append(builder.mul(one, other))
    return builder.add(sums, builder.add(*halves))


def _add_neighbours(builder: Any, a: Any, b: Any) -> Any:
    """Return a[2i] + a[2i + 1], then the same of b, in one vector."""
    even, odd = (ir.Constant(_INTS, list(range(first, 2 * LANES, 2))) for first in (0, 1))
    return builder.add(builder.shuffle_vector(a, b, even), builder.shuffle_vector(a, b, odd))


def _call(builder: Any, name: str, arguments: list[Any], result: Any = None) -> Any:
    kind = ir.FunctionType(result or arguments[0].type, [each.type for each in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _vector_at(builder: Any, data: Any, start: Any, vector: int) -> Any:
    place = builder.add(start, start.type(vector * LANES))
    return builder.bitcast(builder.gep(data, [place]), _FLOATS.as_pointer())


def _splat(builder: Any, value: Any, kind: Any) -> Any:
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, value, _INT32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_INT32, kind.count), [0] * kind.count))


add_group_of_one: Callable[..., None] = _tile(1)
add_group_of_two: Callable[..., None] = _tile(2)
add_group_of_four: Callable[..., None] = _tile(4)
