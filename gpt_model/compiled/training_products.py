"""CompiledProducts: float32 products of a model that trains or scores on a CPU, compiled.

torch.mm asks MKL in float32, which leaves half of the vector units of other makers' CPUs idle, and this is the faster
one on them. It adds in another order: a resume tells which one it was.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gpt_model.compiled.cpu import TILE_ROWS
from gpt_model.compiled.gemm import gemm
from gpt_model.products import HeadProducts, Products


class CompiledProducts(Products):
    """float32 products on a CPU by gemm.py; others as torch computes them."""

    def linear(self, hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        few = hidden.dim() < 2 or hidden.shape[:-1].numel() < TILE_ROWS
        if few or not _is_ours(hidden, weight, weight if bias is None else bias):
            return super().linear(hidden, weight, bias)
        rows = hidden.flatten(0, -2)
        if torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in (hidden, weight, bias)):
            found = cast(Tensor, _Linear.apply(rows, weight, bias))
        else:
            found = gemm(rows, weight.t(), bias)
        return found.view(*hidden.shape[:-1], len(weight))

    def head(self, weight: Tensor) -> HeadProducts:
        return _CompiledHead(weight) if _is_ours(weight) else super().head(weight)


def _is_ours(*tensors: Tensor) -> bool:
    kinds = all(each.device.type == "cpu" and each.dtype == torch.float32 for each in tensors)
    return kinds and not torch.is_autocast_enabled("cpu")


class _CompiledHead(HeadProducts):
    def logits(self, rows: Tensor) -> Tensor:
        return gemm(rows, self.weight.t())

    def back(self, logits: Tensor) -> Tensor:
        return gemm(logits, self.weight)

    def add_gradient(self, total: Tensor, logits: Tensor, rows: Tensor, is_first: bool) -> None:
        gemm(logits.t(), rows, out=total, is_added=not is_first)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        return gemm(hidden, weight.t(), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        hidden, weight = ctx.saved_tensors
        for_hidden, for_weight, for_bias = ctx.needs_input_grad
        return (
            gemm(gradient, weight) if for_hidden else None,
            gemm(gradient.t(), hidden) if for_weight else None,
            gradient.sum(0) if for_bias else None,
        )
