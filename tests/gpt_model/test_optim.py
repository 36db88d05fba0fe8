"""Optimizer and schedules: who decays, and the learning rate at every step."""

import dataclasses
import math

import pytest
import torch

from gpt_model.config import ModelConfig, TrainConfig
from gpt_model.model import GPT
from gpt_model.optim import apply_settings_at, build_optimizer, clip_gradients, learning_rate_at

COSINE = TrainConfig(learning_rate=1.0, warmup_steps=10, max_steps=110, min_learning_rate=0.1)


def tiny() -> GPT:
    torch.manual_seed(0)
    return GPT(ModelConfig(n_layer=1, n_head=1, n_embd=8, block_size=4, vocab_size=11))


def test_cosine_rises_from_almost_nothing_and_ends_at_the_minimum() -> None:
    assert learning_rate_at(0, COSINE) == pytest.approx(1 / 11)
    assert learning_rate_at(9, COSINE) == pytest.approx(10 / 11)
    assert learning_rate_at(10, COSINE) == 1.0
    assert learning_rate_at(35, COSINE) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.sqrt(0.5)))
    assert learning_rate_at(60, COSINE) == pytest.approx(0.55)
    assert learning_rate_at(110, COSINE) == pytest.approx(0.1)
    assert learning_rate_at(10_000, COSINE) == pytest.approx(0.1)


def test_wsd_is_stable_and_then_falls_in_a_line() -> None:
    wsd = dataclasses.replace(COSINE, schedule="wsd", decay_fraction=0.2, max_steps=100)
    assert {learning_rate_at(step, wsd) for step in range(10, 81)} == {1.0}
    assert learning_rate_at(90, wsd) == pytest.approx(0.55)
    assert learning_rate_at(100, wsd) == pytest.approx(0.1)
    assert learning_rate_at(200, wsd) == pytest.approx(0.1)


def test_constant_stays_and_the_minimum_is_a_tenth_by_default() -> None:
    constant = dataclasses.replace(COSINE, schedule="constant")
    assert {learning_rate_at(step, constant) for step in (10, 60, 500)} == {1.0}
    default = dataclasses.replace(COSINE, learning_rate=0.5, min_learning_rate=None)
    assert learning_rate_at(default.max_steps, default) == pytest.approx(0.05)


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant"])
def test_a_run_shorter_than_its_warm_up_still_has_learning_rates(schedule: str) -> None:
    short = dataclasses.replace(COSINE, schedule=schedule, max_steps=5)  # type: ignore[arg-type]
    rates = [learning_rate_at(step, short) for step in range(12)]
    assert rates[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert all(0 < rate <= 1 for rate in rates)


def test_only_matrices_decay_and_every_parameter_is_there_once() -> None:
    model = tiny()
    optimizer = build_optimizer(model, TrainConfig(weight_decay=0.3))
    matrices, vectors = optimizer.param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.3, 0.0)
    assert {parameter.dim() for parameter in matrices["params"]} == {2}
    assert {parameter.dim() for parameter in vectors["params"]} == {1}
    listed = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert listed == {id(parameter) for parameter in model.parameters()}


def test_settings_reach_the_optimizer() -> None:
    optimizer = build_optimizer(tiny(), COSINE)
    changed = dataclasses.replace(COSINE, learning_rate=2.0, weight_decay=0.7, schedule="constant")
    assert apply_settings_at(optimizer, changed, 50) == 2.0
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(2.0, 0.7), (2.0, 0.0)]


def test_clipping_returns_the_norm_before_it_and_zero_leaves_the_gradient() -> None:
    model = tiny()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    norm = math.sqrt(model.config.parameter_count)
    assert clip_gradients(model, 0.0).item() == pytest.approx(norm)
    assert model.ln_f.bias.grad is not None
    assert model.ln_f.bias.grad.eq(1).all()
    assert clip_gradients(model, 1.0).item() == pytest.approx(norm)
    assert model.ln_f.bias.grad.tolist() == pytest.approx([1 / norm] * 8, rel=1e-4)
