"""transpose: a float32 matrix the other way round on the CPU, compiled, on all threads: torch has one at work."""

import functools

import torch
from torch import Tensor

from gpt_model.compiled.cpu import LANES
from gpt_model.compiled.shared import Shared

_ROWS = 256
"""At most so many rows are turned at a time: of each of the others that is a piece long enough to be written ahead."""


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
    """Return a matrix (N, M), or some columns of one, as a contiguous one (M, N); `prepare_transpose` was called."""
    if matrix.dtype != torch.float32 or matrix.device.type != "cpu" or matrix.stride(1) != 1:
        return matrix.t().contiguous()
    rows, width = matrix.shape
    turned = matrix.new_empty((width, rows))
    share = -(-rows // (2 * torch.get_num_threads()))
    at_once = max(min(-(-share // LANES) * LANES, _ROWS), 1)
    with _shared().lock:
        _shared().call(
            -(-rows // at_once), rows, width, matrix.stride(0), at_once, matrix.data_ptr(), turned.data_ptr()
        )
    return turned
