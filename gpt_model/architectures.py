"""build_model: from a configuration to the model it describes, of whichever architecture."""

from gpt_model.config import ModelConfig
from gpt_model.model import GPT
from gpt_model.modern import ModernGPT


def build_model(config: ModelConfig) -> GPT:
    """Return a model with fresh weights from torch's global generator, on torch's present device."""
    return ModernGPT(config) if config.arch == "modern" else GPT(config)
