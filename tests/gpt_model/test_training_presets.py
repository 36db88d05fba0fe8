"""Presets: what they promise beside the shape of a model."""

from gpt_model.config import ModelConfig, TrainConfig
from gpt_model.presets import load_preset


def test_the_plain_preset_is_the_same_model_by_nanogpts_recipe() -> None:
    plain = load_preset("gpt-micro-plain")
    assert plain.model == load_preset("gpt-micro").model == ModelConfig(4, 4, 128, 64, 257)
    assert plain.train == TrainConfig(
        batch_size=12, max_steps=2000, optimizer="adamw", learning_rate=1e-3, schedule="cosine", warmup_steps=100,
        beta1=0.9, beta2=0.99, weight_decay=0.1, grad_clip=1.0, zero_init=False, ema_decay=0.0,
    )  # fmt: skip


def test_gpt2_is_trained_with_adamw_on_sixteen_times_128_tokens() -> None:
    for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"):
        train = load_preset(name).train
        assert (train.optimizer, train.batch_size, train.sequence_length) == ("adamw", 16, 128), name
