"""Rows of logits of every kind, stages applied to them under what every stage must keep, and facts in float64."""

import functools
import math

import torch

import samplers
from samplers import Context
from samplers.stage import Stage

COUNTS = {5: 6000, 97: 3500, 1000: 700}
"""Rows of each vocabulary: 10,200 in all."""
NEAR = 2e-5
"""Nats of rounding: logits are float32 and up to some 60 here, where they are 4e-6 apart."""
MASS = 1e-6
"""What a float32 sum of a thousand probabilities may be wrong by."""


@functools.cache
def rows_of(size: int) -> torch.Tensor:
    """Rows of scales 0.1 to 10, some rounded to eighths, some with tokens out, some all but decided, some flat."""
    generator = torch.Generator().manual_seed(size)
    count = COUNTS[size]
    scales = 10 ** (torch.rand(count, 1, generator=generator) * 2 - 1)
    rows = torch.randn(count, size, generator=generator) * scales + torch.randn(count, 1, generator=generator) * 5
    kind = torch.arange(count)
    rounded = kind % 2 == 1
    rows[rounded] = (rows[rounded] * 8).round() / 8
    peaked = kind % 10 == 2
    rows[peaked, kind[peaked] % size] += 30
    flat = kind % 10 == 4
    rows[flat] = rows[flat, :1]
    two_levels = kind % 10 == 5
    rows[two_levels] = torch.where(rows[two_levels] > rows[two_levels][:, :1], rows[two_levels][:, :1] + 1.5, 0.25)
    out = torch.rand(count, size, generator=generator) < torch.rand(count, 1, generator=generator)
    out[torch.arange(count), torch.randint(size, (count,), generator=generator)] = False
    rows = rows.masked_fill(out & (kind % 3 == 0)[:, None], -math.inf)
    alone = kind % 100 == 7
    rows[alone] = torch.full((size,), -math.inf).index_fill(0, torch.tensor(3), 2.5)
    assert (rows > -math.inf).any(-1).all()
    return rows


def stage_of(text: str) -> Stage:
    (stage,) = samplers.Chain.parse(text)
    return stage


def applied(text: str, rows: torch.Tensor, uniform: float = 0.0) -> torch.Tensor:
    before = rows.clone()
    result = stage_of(text)(rows, Context(torch.zeros(len(rows), 1, dtype=torch.long), 1, [uniform] * len(rows)))
    assert torch.equal(rows, before)
    assert result.dtype == torch.float32
    assert not result.isnan().any()
    assert (alive(result) <= alive(rows)).all()  # what was out stays out
    assert alive(result).any(-1).all()
    return result


def filtered(text: str, rows: torch.Tensor, uniform: float = 0.0) -> torch.Tensor:
    """Return which tokens a filter keeps; it changes no logit that it keeps."""
    result = applied(text, rows, uniform)
    assert torch.equal(result, rows.masked_fill(~alive(result), -math.inf))
    return alive(result)


def alive(rows: torch.Tensor) -> torch.Tensor:
    return rows > -math.inf


def log_probabilities(rows: torch.Tensor) -> torch.Tensor:
    return rows.double().log_softmax(-1)


def entropy(rows: torch.Tensor) -> torch.Tensor:
    logs = log_probabilities(rows)
    return -(logs.exp() * logs).nansum(-1, keepdim=True)


def best(rows: torch.Tensor) -> torch.Tensor:
    return rows.amax(-1, keepdim=True)


def cut_after(scores: torch.Tensor, weights: torch.Tensor, mass: float) -> torch.Tensor:
    """Return the score (B, 1) of the last of the fewest best-scored tokens whose weights reach a mass."""
    ordered, order = scores.sort(dim=-1, descending=True, stable=True)
    sums = weights.gather(-1, order).cumsum(-1)
    last = (sums < mass).sum(-1, keepdim=True)
    last = last.minimum(alive(ordered).sum(-1, keepdim=True) - 1)
    return ordered.gather(-1, last)
