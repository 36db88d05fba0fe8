"""From logits to a token: the draw, and what is told about it. Knows no model and no chain."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt_model.errors import GenerationError
from samplers import NotFiniteError, Plan, Rows

_HEAD = 64
"""The draw looks among so many of the most likely tokens first; sorting 50,257 costs more than a small model."""
_BINS = 4096
_REACH = 30.0
"""Nats below the best within which bins are told apart."""


@dataclass(frozen=True)
class Drawn:
    """A drawn token, and what the distributions before and after the chain say of it."""

    id: int
    p_model: float
    p_chain: float
    rank: int
    """How many tokens the model held likelier."""
    entropy: float
    """Of the model's distribution, in nats."""
    candidates: tuple[tuple[int, float, float], ...]
    """The model's most likely tokens, best first, with their probabilities before and after the chain."""


def draw(before: Rows, chosen: Rows | Plan, uniforms: list[float], candidates: int) -> list[Drawn]:
    """Return the tokens drawn from logits (B, V) as a chain left them, by a uniform number in [0, 1) a row.

    By the inverse of the cumulative distribution, tokens sorted by logit, then by id: two chains that share their
    luck draw the same token unless one of them cut it or moved its share. What is told of a row leaves the device in
    one piece.

    Args:
        before: logits (B, V) float32 before the chain, nothing of which is cut or divided.
        chosen: what the chain made of them, at least one finite in every row.
        uniforms: B numbers.
        candidates: how many of the model's most likely tokens are told.

    Raises:
        NotFiniteError: there is NaN or +inf in the logits.
    """
    raw, chosen = before.logits, chosen.decided
    told, shares, likelihood = _told(raw, chosen, candidates)
    drawn = []
    for row, uniform in enumerate(uniforms):
        each = told[row]
        place = _place(each.values, each.shares, each.ids, uniform, len(each.ids) == raw.shape[1])
        if place is not None:
            token, p_model, p_chain = int(each.ids[place]), each.p_model[place], each.shares[place]
            value = each.raw_values[place]
        else:
            token = _draw_among_all(chosen.dense[row], shares[row], uniform)
            p_model, p_chain = float(likelihood[row, token]), float(shares[row, token])
            value = float(raw[row, token])
        drawn.append(Drawn(token, p_model, p_chain, each.rank(value, raw[row]), each.entropy, each.candidates))
    return drawn


def tell(before: Rows, chosen: Rows, tokens: list[int], candidates: int) -> list[Drawn]:
    """Return what `draw` would tell had it drawn these tokens, one a row. Arguments as there."""
    raw = before.logits
    told, shares, likelihood = _told(raw, chosen, candidates)
    ids = torch.tensor(tokens, device=raw.device)[:, None]
    of_them = torch.cat([each.gather(1, ids).double() for each in (likelihood, shares, raw)], dim=1).tolist()
    return [
        Drawn(token, p_model, p_chain, each.rank(value, raw[row]), each.entropy, each.candidates)
        for row, (token, each, (p_model, p_chain, value)) in enumerate(zip(tokens, told, of_them, strict=True))
    ]


@dataclass(frozen=True)
class _Told:
    """Of one row, on the host: its most likely tokens before the chain, and after it, best first."""

    entropy: float
    candidates: tuple[tuple[int, float, float], ...]
    best_values: list[float]
    ids: list[float]
    """After the chain, as are the next four."""
    shares: list[float]
    p_model: list[float]
    values: list[float]
    raw_values: list[float]

    def rank(self, value: float, raw: Tensor) -> int:
        if value > self.best_values[-1]:
            return sum(each > value for each in self.best_values)
        return int((raw > value).sum())


