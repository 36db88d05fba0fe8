"""Float32 matrix products of a training step on a CPU, by the faster of torch's two libraries. Knows no model.

torch.mm asks MKL, which leaves half of the vector units of other makers' CPUs idle; oneDNN, which torch brings along
too, does not. Its operator is a private one of torch's inductor: where it is missing, MKL computes. Which is the faster
here is measured once (product_rates.py). Both add in another order, so a resume tells which one it was.
"""

import functools
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from gpt_model.product_rates import onednn_product, product_rates

_WORTH = 1.2
"""How much faster oneDNN must be: between equals, torch's own way is the shorter one."""


@functools.cache
def uses_onednn() -> bool:
    """Whether products in float32 are oneDNN's on this machine."""
    rates = product_rates()
    return rates.onednn > _WORTH * rates.mkl


def linear(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return hidden (…, C) @ weight (W, C)ᵀ + bias (W,), as F.linear does."""
    if not multiplies_by_onednn(hidden, weight):
        return F.linear(hidden, weight, bias)
    rows = hidden.flatten(0, -2)
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        found = cast(Tensor, _Linear.apply(rows, weight, bias))  # type: ignore[no-untyped-call]
    else:
        found = onednn_product(rows, weight, bias)
    return found.view(*hidden.shape[:-1], len(weight))


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return a (N, K) @ b (K, M); no gradient comes back."""
    return onednn_product(a, b.t(), None) if multiplies_by_onednn(a, b) else torch.mm(a, b)


def multiplies_by_onednn(a: Tensor, b: Tensor) -> bool:
    """Return whether a product of these is oneDNN's here."""
    kinds = a.device.type == b.device.type == "cpu" and a.dtype == b.dtype == torch.float32
    return kinds and a.numel() > 0 and not torch.is_autocast_enabled("cpu") and uses_onednn()


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        return onednn_product(hidden, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        hidden, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        for_hidden, for_weight, for_bias = ctx.needs_input_grad
        return (
            onednn_product(gradient, weight.t(), None) if for_hidden else None,
            # both copied: oneDNN would read what lies the other way round at two thirds of its rate
            onednn_product(gradient.t().contiguous(), hidden.t().contiguous(), None) if for_weight else None,
            gradient.sum(0) if for_bias else None,
        )
