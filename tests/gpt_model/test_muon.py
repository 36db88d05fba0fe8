"""Muon: what an update is, that matrices are computed together as they would be alone, skipping and resuming."""

import math

import pytest
import torch
from torch import Tensor, nn

from gpt_model.muon import Muon
from gpt_model.polar import PolarFactor


def matrix(rows: int, columns: int, seed: int = 0) -> nn.Parameter:
    parameter = nn.Parameter(torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)))
    parameter.grad = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed + 100))
    return parameter


def polar(gradient: Tensor) -> Tensor:
    left, _, right = torch.linalg.svd(gradient, full_matrices=False)
    return left @ right


def with_singular_values(values: Tensor, columns: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator))[0]
    right = torch.linalg.qr(torch.randn(columns, len(values), generator=generator))[0]
    return left @ values.diag() @ right.mT


@pytest.mark.parametrize("columns", [32, 128])
def test_singular_values_from_three_thousandths_up_come_near_one(columns: int) -> None:
    values = torch.logspace(0, math.log10(0.0035), 32)
    both = torch.stack([with_singular_values(values / values.norm(), columns), torch.zeros(32, columns)])
    both[0] *= 1e-4  # gradients are small; only their direction counts
    wanted = polar(both[0])
    PolarFactor(2, 32, columns, torch.device("cpu")).replace(both)
    found = torch.linalg.svdvals(both[0])
    large = values / values.norm() > 0.0031
    assert found[: int(large.sum())].min() > 0.78  # smaller ones come out smaller
    assert found.max() < 1.22
    assert torch.nn.functional.cosine_similarity(both[0].flatten(), wanted.flatten(), dim=0) > 0.97
    assert both[1].eq(0).all()


@pytest.mark.parametrize(("rows", "columns", "scale"), [(16, 16, 1.0), (16, 64, 1.0), (64, 16, 2.0)])
def test_an_update_is_the_polar_factor_scaled_by_the_shape(rows: int, columns: int, scale: float) -> None:
    parameter = matrix(rows, columns)
    before = parameter.detach().clone()
    assert parameter.grad is not None
    wanted = polar(parameter.grad) * scale
    Muon({"h.0.mlp.c_fc.weight": parameter}).step(0.1, 0.95, 0.0)
    update = (before - parameter.detach()) / 0.1
    assert torch.nn.functional.cosine_similarity(update.flatten(), wanted.flatten(), dim=0) > 0.97
    assert update.norm().item() == pytest.approx(wanted.norm().item(), rel=0.15)


def test_weight_decay_is_decoupled() -> None:
    decayed, plain = matrix(8, 8), matrix(8, 8)
    before = plain.detach().clone()
    Muon({"h.0.mlp.c_proj.weight": decayed}).step(0.1, 0.9, 0.5)
    Muon({"h.0.mlp.c_proj.weight": plain}).step(0.1, 0.9, 0.0)
    assert torch.allclose(plain - decayed, before * 0.1 * 0.5, atol=1e-6)


def test_queries_keys_and_values_are_three_matrices() -> None:
    whole = matrix(24, 8)
    parts = {f"h.{i}.attn.c_proj.weight": nn.Parameter(part.clone()) for i, part in enumerate(whole.detach().split(8))}
    assert whole.grad is not None
    for part, gradient in zip(parts.values(), whole.grad.split(8), strict=True):
        part.grad = gradient.clone()
    Muon({"h.0.attn.c_attn.weight": whole}).step(0.1, 0.95, 0.1)
    Muon(parts).step(0.1, 0.95, 0.1)
    assert torch.allclose(whole, torch.cat(list(parts.values())), atol=1e-6)


def test_matrices_of_one_shape_are_updated_as_each_would_be_alone() -> None:
    shapes = {"h.0.mlp.c_fc.weight": (32, 8), "h.0.mlp.c_proj.weight": (8, 32), "h.1.mlp.c_fc.weight": (32, 8)}
    together = {name: matrix(*shape, seed=seed) for seed, (name, shape) in enumerate(shapes.items())}
    alone = {name: matrix(*shape, seed=seed) for seed, (name, shape) in enumerate(shapes.items())}
    one_for_all, one_each = Muon(together), [Muon({name: each}) for name, each in alone.items()]
    for _ in range(3):
        for muon in (one_for_all, *one_each):
            muon.step(0.1, 0.9, 0.1)
    for name in shapes:
        assert torch.allclose(together[name], alone[name], atol=1e-5), name


def test_momentum_is_that_of_nesterov() -> None:
    parameter = matrix(8, 8)
    muon = Muon({"w": parameter})
    first, second = parameter.grad, torch.randn(8, 8, generator=torch.Generator().manual_seed(7))
    assert first is not None
    muon.step(0.0, 0.9, 0.0)
    parameter.grad = second
    before = parameter.detach().clone()
    muon.step(1.0, 0.9, 0.0)
    momentum = 0.9 * (0.1 * first) + 0.1 * second
    wanted = polar(0.1 * second + 0.9 * momentum)
    assert torch.allclose(muon.to_state()["w"], momentum, atol=1e-6)
    assert torch.nn.functional.cosine_similarity((before - parameter).flatten(), wanted.flatten(), dim=0) > 0.97


def test_a_skipped_step_changes_nothing_and_one_that_is_not_skipped_is_the_usual_one() -> None:
    usual, told = matrix(24, 8), matrix(24, 8)
    plain, obeying = Muon({"h.0.attn.c_attn.weight": usual}), Muon({"h.0.attn.c_attn.weight": told})
    for muon in (plain, obeying):
        muon.step(0.1, 0.9, 0.1, None if muon is plain else torch.tensor(0.0))
    assert torch.allclose(usual, told, atol=1e-6)
    before, momentum = told.detach().clone(), obeying.to_state()["h.0.attn.c_attn.weight"].clone()
    assert told.grad is not None
    told.grad[0, 0], told.grad[20, 3] = math.nan, math.inf
    obeying.step(0.1, 0.9, 0.1, torch.tensor(1.0))
    assert torch.equal(told, before)
    assert torch.equal(obeying.to_state()["h.0.attn.c_attn.weight"], momentum)


def test_going_on_from_a_state_gives_the_same_bits() -> None:
    def gradient(step: int) -> Tensor:
        return torch.randn(24, 8, generator=torch.Generator().manual_seed(step))

    straight = matrix(24, 8)
    muon = Muon({"c_attn.weight": straight})
    for step in range(6):
        if step == 3:
            state = {name: momentum.clone() for name, momentum in muon.to_state().items()}
            weights = straight.detach().clone()
        straight.grad = gradient(step)
        muon.step(0.1, 0.9, 0.1)
    resumed = nn.Parameter(weights)
    muon = Muon({"c_attn.weight": resumed})
    muon.restore(state)
    for step in range(3, 6):
        resumed.grad = gradient(step)
        muon.step(0.1, 0.9, 0.1)
    assert torch.equal(straight, resumed)


def test_more_matrices_than_fit_at_once_are_computed_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"h.{i}.mlp.c_fc.weight" for i in range(5)]
    whole = {name: matrix(16, 8, seed) for seed, name in enumerate(names)}
    portions = {name: matrix(16, 8, seed) for seed, name in enumerate(names)}
    Muon(whole).step(0.1, 0.9, 0.1)
    monkeypatch.setattr("gpt_model.muon._STACK_NUMBERS", 300)
    muon = Muon(portions)
    muon.step(0.1, 0.9, 0.1)
    assert list(muon.to_state()) == names
    assert all(torch.allclose(whole[name], portions[name], atol=1e-6) for name in names)
