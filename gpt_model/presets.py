"""Presets: named starting points of a run. Knows no torch."""

import dataclasses
import types
from collections.abc import Mapping
from dataclasses import dataclass, field

from gpt_model.config import ModelConfig, TrainConfig
from gpt_model.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Preset:
    """A named starting point: a model's shape, a way to train it, and the tokenizer it expects."""

    summary: str
    tokenizer: str
    model: ModelConfig
    train: TrainConfig = field(default_factory=TrainConfig)


_LARGE = TrainConfig(batch_size=16, sequence_length=128, max_steps=100_000, learning_rate=3e-4, beta2=0.95,
                     eval_interval=500, checkpoint_interval=500, sample_interval=500, target_loss=0.099999)  # fmt: skip

_MICRO = ModelConfig(n_layer=4, n_head=4, n_embd=128, block_size=64, vocab_size=257)
_MUON = TrainConfig(optimizer="muon", muon_learning_rate=0.03, learning_rate=8e-3, min_learning_rate=0.0,
                    schedule="linear", warmup_steps=50, zero_init=True, ema_decay=0.98)  # fmt: skip
"""What `benchmarks/shakespeare.py` found for small models: nanoGPT's loss in a third of its time."""

PRESETS: Mapping[str, Preset] = types.MappingProxyType({
    "gpt-micro": Preset(
        "0.8 M, bytes: learns to spell and rhyme in a minute or two on two CPU cores",
        "bytes",
        _MICRO,
        dataclasses.replace(_MUON, batch_size=16, max_steps=1300),
    ),
    "gpt-micro-plain": Preset(
        "gpt-micro as nanoGPT trains it, to compare with",
        "bytes",
        _MICRO,
        TrainConfig(batch_size=12),
    ),
    "gpt-mini": Preset(
        "2.9 M, own vocabulary of 1,024: words and lines in half an hour on two CPU cores",
        "bpe:1024",
        ModelConfig(n_layer=6, n_head=6, n_embd=192, block_size=256, vocab_size=1024, dropout=0.1),
        TrainConfig(batch_size=16, sequence_length=128, max_steps=5000),
    ),
    "gpt-baby": Preset(
        "10.8 M, bytes: nanoGPT's baby, minutes on a GPU, a night on a CPU",
        "bytes",
        ModelConfig(n_layer=6, n_head=6, n_embd=384, block_size=256, vocab_size=257, dropout=0.2),
        TrainConfig(batch_size=64, max_steps=5000),
    ),
    "gpt2": Preset("124 M: GPT-2, for a GPU or for patience", "gpt2", ModelConfig(), _LARGE),
    "gpt2-medium": Preset("355 M", "gpt2", ModelConfig(n_layer=24, n_head=16, n_embd=1024), _LARGE),
    "gpt2-large": Preset("774 M", "gpt2", ModelConfig(n_layer=36, n_head=20, n_embd=1280), _LARGE),
    "gpt2-xl": Preset("1,558 M", "gpt2", ModelConfig(n_layer=48, n_head=25, n_embd=1600), _LARGE),
})  # fmt: skip


def load_preset(name: str) -> Preset:
    """Return the preset of that name.

    Raises:
        ConfigError: there is none; the nearest name is in the message.
    """
    if name not in PRESETS:
        raise ConfigError(f"There is no preset '{name}'.{did_you_mean(name, PRESETS)}")
    return PRESETS[name]
