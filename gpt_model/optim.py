"""How the weights are updated: parameter groups, AdamW, gradient clipping, learning rates as pure functions of step."""

import math

import torch
from torch import Tensor, nn

from gpt_model.config import TrainConfig


def build_optimizer(model: nn.Module, train: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), fused where this device has such a kernel."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": train.weight_decay},
        {"params": vectors, "weight_decay": 0.0},  # biases and norms: decay would only pull them off their task
    ]
    betas = (train.beta1, train.beta2)
    try:
        return torch.optim.AdamW(groups, lr=train.learning_rate, betas=betas, fused=True)
    except RuntimeError:  # no fused kernel for this device
        return torch.optim.AdamW(groups, lr=train.learning_rate, betas=betas)


def apply_settings_at(optimizer: torch.optim.Optimizer, train: TrainConfig, step: int) -> float:
    """Give the optimizer what the configuration says for the update after `step` updates; return the learning rate."""
    learning_rate = learning_rate_at(step, train)
    matrices, vectors = optimizer.param_groups
    matrices["lr"] = vectors["lr"] = learning_rate
    matrices["weight_decay"] = train.weight_decay
    return learning_rate


def clip_gradients(model: nn.Module, grad_clip: float) -> Tensor:
    """Scale the gradient down to the norm `grad_clip` (0: leave it) and return the norm it had, a scalar."""
    return torch.nn.utils.clip_grad_norm_(model.parameters(), grad_clip or math.inf)


def learning_rate_at(step: int, train: TrainConfig) -> float:
    """Return the learning rate of the update after `step` updates.

    It rises linearly over the warm-up, then follows the schedule down to min_learning_rate: cosine (Loshchilov and
    Hutter 2017, arXiv 1608.03983, without restarts), wsd (stable, then linear over the last decay_fraction of
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
    decay_from = max(train.warmup_steps, round(train.max_steps * (1 - train.decay_fraction)))
    return peak + (low - peak) * _share(step, decay_from, train.max_steps)


def _share(step: int, first: int, last: int) -> float:
    """Return how much of the way from `first` to `last` is behind, from 0 to 1."""
    return min(max((step - first) / max(last - first, 1), 0.0), 1.0)
