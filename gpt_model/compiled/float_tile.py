"""One tile of a product of float32 matrices, written in LLVM's own language: a few rows by one or two vectors."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gpt_model.compiled.cpu import LANES, TILE_ROWS

_FLOAT = ir.FloatType()
_FLOATS = ir.VectorType(_FLOAT, LANES)


def _tile(vectors: int) -> Any:
    def multiply_tile(
        typing_context: Any, room: Any, a_at: Any, a_row: Any, a_step: Any,
        b_at: Any, b_step: Any, c_at: Any, c_row: Any, steps: Any, is_new: Any,
    ) -> Any:  # fmt: skip
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            data = context.make_array(signature.args[0])(context, builder, values[0]).data
            a_at, a_row, a_step, b_at, b_step, c_at, c_row, steps, is_new = values[1:]

            def times(number: Any, count: int) -> Any:
                return builder.mul(number, number.type(count))

            def vector(at: Any, number: int) -> Any:
                place = builder.gep(data, [builder.add(at, at.type(number * LANES))])
                return builder.bitcast(place, _FLOATS.as_pointer())

            a_rows = [builder.gep(data, [builder.add(a_at, times(a_row, row))]) for row in range(TILE_ROWS)]
            c_rows = [builder.add(c_at, times(c_row, row)) for row in range(TILE_ROWS)]
            nothing = ir.Constant(_FLOATS, [0.0] * LANES)
            sums = [[cgutils.alloca_once_value(builder, nothing) for _ in range(vectors)] for _ in range(TILE_ROWS)]
            with cgutils.for_range(builder, steps) as step:
                b = builder.add(b_at, builder.mul(step.index, b_step))
                columns = [builder.load(vector(b, number), align=4) for number in range(vectors)]
                a = builder.mul(step.index, a_step)
                for mine, row in zip(sums, a_rows, strict=True):
                    factor = _splat(builder, builder.load(builder.gep(row, [a])))
                    for place, column in zip(mine, columns, strict=True):
                        builder.store(_fma(builder, factor, column, builder.load(place)), place)
            with builder.if_then(builder.not_(is_new)):  # only here: a sum of sums loses less than a long one
                for mine, at in zip(sums, c_rows, strict=True):
                    for number, place in enumerate(mine):
                        before = builder.load(vector(at, number), align=4)
                        builder.store(builder.fadd(before, builder.load(place)), place)
            for mine, at in zip(sums, c_rows, strict=True):
                for number, place in enumerate(mine):
                    builder.store(builder.load(place), vector(at, number), align=4)
            return context.get_dummy_value()

        size = types.intp
        return types.void(room, size, size, size, size, size, size, size, size, types.boolean), generate

    multiply_tile.__doc__ = f"""Write C = A B, or add it to a C that is not new: TILE_ROWS rows, {vectors} vectors.

    All lie in `room`, a flat float32 array, from a_at, b_at and c_at on. a_row, c_row: what lies between two rows.
    a_step, b_step: what lies between two of A's columns, and B's rows, of which there are `steps`.
    """
    return intrinsic(multiply_tile)


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32"), [a, b, c])


def _splat(builder: Any, value: Any) -> Any:
    undefined = ir.Constant(_FLOATS, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.IntType(32)(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


multiply_tile_of_one: Callable[..., None] = _tile(1)
multiply_tile_of_two: Callable[..., None] = _tile(2)
