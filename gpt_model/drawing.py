"""From logits to a token: the draw, and what is told about it. Knows no model and no chain."""

import math

import torch
from torch import Tensor

from gpt_model.errors import GenerationError

_HEAD = 1024
"""The draw looks among so many of the most likely tokens first; sorting 50,257 costs more than a small model."""


def draw(logits: Tensor, uniform: float) -> int:
    """Return the token drawn from logits (V,) by a uniform number in [0, 1).

    By the inverse of the cumulative distribution, tokens sorted by logit, then by id: two chains that share their
    luck draw the same token unless one of them cut it or moved its share. float64, for the tails of large rows.
    """
    normaliser = logits.double().logsumexp(-1)
    size = min(_HEAD, logits.shape[0])
    while True:
        threshold = logits.topk(size).values[-1]
        ids = ((logits >= threshold) & (logits > -math.inf)).nonzero()[:, 0]  # ascending, so that equals stay so below
        values, order = logits[ids].double().sort(descending=True, stable=True)
        cumulative = (values - normaliser).exp().cumsum(0)
        if uniform < cumulative[-1] or size == logits.shape[0] or threshold == -math.inf:
            place = torch.searchsorted(
                cumulative, torch.tensor(uniform, dtype=torch.float64, device=ids.device), right=True
            )
            # rounding may leave the last sum a hair below 1
            return int(ids[order[min(int(place), len(ids) - 1)]])
        size = logits.shape[0]


def finite(logits: Tensor) -> Tensor:
    """Return logits (B, V) with NaN as -inf.

    Raises:
        GenerationError: a row has no finite number: the model is broken.
    """
    best = logits.amax(dim=-1)
    if bool(torch.isfinite(best).all()):
        return logits
    cleaned = logits.nan_to_num(nan=-math.inf, posinf=-math.inf, neginf=-math.inf)
    if bool((cleaned.amax(dim=-1) == -math.inf).any()):
        raise GenerationError(
            "The model gives no finite number for any token: its weights are broken. Try another checkpoint."
        )
    return cleaned


def probabilities(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return probabilities (B, V) and their entropy (B,) in nats."""
    log = logits.log_softmax(dim=-1)
    probability = log.exp()
    return probability, -(probability * log.clamp(min=-1e4)).sum(dim=-1)  # -inf × 0 would be NaN
