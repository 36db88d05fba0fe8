"""Vectors of the CPU as values inside compiled functions: load, store, multiply and add, exp, sum.

Numba knows no vector registers; these few functions teach it LLVM's vector type, so that a kernel says in Python what
each instruction does. Indices are positions in a contiguous array of any shape, unchecked. `load` makes float32 of
whatever the array holds: float32, bfloat16 as uint16 (numpy has none), float16 as int16.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from gpt_model.compiled.cpu import IS_ZEN, LANES

_FLOAT, _INT32 = ir.FloatType(), ir.IntType(32)
_FLOATS, _INTS = ir.VectorType(_FLOAT, LANES), ir.VectorType(_INT32, LANES)


_CACHE = 3 if IS_ZEN else 2  # LLVM's numbers of the nearest cache and of the second


class _Vector(types.Type):
    def __init__(self) -> None:
        super().__init__(f"float32x{LANES}")


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: _Vector) -> None:
        super().__init__(manager, numba_type, _FLOATS)


vector = _Vector()


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any, target: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), target.as_pointer())


def _widen(builder: Any, raw: Any, element: Any) -> Any:
    """Return raw lanes of an array's element type as float32."""
    if element == types.float32:
        return raw
    if element == types.uint16:  # bfloat16 is the upper half of a float32
        return builder.bitcast(builder.shl(builder.zext(raw, _INTS), _all(_INTS, 16)), _FLOATS)
    if element == types.int16:
        return builder.fpext(builder.bitcast(raw, ir.VectorType(ir.HalfType(), LANES)), _FLOATS)
    raise TypeError(f"simd.load reads no {element}")


def _all(kind: Any, value: float) -> Any:
    return ir.Constant(kind, [value] * LANES)


def _call(builder: Any, name: str, arguments: list[Any]) -> Any:
    kind = ir.FunctionType(_FLOATS, [each.type for each in arguments])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32")
    return builder.call(function, arguments)


