"""How the weights are updated: which optimizer has which parameters, what the configuration says at a step, clipping.

The learning rate is in schedule.py and Muon in muon.py.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gpt_model.config import TrainConfig
from gpt_model.muon import MakePolarFactor, Muon
from gpt_model.polar import PolarFactor
from gpt_model.schedule import learning_rate_at

_BLOCK_MATRICES = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


class Optimizer:
    """AdamW for every trainable parameter, or Muon for the matrices inside the blocks and AdamW for the others."""

    def __init__(self, model: nn.Module, train: TrainConfig, polar_factor: MakePolarFactor = PolarFactor) -> None:
        trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
        for_muon = _BLOCK_MATRICES if train.optimizer == "muon" else ()
        hidden = {name: each for name, each in trained.items() if name.endswith(for_muon)}
        others = [each for name, each in trained.items() if name not in hidden]
        self._muon = Muon(hidden, polar_factor)
        self._adamw = _build_adamw(others, train)
        self._train, self._rate = train, 0.0

    def apply(self, train: TrainConfig, step: int) -> float:
        """Take what the configuration says for the update after `step` updates; return AdamW's learning rate."""
        rate = learning_rate_at(step, train)
        decaying, others = self._adamw.param_groups
        decaying["lr"] = others["lr"] = rate
        decaying["weight_decay"] = train.weight_decay
        self._train, self._rate = train, rate
        return rate

    def step(self, skip: Tensor | None = None) -> None:
        """Update the weights by their gradients.

        Args:
            skip: a scalar on the device, 1 to change nothing after all; it is read there and not waited for. Only where
                AdamW has a fused kernel, as on CUDA.
        """
        train = self._train
        muon_rate = train.muon_learning_rate * self._rate / train.learning_rate  # along the same schedule
        self._muon.step(muon_rate, train.muon_momentum, train.weight_decay, skip)
        if skip is not None:
            # The fused kernel reads found_inf on the device and skips the update, as it does for a GradScaler.
            self._adamw.found_inf = skip  # type: ignore[attr-defined]
        self._adamw.step()

    def zero_grad(self) -> None:
        """Drop the gradients of all parameters."""
        self._adamw.zero_grad(set_to_none=True)
        self._muon.zero_grad()

    def adamw_parameters(self) -> list[nn.Parameter]:
        """Return AdamW's parameters in the order in which its state counts them."""
        return [each for group in self._adamw.param_groups for each in group["params"]]

    def to_state(self) -> dict[str, Any]:
        """Return the state for a checkpoint. Its tensors are those in use: they change with the next step."""
        return {"adamw": self._adamw.state_dict(), "muon": self._muon.to_state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `to_state` returned."""
        self._adamw.load_state_dict(state["adamw"])
        self._muon.restore(state["muon"])


def _build_adamw(parameters: list[nn.Parameter], train: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), fused where this device has such a kernel."""
    matrices = [parameter for parameter in parameters if parameter.dim() >= 2]
    vectors = [parameter for parameter in parameters if parameter.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": train.weight_decay},
        {"params": vectors, "weight_decay": 0.0},  # biases and norms: decay would only pull them off their task
    ]
    betas = (train.beta1, train.beta2)
    try:
        return torch.optim.AdamW(groups, lr=train.learning_rate, betas=betas, fused=True)
    except RuntimeError:  # no fused kernel for this device
        return torch.optim.AdamW(groups, lr=train.learning_rate, betas=betas)


def clip_gradients(model: nn.Module, grad_clip: float) -> Tensor:
    """Scale the gradient down to the norm `grad_clip` (0: leave it) and return the norm it had, a scalar."""
    gradients = [each.grad for each in model.parameters() if each.grad is not None]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if grad_clip:
        share = (grad_clip / (norm + 1e-6)).clamp(max=1.0)
        if share.device.type != "cpu" or share != 1:  # elsewhere, asking would wait for the device
            torch._foreach_mul_(gradients, share)
    return norm
