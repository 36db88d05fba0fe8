"""linear_attend: a layer of queries, keys and values and their attention in a training step on the CPU, compiled."""

import functools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gpt_model import model
from gpt_model.compiled.cpu import LANES
from gpt_model.compiled.dropout import draw_seed, drop_limit
from gpt_model.compiled.memory import Array, address, aligned_zeros
from gpt_model.compiled.shared import shared_entry


class _Machine:
    """The compiled code, with room for each thread."""

    def __init__(self) -> None:
        self._shared = shared_entry("attention")
        self._factors: Array = aligned_zeros((2,))

    def run(
        self, n_head: int, dropout: float, seed: int, product: Tensor, bias: Tensor,
        result: Tensor, norms: Tensor, gradient: Tensor | None, sums: Tensor | None,
    ) -> None:  # fmt: skip
        """Fill result and norms, or with a gradient result and sums; see attention_rows.py for all of them."""
        B, T, step = product.shape
        size = step // (3 * n_head)
        threads, room_size = torch.get_num_threads(), _room_for(T, size)
        with self._shared.lock:
            self._factors[:] = 1 / math.sqrt(size), 1 / (1 - dropout)
            self._shared.call(
                B * n_head, threads, B, n_head, T, size, product.dtype == torch.bfloat16, drop_limit(dropout), seed,
                address(self._factors), product.data_ptr(), bias.data_ptr(), result.data_ptr(), norms.data_ptr(),
                0 if gradient is None else gradient.data_ptr(), 0 if sums is None else sums.data_ptr(),
                self._shared.room(threads, room_size), room_size,
            )  # fmt: skip


def _room_for(T: int, size: int) -> int:
    """Return how many numbers one thread needs: what attention_rows._mix_gradient has in its room."""
    blocks = -(-T // LANES)
    positions, step = blocks * LANES, (blocks | 1) * LANES
    return 6 * positions * size + 2 * (size + LANES) * step


@functools.cache
def _machine() -> _Machine:
    return _Machine()


def linear_attend(layer: nn.Module, hidden: Tensor, n_head: int, dropout: float) -> Tensor:
    """Return what model.linear_attend returns, on a CPU in a third of its time.

    No scores are kept, and none of what comes after a position is computed.
    """
    if type(layer) is model.Linear and layer.bias is not None:
        product, bias = layer.product(hidden, layer.weight, None), layer.bias
    else:  # one with adapters
        product = layer(hidden)
        bias = product.new_zeros(product.shape[-1], dtype=torch.float32)
    is_ours = product.dtype in (torch.float32, torch.bfloat16) and bias.dtype == torch.float32
    size = product.shape[-1] // (3 * n_head)
    if not is_ours or product.device.type != "cpu" or size % LANES or not product.numel() or dropout >= 1:
        return model.attend_to_all(product + bias.to(product.dtype), n_head, dropout)
    return _Attention.apply(product.contiguous(), bias, n_head, dropout)  # type: ignore[no-any-return]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, product: Tensor, bias: Tensor, n_head: int, dropout: float) -> Tensor:
        B, T, step = product.shape
        ctx.seed = draw_seed() if dropout else 0
        ctx.n_head, ctx.dropout = n_head, dropout
        mixed, norms = product.new_empty((B, T, step // 3)), bias.new_empty((B * n_head, T, 2))
        _machine().run(n_head, dropout, ctx.seed, product, bias, mixed, norms, None, None)
        ctx.save_for_backward(product, bias, norms)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        product, bias, norms = ctx.saved_tensors
        of_product, sums = torch.empty_like(product), bias.new_empty((len(product), len(bias)))
        _machine().run(ctx.n_head, ctx.dropout, ctx.seed, product, bias, of_product, norms, gradient.contiguous(), sums)
        return of_product, sums.sum(0), None, None
