"""transpose: a float32 matrix the other way round on the CPU, compiled, on all threads: torch has one at work."""

import functools

import torch
from torch import Tensor

from gpt_model.compiled.layout import TURN_ROWS
from gpt_model.compiled.shared import Shared


@functools.cache
def _shared() -> Shared:
    return Shared("transpose")


def prepare_transpose() -> None:
    """Compile what `transpose` needs, once on this machine.

    Raises:
        CompileError: numba is missing or does not work here, or torch has other threads than OpenMP's.
    """
    _shared()


def transpose(matrix: Tensor) -> Tensor:
    """Return a matrix (N, M) as a contiguous one (M, N); `prepare_transpose` was called."""
    if matrix.dtype != torch.float32 or matrix.device.type != "cpu" or not matrix.is_contiguous():
        return matrix.t().contiguous()
    rows, width = matrix.shape
    turned = matrix.new_empty((width, rows))
    with _shared().lock:
        _shared().call(-(-rows // TURN_ROWS), rows, width, matrix.data_ptr(), turned.data_ptr())
    return turned
