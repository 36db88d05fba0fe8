"""Tiny models and checkpoints that every test of this storey can share."""

import pytest
import torch

from gpt_model.config import ModelConfig
from gpt_model.model import GPT
from gpt_model.tokenizer import Tokenizer, build_tokenizer


@pytest.fixture(scope="session")
def byte_tokenizer() -> Tokenizer:
    return build_tokenizer("bytes")


@pytest.fixture(scope="session")
def tiny_model() -> GPT:
    """A model that fits in a glance: 2 layers, 2 heads, width 16, 24 positions, bytes."""
    torch.manual_seed(3)
    model = GPT(ModelConfig(n_layer=2, n_head=2, n_embd=16, block_size=24, vocab_size=257))
    with torch.no_grad():
        for parameter in model.parameters():  # far from uniform, so that greedy texts do not repeat one byte
            parameter.mul_(8 if parameter.ndim > 1 else 1)
    return model.eval().requires_grad_(False)
