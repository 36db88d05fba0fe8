"""A GPT-2's config.json: Hugging Face's names for ours, and what makes a model another one. Knows no torch."""

import json
from pathlib import Path
from typing import Any

from gpt_model.config import ModelConfig
from gpt_model.errors import CheckpointError, ConfigError

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
        CheckpointError: there is none, it is damaged, or it describes something that is not a plain GPT-2.
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


def to_huggingface_config(config: ModelConfig, end_of_text: int | None, dtype: str) -> dict[str, Any]:
    """Return the config.json of a model with weights of this dtype, such as `float32`.

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
