"""Averaged weights: what they are, that they come and go without a trace, and going on from a state."""

import pytest
import torch
from torch import nn

from gpt_model.averaging import AveragedWeights


def model() -> nn.Linear:
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    return set_to(layer, 0.0)


def set_to(layer: nn.Linear, value: float) -> nn.Linear:
    with torch.no_grad():
        layer.weight.fill_(value)
        layer.bias.fill_(value)
    return layer


def averaged_weight(layer: nn.Linear, averages: AveragedWeights) -> float:
    with averages.in_model():
        return layer.weight[0, 0].item()


def test_the_average_forgets_the_beginning_soon_and_then_decays_as_told() -> None:
    layer = model()
    averages = AveragedWeights(layer, 0.5)
    wanted = 0.0
    for update in range(1, 15):
        set_to(layer, float(update))
        averages.after_update()
        decay = min(0.5, update / (update + 9))
        wanted = decay * wanted + (1 - decay) * update
        assert averaged_weight(layer, averages) == pytest.approx(wanted, rel=1e-6)
    assert wanted == pytest.approx(13.0, abs=0.1)  # 14 - 1/2 - 1/4 - …


def test_frozen_weights_are_left_alone() -> None:
    layer = model()
    averages = AveragedWeights(layer, 0.9)
    set_to(layer, 3.0)
    with averages.in_model():
        assert layer.bias.eq(3.0).all()
        assert layer.weight.eq(0.0).all()


def test_the_weights_in_training_come_back_to_the_bit_and_the_same_tensors_stay() -> None:
    layer = model()
    averages = AveragedWeights(layer, 0.9)
    with torch.no_grad():
        layer.weight.normal_()
    averages.after_update()
    raw, address = layer.weight.detach().clone(), layer.weight.data_ptr()
    inside = []
    for _ in range(2):
        with averages.in_model():
            inside.append(layer.weight.detach().clone())
            assert layer.weight.data_ptr() == address
        assert torch.equal(layer.weight, raw)
    assert torch.equal(*inside)
    assert not torch.equal(inside[0], raw)


def test_the_weights_in_training_come_back_after_an_error() -> None:
    layer = model()
    averages = AveragedWeights(layer, 0.9)
    set_to(layer, 5.0)
    seen = []

    def fail() -> None:
        with averages.in_model():
            seen.append(layer.weight[0, 0].item())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert seen == [0.0]
    assert layer.weight.eq(5.0).all()


def test_a_state_brings_back_averages_and_weights_whatever_was_loaded_into_the_model() -> None:
    layer = model()
    averages = AveragedWeights(layer, 0.9)
    for value in (1.0, 4.0):
        set_to(layer, value)
        averages.after_update()
    state = averages.to_state()
    loaded = set_to(nn.Linear(2, 2), averaged_weight(layer, averages))  # a checkpoint is of the averages
    loaded.bias.requires_grad_(False)
    resumed = AveragedWeights(loaded, 0.9)
    resumed.restore(state)
    for _ in range(3):
        assert torch.equal(layer.weight, loaded.weight)
        assert averaged_weight(layer, averages) == averaged_weight(loaded, resumed)
        for each, its in ((layer, averages), (loaded, resumed)):
            set_to(each, each.weight[0, 0].item() + 1.0)
            its.after_update()
