"""GELU in its tanh approximation, of a product and its bias, and its gradient: one look at each number.

Hendrycks and Gimpel 2016, arXiv 1606.08415, section 2. With u = √(2/π) (x + 0.044715 x³):
x/2 · (1 + tanh u) = x σ(2u), whose derivative is σ(2u) + x σ(2u) (1 − σ(2u)) 2u′. All is computed in float32.
"""

import math

import numpy as np
from numba import njit

from gpt_model.compiled.cpu import LANES
from gpt_model.compiled.simd import (
    add,
    divide,
    exp,
    fma,
    load,
    maximum,
    minimum,
    multiply,
    splat,
    store,
    store_as,
    zero,
)

_CUBE = np.float32(0.044715)
_RATE = np.float32(2 * math.sqrt(2 / math.pi))
_SLOPE = np.float32(6 * math.sqrt(2 / math.pi) * 0.044715)
_ONE = np.float32(1)
_FAR = np.float32(13)
"""From here on GELU is 0 or x; what is farther away would leave the range of exp, and its cube that of float32."""


@njit(nogil=True, error_model="numpy")
def _near(x):
    return minimum(maximum(x, splat(-_FAR)), splat(_FAR))


@njit(nogil=True, error_model="numpy")
def _logistic(x, square):
    """Return σ(2u), and 1 − σ(2u), which as a difference would lose its digits."""
    bracket = multiply(fma(square, splat(_CUBE), splat(_ONE)), x)
    power = exp(multiply(bracket, splat(-_RATE)))
    share = divide(splat(_ONE), add(power, splat(_ONE)))
    return share, multiply(power, share)


@njit(nogil=True, error_model="numpy")
def gelu_rows(product, bias, width, result, first, last):
    """Write GELU of product + bias to result, in the rows [first, last). The width is a multiple of LANES."""
    for start in range(first * width, last * width, width):
        for k in range(0, width, LANES):
            x = add(load(product, start + k), load(bias, k))
            near = _near(x)
            share, _ = _logistic(near, multiply(near, near))
            store_as(result, start + k, multiply(x, share))


@njit(nogil=True, error_model="numpy")
def gelu_gradient_rows(product, bias, width, gradient, result, first, last, sums, sums_at):
    """Write GELU's derivative at product + bias, times gradient, to result; see gelu_rows.

    Its sums over the rows are written to sums[sums_at : sums_at + width].
    """
    for k in range(0, width, LANES):
        store(sums, sums_at + k, zero())
    for start in range(first * width, last * width, width):
        for k in range(0, width, LANES):
            x = add(load(product, start + k), load(bias, k))
            near = _near(x)
            square = multiply(near, near)
            share, rest = _logistic(near, square)
            slope = fma(multiply(multiply(share, rest), near), fma(square, splat(_SLOPE), splat(_RATE)), share)
            slope = fma(x, zero(), slope)  # what is no number stays none
            passed = multiply(slope, load(gradient, start + k))
            store_as(result, start + k, passed)
            store(sums, sums_at + k, add(load(sums, sums_at + k), passed))
