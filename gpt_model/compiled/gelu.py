"""linear_gelu: a layer and its activation in a training step on the CPU; all but the product is compiled."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from gpt_model.compiled.cpu import LANES
from gpt_model.compiled.shared import shared_entry
from gpt_model.model import Linear

_CHUNK = 2**14
"""So many numbers, about, are taken at a time."""


def _run(product: Tensor, bias: Tensor, gradient: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return GELU (…, W) of a product (…, W) and its bias (W,), and nothing.

    With a gradient (…, W): GELU's derivative times it, and sums (N, W) of that over groups of rows. Which rows a group
    has is the same on any number of threads.
    """
    width = len(bias)
    rows = product.numel() // width
    chunk_rows = max(_CHUNK // width, 1)
    chunks = -(-rows // chunk_rows)
    result = torch.empty_like(product)
    sums = bias.new_empty((0 if gradient is None else chunks, width))
    with shared_entry("gelu").lock:
        shared_entry("gelu").call(
            chunks, rows, width, chunk_rows, product.dtype == torch.bfloat16, product.data_ptr(), bias.data_ptr(),
            result.data_ptr(), 0 if gradient is None else gradient.data_ptr(), sums.data_ptr(),
        )  # fmt: skip
    return result, sums


def linear_gelu(layer: nn.Module, hidden: Tensor) -> Tensor:
    """Return what model.linear_gelu returns, on a CPU in a third of its time.

    torch would write a layer's bias into memory before the product, and read its gradient once more to sum it up.
    """
    if type(layer) is Linear and layer.bias is not None:
        product, bias = layer.product(hidden, layer.weight, None), layer.bias
    else:  # one with adapters
        product = layer(hidden)
        bias = product.new_zeros(product.shape[-1], dtype=torch.float32)
    is_ours = product.dtype in (torch.float32, torch.bfloat16) and bias.dtype == torch.float32
    if not is_ours or product.device.type != "cpu" or len(bias) % LANES or not product.numel():
        return F.gelu(product + bias.to(product.dtype), approximate="tanh")
    return _Gelu.apply(product.contiguous(), bias)  # type: ignore[no-any-return]


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, product: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(product, bias)
        return _run(product, bias, None)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        product, bias = ctx.saved_tensors
        of_product, sums = _run(product, bias, gradient.contiguous())
        return of_product, sums.sum(0)
