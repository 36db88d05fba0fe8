"""The ways in which others write down a GPT-2's weights: Hugging Face's, nanoGPT's, and pickled files of either.

Ours are the names of `GPT`: `wte.weight`, `h.0.attn.c_attn.weight` …, every matrix (out, in) as nn.Linear has it.
"""

import dataclasses
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt_model.config import ModelConfig
from gpt_model.errors import CheckpointError

Weights = dict[str, Tensor]
_MATRIX = re.compile(r"h\.\d+\.(attn|mlp)\.c_\w+\.weight")
_MASK = re.compile(r"h\.\d+\.attn\.(masked_)?bias")  # buffers of old releases


def to_huggingface(weights: Mapping[str, Tensor], dtype: torch.dtype) -> Weights:
    """Return our weights in GPT2LMHeadModel's names and layout: matrices (in, out), the tied head left out."""
    return {
        f"transformer.{name}": (tensor.T if _MATRIX.fullmatch(name) else tensor).to(dtype).contiguous()
        for name, tensor in weights.items()
    }


def to_nanogpt(weights: Mapping[str, Tensor]) -> Weights:
    """Return our weights in nanoGPT's names: the prefix, and the tied head under its own name too."""
    named = {f"transformer.{name}": tensor for name, tensor in weights.items()}
    return named | {"lm_head.weight": weights["wte.weight"]}


def from_foreign(weights: Mapping[str, Tensor], path: Path) -> Weights:
    """Return weights of Hugging Face's or nanoGPT's form in ours. The layout is read off the shape of c_attn.

    Raises:
        CheckpointError: the head is not tied to the embedding.
    """
    named = {}
    for name, tensor in weights.items():
        bare = name.removeprefix("_orig_mod.").removeprefix("module.").removeprefix("transformer.")
        if not _MASK.fullmatch(bare):
            named[bare] = tensor
    head = named.pop("lm_head.weight", None)
    embedding = named.get("wte.weight")
    if head is not None and embedding is not None and not torch.equal(head, embedding):
        raise CheckpointError(f"{path} has a head of its own; GPT-2's is tied to the token embedding.")
    first = named.get("h.0.attn.c_attn.weight")
    if first is not None and first.ndim == 2 and first.shape[1] == 3 * first.shape[0]:  # (in, out): Hugging Face's
        named = {name: tensor.T if _MATRIX.fullmatch(name) else tensor for name, tensor in named.items()}
    return {name: tensor.contiguous() for name, tensor in named.items()}


def read_pickled(file: Path, config: ModelConfig | None = None) -> tuple[ModelConfig, Weights]:
    """Return the shape and the weights in a pickled file: a bare state dict, or nanoGPT's checkpoint with `model_args`.

    Only tensors and plain values are unpickled. A bare state dict does not say how many heads there are; every GPT-2
    has heads of 64, so that is taken where it divides the width.

    Raises:
        CheckpointError: the file is damaged, contains code, or is no GPT-2.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error).lower() or "unsupported" in str(error).lower():
            raise CheckpointError(
                f"{file} holds more than weights: opening it would run code from the file, so it was refused. "
                "Ask its author for the state dict alone, or for safetensors."
            ) from error
        raise CheckpointError(f"{file} is damaged or no file of weights.") from error
    except Exception as error:  # torch raises RuntimeError, EOFError, KeyError … for damaged archives
        raise CheckpointError(f"{file} is damaged or no file of weights.") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{file} holds a {type(content).__name__}, not a state dict.")
    nested = content.get("model", content.get("state_dict"))
    weights = dict(nested if isinstance(nested, Mapping) else content)
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(f"{file} holds no state dict of a GPT-2.")
    said = content.get("model_args")
    return config or _shape_of(from_foreign(weights, file), said if isinstance(said, Mapping) else {}, file), weights


def _shape_of(weights: Weights, said: Mapping[str, Any], file: Path) -> ModelConfig:
    try:
        vocab_size, n_embd = weights["wte.weight"].shape
        block_size = weights["wpe.weight"].shape[0]
        inner = weights["h.0.mlp.c_fc.weight"].shape[0]
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(f"{file} is not a GPT-2: it has no {error}.") from error
    n_layer = 1 + max(int(name.split(".")[1]) for name in weights if re.match(r"h\.\d+\.", name))
    n_head = said.get("n_head") or (n_embd // 64 if n_embd % 64 == 0 else 0)
    if not n_head:
        raise CheckpointError(
            f"{file} does not say how many heads its width of {n_embd} is parted into. "
            "Save it with nanoGPT's 'model_args', or as a Hugging Face directory."
        )
    shape = ModelConfig(n_layer, n_head, n_embd, block_size, vocab_size)
    return shape if inner == 4 * n_embd else dataclasses.replace(shape, n_inner=inner)
