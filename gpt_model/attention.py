"""attend: scaled dot-product attention, by torch's kernel or, where that one is slow, by a few batched products.

Knows no layer and no cache. Shapes: B sequences, H heads, T positions, S positions seen, D = size of a head.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

LONGEST = 256
"""Positions up to which batched products are the faster way, although they compute what the mask throws away."""


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Return attention's output (B, H, T, D) for queries (B, H, T, D), keys and values (B, H, S, D).

    Args:
        query: What asks.
        key: What is asked.
        value: What is mixed.
        mask: Which positions are seen, (T, S) bool; None where a single query sees all, or each sees those before it.
        dropout: Probability with which a weight of the mixture is dropped.
    """
    T, is_causal = query.shape[2], query.shape[2] > 1 and mask is None
    # On a CPU the backward pass of torch's kernel is several times slower in half precision than in float32.
    is_slow = query.device.type == "cpu" and query.dtype != torch.float32 and torch.is_grad_enabled()
    if is_slow and is_causal and T <= LONGEST and dropout == 0.0:
        return _Attention.apply(query, key, value)  # type: ignore[no-any-return, no-untyped-call]
    return F.scaled_dot_product_attention(query, key, value, mask, dropout, is_causal=is_causal)


class _Attention(torch.autograd.Function):
    """Causal attention with all its probabilities at hand. The softmax and its gradient are computed in float32."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        shape, T = query.shape, query.shape[2]
        query, key, value = (each.flatten(0, 1) for each in (query, key, value))  # (B · H, T, D)
        scale = 1 / math.sqrt(shape[3])
        future = torch.full((T, T), -math.inf, dtype=query.dtype, device=query.device).triu_(1)
        scores = torch.baddbmm(future, query, key.mT, alpha=scale)  # (B · H, T, T)
        probabilities = torch.softmax(scores, dim=-1, dtype=torch.float32).to(scores.dtype)
        ctx.save_for_backward(query, key, value, probabilities)
        ctx.scale = scale
        return torch.bmm(probabilities, value).view(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, probabilities = ctx.saved_tensors
        shape, of_mixed = gradient.shape, gradient.flatten(0, 1)  # (B · H, T, D)
        of_probabilities = torch.bmm(of_mixed, value.mT)  # (B · H, T, T)
        of_scores = torch._softmax_backward_data(of_probabilities, probabilities, -1, probabilities.dtype)
        of_scores.mul_(ctx.scale)
        of_value = torch.bmm(probabilities.mT, of_mixed)
        of_query, of_key = torch.bmm(of_scores, key), torch.bmm(of_scores.mT, query)
        return of_query.view(shape), of_key.view(shape), of_value.view(shape)
