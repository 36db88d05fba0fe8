"""config.json: a GPT-2's in Hugging Face's names, and what makes a model another one; a modern model's in our own.

Its model_type is one that transformers does not know, so that it refuses what it would misread. Knows no torch.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from gpt_model.config import ModelConfig
from gpt_model.config_values import from_table
from gpt_model.errors import CheckpointError, ConfigError

MODERN = "gpt_tui_modern"
"""The model_type of a modern model."""
_CONFIG_NAMES = {
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
    "block_size": "n_positions",
    "vocab_size": "vocab_size",
    "dropout": "resid_pdrop",
    "n_inner": "n_inner",
    "layer_norm_epsilon": "layer_norm_epsilon",
}
_PLAIN_GPT2: dict[str, tuple[Any, ...]] = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "tie_word_embeddings": (True,),
    "add_cross_attention": (False,),
}


def read_model_config(directory: Path) -> ModelConfig:
    """Return the shape in a checkpoint directory's config.json, in our names.

    Raises:
        CheckpointError: there is none, it is damaged, or it describes neither a plain GPT-2 nor a modern model of ours.
    """
    file = directory / "config.json"
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
        kind = table.get("model_type", "gpt2")
        values = {ours: table[theirs] for ours, theirs in _CONFIG_NAMES.items() if table.get(theirs) is not None}
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{directory} is not a checkpoint directory: it has no config.json.") from None
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}.") from error
    if kind == MODERN:
        return _read_modern_config(table, file)
    if kind != "gpt2":
        raise CheckpointError(f"{directory} holds a '{kind}' model; only GPT-2 models can be opened.")
    if missing := {"n_layer", "n_head", "n_embd", "block_size", "vocab_size"} - values.keys():
        raise CheckpointError(f"{file} describes no GPT-2: it has no {_CONFIG_NAMES[min(missing)]}.")
    for name, plain in _PLAIN_GPT2.items():
        if table.get(name, plain[0]) not in plain:
            raise CheckpointError(
                f"{file}: {name} = {table[name]} is not GPT-2's ({plain[0]}), so it cannot be opened."
            )
    try:
        return ModelConfig(**values)
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{file} describes no possible model: {error}") from error


def _read_modern_config(table: dict[str, Any], file: Path) -> ModelConfig:
    fields = {each.name: table[each.name] for each in dataclasses.fields(ModelConfig) if each.name in table}
    try:
        return from_table(ModelConfig, fields | {"arch": "modern"})
    except ConfigError as error:
        raise CheckpointError(f"{file} describes no possible model: {error}") from error


def to_config_json(config: ModelConfig, end_of_text: int | None, dtype: str) -> dict[str, Any]:
    """Return the config.json of a model with weights of this dtype, such as `float32`."""
    if config.arch == "gpt2":
        return to_huggingface_config(config, end_of_text, dtype)
    shape = {name: value for name, value in dataclasses.asdict(config).items() if value is not None}
    return {"model_type": MODERN, "architectures": ["ModernGPT"], "torch_dtype": dtype} | shape


def to_huggingface_config(config: ModelConfig, end_of_text: int | None, dtype: str) -> dict[str, Any]:
    """Return the config.json of a GPT-2 with weights of this dtype, such as `float32`.

    A model without tokenizer has no end of text; that is said, so that transformers does not take its own 50,256.
    """
    table = {theirs: getattr(config, ours) for ours, theirs in _CONFIG_NAMES.items()}
    dropout = {"embd_pdrop": config.dropout, "attn_pdrop": config.dropout}
    special = {"bos_token_id": end_of_text, "eos_token_id": end_of_text}
    kind = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "torch_dtype": dtype,
    }
    return kind | table | dropout | special | {name: plain[0] for name, plain in _PLAIN_GPT2.items()}