@intrinsic
def load(typing_context: Any, array: Any, index: Any) -> Any:
    """Return LANES elements of `array` from `index` on, as float32."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array_type, (array, index) = signature.args[0], values
        lanes = ir.VectorType(context.get_data_type(array_type.dtype), LANES)
        raw = builder.load(_address(context, builder, array_type, array, index, lanes), align=1)
        return _widen(builder, raw, array_type.dtype)

    return vector(array, types.intp), generate


@intrinsic
def store(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """Write a vector to `array` (float32) from `index` on."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array, index, value = values
        builder.store(value, _address(context, builder, signature.args[0], array, index, _FLOATS), align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@intrinsic
def store_as(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """Write a vector to `array` (float32, or bfloat16 as uint16) from `index` on, rounded to what the array holds."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array, index, value = values
        if signature.args[0].dtype == types.uint16:  # to the nearest; of two equally near ones, the even
            whole = builder.bitcast(value, _INTS)
            odd = builder.and_(builder.lshr(whole, _all(_INTS, 16)), _all(_INTS, 1))
            upper = builder.lshr(builder.add(whole, builder.add(odd, _all(_INTS, 0x7FFF))), _all(_INTS, 16))
            value = builder.trunc(upper, ir.VectorType(ir.IntType(16), LANES))
        builder.store(value, _address(context, builder, signature.args[0], array, index, value.type), align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@intrinsic
def turn_square(typing_context: Any, array: Any, source: Any, source_step: Any, target: Any, target_step: Any) -> Any:
    """Write LANES rows of LANES numbers, from `source` on, as columns from `target` on; steps lie between rows."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array, source, source_step, target, target_step = values

        def row(start: Any, step: Any, number: int) -> Any:
            index = builder.add(start, builder.mul(step, step.type(number)))
            return _address(context, builder, signature.args[0], array, index, _FLOATS)

        rows = [builder.load(row(source, source_step, number), align=4) for number in range(LANES)]
        size = LANES
        while size > 1:  # two rows change places of their lanes, in squares of half the size each time
            size //= 2
            low = [lane if not lane & size else LANES + lane - size for lane in range(LANES)]
            high = [lane + size if not lane & size else LANES + lane for lane in range(LANES)]
            for number in (number for number in range(LANES) if not number & size):
                pair = rows[number], rows[number + size]
                rows[number], rows[number + size] = (
                    builder.shuffle_vector(*pair, ir.Constant(_INTS, lanes)) for lanes in (low, high)
                )
        for number, value in enumerate(rows):
            builder.store(value, row(target, target_step, number), align=4)
        return context.get_dummy_value()

    size = types.intp
    return types.void(array, size, size, size, size), generate


@intrinsic
def number(typing_context: Any, array: Any, index: Any) -> Any:
    """Return the one float32 at `index`."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array, index = values
        return builder.load(_address(context, builder, signature.args[0], array, index, _FLOAT), align=4)

    return types.float32(array, types.intp), generate


@intrinsic
def put(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """Write one float32 to `index`."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array, index, value = values
        builder.store(value, _address(context, builder, signature.args[0], array, index, _FLOAT), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.float32), generate


def _prefetch(cache: int, sentence: str) -> Any:
    def prefetch(typing_context: Any, array: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            array_type, (array, index) = signature.args[0], values
            ask(builder, _address(context, builder, array_type, array, index, ir.IntType(8)), cache)
            return context.get_dummy_value()

        return types.void(array, types.intp), generate

    prefetch.__doc__ = f"Ask the memory for what stands at `index`, which may lie behind the array's end. {sentence}"
    return intrinsic(prefetch)


prefetch = _prefetch(
    _CACHE,
    "Into the second cache: Intel's nearest one can wait for no more than a dozen lines at a time. Into the nearest "
    "where that waits for more.",
)
prefetch_far = _prefetch(2, "Into the second cache.")


def ask(builder: Any, address: Any, cache: int = _CACHE) -> None:
    """Write the instruction of `prefetch`."""
    kind = ir.FunctionType(ir.VoidType(), [address.type, _INT32, _INT32, _INT32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [address, _INT32(0), _INT32(cache), _INT32(1)])


def _splat(builder: Any, value: Any, kind: Any) -> Any:
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, value, _INT32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_INTS, [0] * LANES))


@intrinsic
def splat(typing_context: Any, number: Any) -> Any:
    """Return a float32 number in every lane."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return _splat(builder, values[0], _FLOATS)

    return vector(types.float32), generate


@intrinsic
def zero(typing_context: Any) -> Any:
    """Return zeros."""
    return vector(), lambda context, builder, signature, values: _all(_FLOATS, 0.0)


def _binary(name: str, sentence: str) -> Any:
    def operation(typing_context: Any, a: Any, b: Any) -> Any:
        return vector(vector, vector), lambda context, builder, signature, values: getattr(builder, name)(*values)

    operation.__name__, operation.__doc__ = name, sentence
    return intrinsic(operation)


add = _binary("fadd", "Return a + b.")
multiply = _binary("fmul", "Return a × b.")
divide = _binary("fdiv", "Return a / b.")


@intrinsic
def maximum(typing_context: Any, a: Any, b: Any) -> Any:
    """Return the larger of both in each lane."""
    return vector(vector, vector), lambda context, builder, signature, values: _call(builder, "maxnum", values)


@intrinsic
def minimum(typing_context: Any, a: Any, b: Any) -> Any:
    """Return the smaller of both in each lane."""
    return vector(vector, vector), lambda context, builder, signature, values: _call(builder, "minnum", values)


@intrinsic
def absolute(typing_context: Any, x: Any) -> Any:
    """Return |x|."""
    return vector(vector), lambda context, builder, signature, values: _call(builder, "fabs", values)


@intrinsic
def store_whole(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """Write a vector to `array` (int16) from `index` on, each lane rounded to the nearest whole number."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array, index, value = values
        lanes = ir.VectorType(ir.IntType(16), LANES)
        whole = builder.trunc(builder.fptosi(_call(builder, "rint", [value]), _INTS), lanes)
        builder.store(whole, _address(context, builder, signature.args[0], array, index, lanes), align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@intrinsic
def at_least(typing_context: Any, a: Any, limit: Any, x: Any) -> Any:
    """Return x in the lanes in which a ≥ limit, and 0 in the others."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        a, limit, x = values
        return builder.select(builder.fcmp_ordered(">=", a, limit), x, _all(_FLOATS, 0.0))

    return vector(vector, vector, vector), generate


@intrinsic
def first_lanes(typing_context: Any, count: Any, x: Any, other: Any) -> Any:
    """Return x in the first `count` lanes, and `other` in those behind."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        count, x, other = values
        limit = _splat(builder, builder.trunc(count, _INT32), _INTS)
        return builder.select(builder.icmp_signed("<", ir.Constant(_INTS, list(range(LANES))), limit), x, other)

    return vector(types.int64, vector, vector), generate


@intrinsic
def kept(typing_context: Any, key: Any, first: Any, limit: Any, x: Any) -> Any:
    """Return x in the lanes that dropout keeps, and 0 in the others.

    Lane i is kept if 32 bits that are mixed of `key` and first + i are no less than `limit`. The mixing is that of
    Wellons 2018, "Prospecting for Hash Functions", nullprogram.com/blog/2018/07/31, with the multipliers named lowbias.
    """

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        key, first, limit = (_splat(builder, builder.trunc(each, _INT32), _INTS) for each in values[:3])
        place = builder.add(first, ir.Constant(_INTS, list(range(LANES))))
        bits = builder.add(builder.mul(place, _all(_INTS, 0x9E3779B9)), key)
        for shift, multiplier in ((16, 0x7FEB352D), (15, 0x846CA68B)):
            bits = builder.xor(bits, builder.lshr(bits, _all(_INTS, shift)))
            bits = builder.mul(bits, _all(_INTS, multiplier))
        bits = builder.xor(bits, builder.lshr(bits, _all(_INTS, 16)))
        return builder.select(builder.icmp_unsigned(">=", bits, limit), values[3], _all(_FLOATS, 0.0))

    return vector(types.int64, types.int64, types.int64, vector), generate


@intrinsic
def fma(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a × b + c, rounded once."""
    return vector(vector, vector, vector), lambda context, builder, signature, values: _call(builder, "fma", values)


@intrinsic
def exp(typing_context: Any, x: Any) -> Any:
    """Return e to the x: 2^n × e^r with n whole and |r| ≤ ln 2 / 2, e^r by its series of degree 7 (error 2e-7)."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        x = _call(builder, "maxnum", [_call(builder, "minnum", [values[0], _all(_FLOATS, 88.0)]), _all(_FLOATS, -87.0)])
        n = _call(builder, "rint", [builder.fmul(x, _all(_FLOATS, 1.4426950408889634))])
        # ln 2 in two parts, the first short enough that n times it is exact
        r = _call(builder, "fma", [n, _all(_FLOATS, -0.693359375), x])
        r = _call(builder, "fma", [n, _all(_FLOATS, 2.1219444005469057e-4), r])
        series = _all(_FLOATS, 1 / 5040)
        for coefficient in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0):
            series = _call(builder, "fma", [series, r, _all(_FLOATS, coefficient)])
        power = builder.shl(builder.add(builder.fptosi(n, _INTS), _all(_INTS, 127)), _all(_INTS, 23))
        return builder.fmul(series, builder.bitcast(power, _FLOATS))

    return vector(vector), generate


def _reduction(name: str, combine: Callable[[Any, Any, Any], Any], sentence: str) -> Any:
    """Halve the vector until one lane is left: the order is the same on every machine and in every kernel."""

    def reduce(typing_context: Any, x: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            value, size = values[0], LANES
            while size > 1:
                size //= 2
                undefined = ir.Constant(value.type, ir.Undefined)
                low, high = (
                    builder.shuffle_vector(
                        value, undefined, ir.Constant(ir.VectorType(_INT32, size), list(range(start, start + size)))
                    )
                    for start in (0, size)
                )
                value = combine(builder, low, high)
            return builder.extract_element(value, _INT32(0))

        return types.float32(vector), generate

    reduce.__name__, reduce.__doc__ = name, sentence
    return intrinsic(reduce)


total = _reduction("total", lambda builder, a, b: builder.fadd(a, b), "Return the sum of the lanes.")
largest = _reduction(
    "largest",
    lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b),
    "Return the largest lane.",
)


@intrinsic
def totals(typing_context: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Return the sums of the lanes of four vectors: `total` of each, to the bit, for the price of two."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        def part(one: Any, other: Any, lanes: list[int]) -> Any:
            return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(_INT32, len(lanes)), lanes))

        def halved(value: Any, size: int) -> Any:
            while size > 4:
                size //= 2
                low, high = list(range(size)), list(range(size, 2 * size))
                value = builder.fadd(part(value, value, low), part(value, value, high))
            return value

        def paired(one: Any, other: Any) -> Any:  # lanes 0 + 2 and 1 + 3 of both, as `total` adds them
            return builder.fadd(part(one, other, [0, 1, 4, 5]), part(one, other, [2, 3, 6, 7]))

        quarters = [halved(value, LANES) for value in values]
        left, right = paired(*quarters[:2]), paired(*quarters[2:])
        sums = builder.fadd(part(left, right, [0, 2, 4, 6]), part(left, right, [1, 3, 5, 7]))
        return context.make_tuple(
            builder, signature.return_type, [builder.extract_element(sums, _INT32(lane)) for lane in range(4)]
        )

    return types.UniTuple(types.float32, 4)(vector, vector, vector, vector), generate


@intrinsic
def pointer(typing_context: Any, address: Any) -> Any:
    """Return an address as a pointer."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), generate
