"""Optimizer and schedules: who decays, and the learning rate at every step."""

import dataclasses
import math
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from gpt_model.config import ModelConfig, TrainConfig
from gpt_model.initialisation import zero_residual_projections
from gpt_model.lora import adapt
from gpt_model.model import GPT
from gpt_model.optim import Optimizer, clip_gradients
from gpt_model.schedule import learning_rate_at

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


def test_linear_falls_in_a_line_from_the_warm_up_to_the_end() -> None:
    linear = dataclasses.replace(COSINE, schedule="linear")
    rates = [learning_rate_at(step, linear) for step in (9, 10, 60, 110, 500)]
    assert rates == pytest.approx([10 / 11, 1.0, 0.55, 0.1, 0.1])


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd", "constant"])
def test_a_run_shorter_than_its_warm_up_still_has_learning_rates(schedule: str) -> None:
    short = dataclasses.replace(COSINE, schedule=schedule, max_steps=5)  # type: ignore[arg-type]
    rates = [learning_rate_at(step, short) for step in range(12)]
    assert rates[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert all(0 < rate <= 1 for rate in rates)


def step_with(model: GPT, train: TrainConfig, gradient: float, at: int = 10, skip: Tensor | None = None) -> None:
    optimizer = Optimizer(model, train)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    optimizer.apply(train, at)
    optimizer.step(skip)


def snapshot(model: GPT) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_matrices_decay_and_vectors_do_not(optimizer: Literal["adamw", "muon"]) -> None:
    model, train = tiny(), dataclasses.replace(COSINE, optimizer=optimizer, weight_decay=0.3, muon_learning_rate=0.5)
    for parameter in model.parameters():
        torch.nn.init.ones_(parameter)
    step_with(model, train, gradient=0.0)
    for name, parameter in model.named_parameters():
        is_muons = optimizer == "muon" and name.startswith("h.") and parameter.dim() == 2
        left = 1 - 0.3 * (0.5 if is_muons else 1.0) if parameter.dim() == 2 else 1.0
        assert parameter.detach().flatten().tolist() == pytest.approx([left] * parameter.numel()), name


def test_muon_has_the_matrices_of_the_blocks_and_adamw_the_others() -> None:
    model, before = tiny(), snapshot(tiny())
    train = dataclasses.replace(COSINE, optimizer="muon", weight_decay=0.0, muon_learning_rate=1e-9)
    step_with(model, train, gradient=1.0)
    moved = {name for name, each in model.named_parameters() if not torch.allclose(each, before[name], atol=1e-6)}
    assert moved == {
        name for name in before if not (name.startswith("h.") and name.endswith("weight") and "ln" not in name)
    }


def test_adapters_are_adamws_and_frozen_weights_stay() -> None:
    model = tiny()
    adapt(model, 2, 4.0)
    before = snapshot(model)
    step_with(model, dataclasses.replace(COSINE, optimizer="muon"), gradient=1.0)
    moved = {name for name, each in model.named_parameters() if not torch.equal(each, before[name])}
    assert moved == {name for name in before if name.endswith(("lora_a", "lora_b"))}


def test_both_learning_rates_follow_the_schedule() -> None:
    train = dataclasses.replace(COSINE, optimizer="muon", weight_decay=0.0, muon_learning_rate=0.02, learning_rate=0.5)
    steps = {}
    for at in (10, 60):
        model, before = tiny(), snapshot(tiny())
        step_with(model, train, gradient=1.0, at=at)
        steps[at] = {name: (each.detach() - before[name]).norm() for name, each in model.named_parameters()}
    share = learning_rate_at(60, train) / learning_rate_at(10, train)
    assert share == pytest.approx(0.6)
    for name in steps[10]:
        assert steps[60][name].item() == pytest.approx(share * steps[10][name].item(), rel=1e-3), name


def test_what_is_changed_during_a_run_reaches_the_optimizer() -> None:
    model = tiny()
    optimizer = Optimizer(model, COSINE)
    changed = dataclasses.replace(COSINE, learning_rate=2.0, weight_decay=0.25, schedule="constant")
    assert optimizer.apply(changed, 50) == 2.0
    torch.nn.init.ones_(model.wte.weight)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert model.wte.weight.eq(0.5).all()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_step_that_is_to_be_skipped_changes_nothing(optimizer: Literal["adamw", "muon"]) -> None:
    model, before = tiny(), snapshot(tiny())
    train = dataclasses.replace(COSINE, optimizer=optimizer)
    step_with(model, train, gradient=math.nan, skip=torch.tensor(1.0))
    assert all(torch.equal(each, before[name]) for name, each in model.named_parameters())
    step_with(model, train, gradient=1.0, skip=torch.tensor(0.0))
    assert all(not torch.equal(each, before[name]) for name, each in model.named_parameters())


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_going_on_from_a_state_gives_the_same_bits(optimizer: Literal["adamw", "muon"], tmp_path: Path) -> None:
    train = dataclasses.replace(COSINE, optimizer=optimizer)
    ids = torch.arange(8).view(2, 4)

    def train_on(model: GPT, optimizers: Optimizer, steps: range) -> None:
        for step in steps:
            model.loss(ids, ids.roll(step, dims=1)).backward()  # type: ignore[no-untyped-call]
            optimizers.apply(train, step)
            optimizers.step()
            optimizers.zero_grad()

    straight = tiny()
    optimizers = Optimizer(straight, train)
    train_on(straight, optimizers, range(3))
    torch.save({"weights": straight.state_dict(), "optimizers": optimizers.to_state()}, tmp_path / "state")
    train_on(straight, optimizers, range(3, 6))
    saved = torch.load(tmp_path / "state", weights_only=True)
    resumed = tiny()
    resumed.load_state_dict(saved["weights"])
    optimizers = Optimizer(resumed, train)
    optimizers.restore(saved["optimizers"])
    train_on(resumed, optimizers, range(3, 6))
    assert all(torch.equal(*pair) for pair in zip(straight.parameters(), resumed.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in resumed.parameters())


def test_zeroed_projections_leave_every_block_the_identity() -> None:
    model = tiny()
    zero_residual_projections(model)
    ids = torch.arange(4)[None]
    embedded = model.wte(ids) + model.wpe(torch.arange(4))
    assert torch.equal(model.h[0](embedded, 0, None), embedded)
    assert torch.equal(model.h[0].attn.c_attn.weight, tiny().h[0].attn.c_attn.weight)


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
