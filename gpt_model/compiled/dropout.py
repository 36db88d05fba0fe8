"""dropout: zeros in random places in a training step on the CPU, compiled."""

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from gpt_model.compiled import layout as at
from gpt_model.compiled.cpu import LANES
from gpt_model.compiled.memory import Array, address, aligned_zeros
from gpt_model.compiled.shared import shared_entry


@functools.cache
def _swell() -> Array:
    return aligned_zeros((1,))


def _run(source: Tensor, share: float, seed: int) -> Tensor:
    result, rows = torch.empty_like(source), -(-source.numel() // at.DROP_ROW)
    with shared_entry("dropout").lock:
        _swell()[0] = 1 / (1 - share)
        shared_entry("dropout").call(
            -(-rows // at.DROP_ROWS), rows, source.numel(), source.dtype == torch.bfloat16, seed,
            drop_limit(share), address(_swell()), source.data_ptr(), result.data_ptr(),
        )  # fmt: skip
    return result


def draw_seed() -> int:
    """Return a seed by torch's generator, whose state is a part of every checkpoint."""
    return int(torch.randint(2**62, ()))


def drop_limit(share: float) -> int:
    """Return how many of 2^32 numbers are dropped."""
    return round(share * 2**32)


def dropout(hidden: Tensor, share: float) -> Tensor:
    """Return what F.dropout returns, of other numbers, on a CPU in a tenth of its time.

    torch draws one number after another, on one thread, and keeps what it drew for the way back.
    """
    is_ours = hidden.dtype in (torch.float32, torch.bfloat16) and hidden.device.type == "cpu" and 0 < share < 1
    if not is_ours or hidden.numel() % LANES or not hidden.numel():
        return F.dropout(hidden, share)
    return _Dropout.apply(hidden.contiguous(), share, draw_seed())  # type: ignore[no-any-return]


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, share: float, seed: int) -> Tensor:
        ctx.share, ctx.seed = share, seed
        return _run(hidden, share, seed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _run(gradient.contiguous(), ctx.share, ctx.seed), None, None
