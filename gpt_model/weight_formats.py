"""The ways in which others write down a GPT-2's weights: Hugging Face's, nanoGPT's, and pickled files of either.

Ours are the names of `GPT`: `wte.weight`, `h.0.attn.c_attn.weight` …, every matrix (out, in) as nn.Linear has it.
"""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from gpt_model.config import ModelConfig
from gpt_model.errors import CheckpointError
from gpt_model.pickled_shape import bare_name, shape_of

Weights = dict[str, Tensor]
_MATRIX = re.compile(r"h\.\d+\.(attn|mlp)\.c_\w+\.weight")
_MASK = re.compile(r"h\.\d+\.attn\.(masked_)?bias")  # buffers of old releases


def to_file(config: ModelConfig, weights: Mapping[str, Tensor], dtype: torch.dtype) -> Weights:
    """Return weights as a checkpoint holds them: a GPT-2's as GPT2LMHeadModel does, a modern model's under our names.

    The latter's matrices stay (out, in): transformers refuses their shapes, even when told to take them for a GPT-2's.
    """
    if config.arch == "gpt2":
        return to_huggingface(weights, dtype)
    return {name: tensor.to(dtype).contiguous() for name, tensor in weights.items()}


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
        bare = bare_name(name)
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

    Only tensors and plain values are unpickled.

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
    if config is None:
        shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        config = shape_of(shapes, said if isinstance(said, Mapping) else {}, file)
    return config, weights
