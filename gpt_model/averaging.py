"""AveragedWeights: a running average of the weights, which predicts better than the last of them.

Knows no optimizer and no run. Averages of weights: Polyak and Juditsky 1992; with an exponential decay and a shorter
memory at the start, as here: Szegedy et al. 2015, arXiv 1512.00567, section 8, and its implementation.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class AveragedWeights:
    """The exponential average of what is trained in a model."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Begin with the model's present weights.

        Args:
            model: whose trainable parameters are averaged.
            decay: the share of the average that an update leaves, below 1. The n-th update leaves at most
                n / (n + 9) of it, so that a fresh model's weights are soon forgotten.
        """
        self._parameters = {name: each for name, each in model.named_parameters() if each.requires_grad}
        self._averages = {name: each.detach().clone() for name, each in self._parameters.items()}
        self._decay = decay
        self._updates = 0

    @torch.no_grad()
    def after_update(self) -> None:
        """Take in the weights that an update left."""
        self._updates += 1
        decay = min(self._decay, self._updates / (self._updates + 9))
        torch._foreach_lerp_(list(self._averages.values()), list(self._parameters.values()), 1 - decay)

    @contextmanager
    def in_model(self) -> Iterator[None]:
        """Have the averages stand in the model, and the weights in training again afterwards, whatever happens."""
        swapped: list[str] = []
        try:
            for name in self._parameters:
                self._swap(name)
                swapped.append(name)
            yield
        finally:
            for name in swapped:
                self._swap(name)

    def to_state(self) -> dict[str, Any]:
        """Return the averages, and the weights in training, which a checkpoint of the averages would lose.

        Not to be called inside `in_model`. The tensors are those in use: they change with the next update.
        """
        raw = {name: parameter.detach() for name, parameter in self._parameters.items()}
        return {"updates": self._updates, "averages": self._averages, "raw": raw}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `to_state` returned: its averages are kept here, its weights go into the model."""
        self._updates = int(state["updates"])
        for name, parameter in self._parameters.items():
            self._averages[name].copy_(state["averages"][name])
            parameter.copy_(state["raw"][name])

    @torch.no_grad()
    def _swap(self, name: str) -> None:
        # The numbers change places, not the tensors: optimizers and gradient buckets hold on to the parameters.
        parameter, average = self._parameters[name], self._averages[name]
        kept: Tensor = parameter.clone()
        parameter.copy_(average)
        average.copy_(kept)
