"""Products: how a model's matrices are multiplied. Knows no model.

torch.mm asks MKL in float32, which leaves half of the vector units of other makers' CPUs idle; oneDNN, which torch
brings along too, does not. Its operator is a private one of torch's inductor, so who uses it measures before whether it
is there and the faster one here (product_rates.py). Both add in another order: a resume tells which one it was.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from gpt_model.product_rates import onednn_product

Transpose = Callable[[Tensor], Tensor]


class Products:
    """Products as torch computes them."""

    def linear(self, hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return hidden (…, C) @ weight (W, C)ᵀ + bias (W,)."""
        return F.linear(hidden, weight, bias)

    def head(self, weight: Tensor) -> "HeadProducts":
        """Return the products of a head's matrix (V, C) with chunks of rows, none of which brings a gradient back."""
        return HeadProducts(weight)


class HeadProducts:
    """The three products of a head and some of its rows: logits, and what comes back of them."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight

    def logits(self, rows: Tensor) -> Tensor:
        """Return rows (R, C) @ weight (V, C)ᵀ."""
        return torch.mm(rows, self._weight.t())

    def back(self, logits: Tensor) -> Tensor:
        """Return logits (R, V) @ weight (V, C)."""
        return torch.mm(logits, self._weight)

    def add_gradient(self, total: Tensor, logits: Tensor, rows: Tensor, is_first: bool) -> None:
        """Add logits (R, V)ᵀ @ rows (R, C) to total (V, C), which holds nothing yet if this is the first."""
        if total.dtype == logits.dtype:
            torch.addmm(total, logits.t(), rows, beta=0 if is_first else 1, out=total)
        else:
            (total.copy_ if is_first else total.add_)(torch.mm(logits.t(), rows))


class OneDnnProducts(Products):
    """float32 products on a CPU by oneDNN; others as torch computes them.

    Args:
        transpose: writes a matrix (N, M) as (M, N): what lies the other way round oneDNN reads at two thirds of its
            rate.
    """

    def __init__(self, transpose: Transpose) -> None:
        self._transpose = transpose

    def linear(self, hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if not _is_ours(hidden, weight):
            return super().linear(hidden, weight, bias)
        rows = hidden.flatten(0, -2)
        if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
            found = cast(Tensor, _Linear.apply(rows, weight, bias, self._transpose))  # type: ignore[no-untyped-call]
        else:
            found = onednn_product(rows, weight, bias)
        return found.view(*hidden.shape[:-1], len(weight))

    def head(self, weight: Tensor) -> HeadProducts:
        return _OneDnnHead(weight, self._transpose) if _is_ours(weight, weight) else super().head(weight)


def _is_ours(a: Tensor, b: Tensor) -> bool:
    kinds = a.device.type == b.device.type == "cpu" and a.dtype == b.dtype == torch.float32
    return kinds and a.numel() > 0 and not torch.is_autocast_enabled("cpu")


class _OneDnnHead(HeadProducts):
    def __init__(self, weight: Tensor, transpose: Transpose) -> None:
        super().__init__(weight)
        self._transpose = transpose
        self._turned: Tensor | None = None

    def logits(self, rows: Tensor) -> Tensor:
        return onednn_product(rows, self._weight, None)

    def back(self, logits: Tensor) -> Tensor:
        if self._turned is None:
            self._turned = self._transpose(self._weight)
        return onednn_product(logits, self._turned, None)

    def add_gradient(self, total: Tensor, logits: Tensor, rows: Tensor, is_first: bool) -> None:
        turned = self._transpose(rows)
        for first in range(0, logits.shape[1], _COLUMNS):
            columns = slice(first, first + _COLUMNS)
            part = total[columns]
            (part.copy_ if is_first else part.add_)(onednn_product(self._transpose(logits[:, columns]), turned, None))


_COLUMNS = 2048
"""Of a vocabulary, so many at a time: what is made of them is added up before it has left the cache."""


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, transpose: Transpose) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.transpose = transpose
        return onednn_product(hidden, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        hidden, weight = ctx.saved_tensors
        transpose, gradient = ctx.transpose, gradient.contiguous()
        for_hidden, for_weight, for_bias, _ = ctx.needs_input_grad
        return (
            onednn_product(gradient, transpose(weight), None) if for_hidden else None,
            onednn_product(transpose(gradient), transpose(hidden), None) if for_weight else None,
            gradient.sum(0) if for_bias else None,
            None,
        )
