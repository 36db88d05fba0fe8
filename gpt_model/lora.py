"""LoRA: adapters of low rank beside the frozen linear layers of a model's blocks (Hu et al. 2021, arXiv 2106.09685).

`adapt` puts them in, `merged` gives the plain model that they amount to, and `adapters_state` and `restore_adapters`
keep apart what training needs to go on bit for bit: from W + s·B·A nothing gives W back exactly.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gpt_model.architectures import build_model
from gpt_model.errors import CheckpointError
from gpt_model.model import GPT, Linear

_ADAPTED = ("c_attn", "c_proj", "c_fc")
"""All matrices of the blocks: with few of them a model learns less, whatever the rank (Dettmers et al. 2023, arXiv
2305.14314, section 4)."""


class AdaptedLinear(Linear):
    """A frozen linear layer and its adapter: x W^T + bias + scale · (x A^T) B^T, the layer itself until B is trained.

    Its weight and bias keep their names, so that a model is addressed as before.
    """

    def __init__(self, layer: Linear, rank: int, alpha: float) -> None:
        with torch.device("meta"):  # the layer brings its own
            super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None)
        self.weight, self.bias, self.product = layer.weight, layer.bias, layer.product
        self.scale = alpha / rank
        self.lora_a = nn.Parameter(torch.empty(rank, self.in_features, device=layer.weight.device))
        self.lora_b = nn.Parameter(torch.zeros(self.out_features, rank, device=layer.weight.device))
        if not self.lora_a.is_meta:
            nn.init.normal_(self.lora_a, std=self.in_features**-0.5)  # section 4.1: A Gaussian, B zero

    def forward(self, hidden: Tensor) -> Tensor:
        low = self.product(hidden, self.lora_a, None)  # (…, rank)
        whole = self.product(hidden, self.weight, self.bias)
        return whole + self.scale * self.product(low, self.lora_b, None)

    @torch.no_grad()
    def merged_weight(self) -> Tensor:
        """Return the matrix (out, in) of the plain layer that computes the same."""
        return self.weight + self.scale * (self.lora_b @ self.lora_a)


def adapt(model: GPT, rank: int, alpha: float) -> None:
    """Freeze a model and put adapters, the only trainable parameters, beside the linear layers of its blocks."""
    model.requires_grad_(False)
    plain = [(name, layer) for name, layer in model.named_modules() if name.endswith(_ADAPTED)]
    for name, layer in plain:
        assert isinstance(layer, Linear)
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, AdaptedLinear(layer, rank, alpha))


def merged(model: GPT) -> GPT:
    """Return a plain model with the adapters multiplied into the weights; the model itself where it has none.

    What is not adapted is shared with the model. A merged float32 model's logits are the adapted one's to rounding.
    """
    adapted = dict(_adapted_layers(model))
    if not adapted:
        return model
    weights = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith(("lora_a", "lora_b"))}
    weights |= {f"{name}.weight": layer.merged_weight() for name, layer in adapted.items()}
    with torch.device("meta"):
        plain = build_model(model.config)
    plain.load_state_dict(weights, assign=True)
    return plain.requires_grad_(False).train(model.training)


def adapters_state(model: GPT) -> dict[str, Any] | None:
    """Return a model's adapters and the matrices beside which they stand, for a checkpoint; None where it has none.

    What is trained is a copy: the model may be trained on while it is written.
    """
    layers = dict(_adapted_layers(model))
    if not layers:
        return None
    frozen = {name: layer.weight.detach().cpu() for name, layer in layers.items()}
    trained = {
        kind: {name: getattr(layer, kind).detach().to("cpu", copy=True) for name, layer in layers.items()}
        for kind in ("lora_a", "lora_b")
    }
    return {"weight": frozen} | trained


def restore_adapters(model: GPT, state: Mapping[str, Any]) -> None:
    """Give an adapted model, whose weights are a checkpoint's merged ones, back what `adapters_state` returned.

    Raises:
        CheckpointError: the state is of other adapters than the model has.
    """
    layers = dict(_adapted_layers(model))
    for kind in ("weight", "lora_a", "lora_b"):
        saved = state.get(kind, {})
        shapes = {name: getattr(layer, kind).shape for name, layer in layers.items()}
        if shapes != {name: tensor.shape for name, tensor in saved.items()}:
            raise CheckpointError(
                "The checkpoint's adapters are not those of this run: lora_rank must stay what it was. Begin a new run."
            )
        with torch.no_grad():
            for name, layer in layers.items():
                getattr(layer, kind).copy_(saved[name])


def _adapted_layers(model: GPT) -> Iterator[tuple[str, AdaptedLinear]]:
    return ((name, layer) for name, layer in model.named_modules() if isinstance(layer, AdaptedLinear))
