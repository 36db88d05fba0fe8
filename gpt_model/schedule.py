"""The learning rate as a pure function of the step, so that resuming and live changes need no state. Knows no torch."""

import math

from gpt_model.config import TrainConfig


def learning_rate_at(step: int, train: TrainConfig) -> float:
    """Return the learning rate of the update after `step` updates.

    It rises linearly over the warm-up, then follows the schedule down to min_learning_rate: cosine (Loshchilov and
    Hutter 2017, arXiv 1608.03983, without restarts), linear, wsd (stable, then linear over the last decay_fraction of
    max_steps; Hu et al. 2024, arXiv 2404.06395, section 4) or constant.
    """
    peak = train.learning_rate
    low = peak / 10 if train.min_learning_rate is None else train.min_learning_rate
    if step < train.warmup_steps:
        return peak * (step + 1) / (train.warmup_steps + 1)
    if train.schedule == "constant":
        return peak
    if train.schedule == "cosine":
        share = _share(step, train.warmup_steps, train.max_steps)
        return low + (peak - low) * 0.5 * (1 + math.cos(math.pi * share))
    stable = train.max_steps * (1 - train.decay_fraction) if train.schedule == "wsd" else 0
    decay_from = max(train.warmup_steps, round(stable))
    return peak + (low - peak) * _share(step, decay_from, train.max_steps)


def _share(step: int, first: int, last: int) -> float:
    """Return how much of the way from `first` to `last` is behind, from 0 to 1."""
    return min(max((step - first) / max(last - first, 1), 0.0), 1.0)
