"""A GPT-2: configuration, tokenizer, model, checkpoints, generation, data, training and the run directory.

Knows no screen, no click and no Textual. Importing this package imports no torch: the names below are loaded when
they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt_model.checkpoint import load_checkpoint as load_checkpoint
    from gpt_model.checkpoint import save_checkpoint as save_checkpoint
    from gpt_model.config import ModelConfig as ModelConfig
    from gpt_model.config import TrainConfig as TrainConfig
    from gpt_model.errors import GptError as GptError
    from gpt_model.generation import Engine as Engine
    from gpt_model.generation import Request as Request
    from gpt_model.model import GPT as GPT
    from gpt_model.tokenizer import Tokenizer as Tokenizer

_HOME = {
    "load_checkpoint": "checkpoint",
    "save_checkpoint": "checkpoint",
    "ModelConfig": "config",
    "TrainConfig": "config",
    "GptError": "errors",
    "Engine": "generation",
    "Request": "generation",
    "GPT": "model",
    "Tokenizer": "tokenizer",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'gpt_model' has no attribute '{name}'")
    return getattr(importlib.import_module(f"gpt_model.{_HOME[name]}"), name)