def _told(raw: Tensor, chosen: Rows, candidates: int) -> tuple[list[_Told], Tensor, Tensor]:
    """Return what is told of each row, which leaves the device in one piece, and the shares after and before.

    Raises:
        NotFiniteError: there is NaN or +inf in the logits.
    """
    vocab_size, processed = raw.shape[1], chosen.dense
    best = raw.topk(max(min(candidates, vocab_size), 1), dim=-1)
    p = raw.softmax(dim=-1)
    likelihood = p.gather(1, best.indices)
    # H = -Σ p ln p with ln p = ln p_best + (z - z_best); clamped, for 0 × -inf is no number
    distance = (raw - best.values[:, :1]).clamp_(min=-1e4)
    entropy = -likelihood[:, :1].log() - (p * distance).sum(dim=-1, keepdim=True)
    q = processed.softmax(dim=-1)
    head = processed.topk(min(_HEAD, vocab_size), dim=-1)
    told = (
        entropy, best.indices, likelihood, q.gather(1, best.indices), best.values,
        head.indices, q.gather(1, head.indices), p.gather(1, head.indices), head.values, raw.gather(1, head.indices),
    )  # fmt: skip
    sizes = [each.shape[1] for each in told]
    found = []
    for row in torch.cat([each.double() for each in told], dim=1).tolist():
        parts, start = [], 0
        for size in sizes:
            parts.append(row[start : start + size])
            start += size
        (nats,), best_ids, before, after, best_values, *of_head = parts
        if not math.isfinite(nats):
            raise NotFiniteError
        told_candidates = tuple(zip(map(int, best_ids), before, after, strict=True))[:candidates]
        found.append(_Told(nats, told_candidates, best_values, *of_head))
    return found, q, p


def _place(
    values: list[float], shares: list[float], ids: list[float], uniform: float, complete: bool
) -> int | None:  # fmt: skip
    """Return where the draw falls among the most likely tokens, sorted by logit; None when it falls behind them."""
    mass, place = 0.0, -1
    for share in shares:
        place += 1
        if uniform < mass + share:
            break
        mass += share
    else:
        if not complete:
            return None
        place = max(index for index, share in enumerate(shares) if share > 0)  # rounding left a hair
        mass -= shares[place]
    first = last = place
    while first > 0 and values[first - 1] == values[place]:
        first -= 1
        mass -= shares[first]
    while last + 1 < len(values) and values[last + 1] == values[place]:
        last += 1
    if first == last:
        return place if complete or last + 1 < len(values) else None
    if last + 1 == len(values) and not complete:  # its equals may go on behind the head
        return None
    equals = sorted(range(first, last + 1), key=ids.__getitem__)
    return equals[min(max(int((uniform - mass) / shares[place]), 0), len(equals) - 1)]


def _draw_among_all(logits: Tensor, shares: Tensor, uniform: float) -> int:
    """Draw from a row (V,) too flat for its head: by the mass of bins of logits, then among the tokens of one bin."""
    best = logits.amax()
    bins = ((best - logits) * (_BINS / _REACH)).clamp_(max=_BINS - 1).long()  # what is further away shares the last
    # float64, for the tails of large rows
    cumulative = torch.bincount(bins, weights=shares.double(), minlength=_BINS).cumsum(0)
    goal = uniform * cumulative[-1]
    number = int(torch.searchsorted(cumulative, goal, right=True))
    members = (bins == min(number, int(bins[logits > -math.inf].max()))).nonzero()[:, 0]  # rounding may leave a hair
    members = members[logits[members] > -math.inf]
    _, order = logits[members].sort(descending=True, stable=True)  # stable: equals stay in the order of their ids
    inside = shares[members[order]].double().cumsum(0)
    before = cumulative[number - 1] if number else 0.0
    place = int(torch.searchsorted(inside, goal - before, right=True))
    return int(members[order[min(place, len(members) - 1)]])


def finite(logits: Tensor) -> Rows:
    """Return logits (B, V) with NaN as -inf, and their largest.

    Away from the CPU nobody looks: a look would wait for the device once more a token. There `draw` finds what is
    no number.

    Raises:
        GenerationError: a row has no finite number: the model is broken.
    """
    if logits.device.type != "cpu":
        return Rows(logits)
    tops = logits.amax(dim=-1).tolist()
    if all(map(math.isfinite, tops)):
        return Rows(logits, top=tops)
    return cleaned(logits)


def cleaned(logits: Tensor) -> Rows:
    """Return logits (B, V) with what is no finite number as -inf.

    Raises:
        GenerationError: a row has no finite number: the model is broken.
    """
    clean = logits.nan_to_num(nan=-math.inf, posinf=-math.inf, neginf=-math.inf)
    if bool((clean.amax(dim=-1) == -math.inf).any()):
        raise GenerationError(
            "The model gives no finite number for any token: its weights are broken. Try another checkpoint."
        )
    return Rows(clean)
