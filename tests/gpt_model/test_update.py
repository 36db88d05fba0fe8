"""The Updater: accumulation, memory that runs out, averages, precision, and going on exactly."""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from gpt_model.config import ModelConfig, TrainConfig
from gpt_model.model import GPT
from gpt_model.precision import autocast_dtype
from gpt_model.step_benchmark import random_batch
from gpt_model.update import Updater, is_out_of_memory

MODEL = ModelConfig(n_layer=2, n_head=2, n_embd=16, block_size=8, vocab_size=31)
TRAIN = TrainConfig(batch_size=6, max_steps=20, learning_rate=1e-2, warmup_steps=2, device="cpu")
MakeUpdater = Callable[..., Updater]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So small a model is trained fastest by one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_updater() -> MakeUpdater:
    """Return a maker of Updaters of the same model; settings of the model and the training by name."""

    def make(**settings: Any) -> Updater:
        torch.manual_seed(3)
        dropout = settings.pop("dropout", 0.0)
        return Updater(GPT(dataclasses.replace(MODEL, dropout=dropout)).train(), train_of(settings))

    return make


def train_of(settings: dict[str, Any]) -> TrainConfig:
    return dataclasses.replace(TRAIN, **settings)


def advance(updater: Updater, first: int, last: int, **settings: Any) -> list[float]:
    """Make the updates after `first` up to `last`; return their losses."""
    readings = []
    for step in range(first, last):
        readings += updater.update(random_batch(31, 6, 8, step), step, train_of(settings))
    readings += updater.settle()
    assert [reading.step for reading in readings] == list(range(first + 1, last + 1))
    return [reading.loss for reading in readings]


def weights(updater: Updater) -> list[torch.Tensor]:
    return [each.detach().clone() for each in updater.model.parameters()]


def same(ones: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ones, others, strict=True))


class Memory:
    """Memory that holds so many sequences; a forward pass over more raises an error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, sequences: int, error: Exception) -> None:
        self.asked: list[int] = []
        loss = GPT.loss

        def short_of_memory(model: GPT, ids: torch.Tensor, *rest: Any) -> torch.Tensor:
            self.asked.append(len(ids))
            found = loss(model, ids, *rest)  # random numbers are drawn before the memory is found too small
            if len(ids) > sequences:
                raise error
            return found

        monkeypatch.setattr(GPT, "loss", short_of_memory)


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4, 6, 50])
def test_accumulated_gradients_are_those_of_the_whole_batch(make_updater: MakeUpdater, micro_batch_size: int) -> None:
    whole, parts = make_updater(), make_updater(micro_batch_size=micro_batch_size)
    assert advance(parts, 0, 3) == pytest.approx(advance(whole, 0, 3), rel=1e-5)
    for one, other in zip(weights(parts), weights(whole), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
    ],
)
def test_the_step_is_repeated_in_halves_with_the_same_random_numbers(
    make_updater: MakeUpdater, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    planned = make_updater(micro_batch_size=2, dropout=0.2)
    losses = advance(planned, 0, 3)
    memory = Memory(monkeypatch, 2, error)
    surprised = make_updater(micro_batch_size=5, dropout=0.2)
    assert advance(surprised, 0, 3) == losses
    assert same(weights(surprised), weights(planned))
    assert surprised.micro_batch_size == 2
    assert memory.asked == [5, *[2] * 9]


def test_what_fails_with_a_single_sequence_fails(make_updater: MakeUpdater, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(monkeypatch, 0, MemoryError("none left"))
    updater = make_updater()
    with pytest.raises(MemoryError, match="none left"):
        advance(updater, 0, 1)
    assert memory.asked == [6, 3, 1]
    assert updater.micro_batch_size == 1


def test_other_errors_are_not_taken_for_a_want_of_memory(
    make_updater: MakeUpdater, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(monkeypatch, 0, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        advance(make_updater(), 0, 1)
    assert memory.asked == [6]
    assert not is_out_of_memory(ValueError("can't allocate memory"))


def test_a_real_allocation_that_fails_is_known_as_such() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"dropout": 0.3, "micro_batch_size": 4},
        {"optimizer": "muon", "dropout": 0.3},
        {"ema_decay": 0.9, "dropout": 0.3},
        {"optimizer": "muon", "ema_decay": 0.9, "precision": "bfloat16"},
    ],
    ids=str,
)
def test_going_on_from_a_state_is_exact(make_updater: MakeUpdater, settings: dict[str, Any]) -> None:
    through = make_updater(**settings)
    train = {name: value for name, value in settings.items() if name != "dropout"}
    advance(through, 0, 3, **train)
    with through.shown():
        state, shown = copy.deepcopy(through.to_state()), weights(through)
    losses = advance(through, 3, 6, **train)
    resumed = make_updater(**settings)
    with torch.no_grad():
        for parameter, saved in zip(resumed.model.parameters(), shown, strict=True):
            parameter.copy_(saved)
    torch.manual_seed(99)
    resumed.restore(state)
    assert advance(resumed, 3, 6, **train) == losses
    assert same(weights(resumed), weights(through))
    with resumed.shown(), through.shown():
        assert same(weights(resumed), weights(through))


def test_a_smaller_micro_batch_survives_in_the_state(make_updater: MakeUpdater) -> None:
    updater = make_updater()
    updater.micro_batch_size = 2
    other = make_updater()
    other.restore(copy.deepcopy(updater.to_state()))
    assert other.micro_batch_size == 2


def test_the_state_is_the_same_on_both_sides_of_shown(make_updater: MakeUpdater) -> None:
    updater = make_updater(ema_decay=0.9)
    advance(updater, 0, 3)
    outside = copy.deepcopy(updater.to_state()["averages"])
    with updater.shown():
        inside = copy.deepcopy(updater.to_state()["averages"])
    for kind in ("raw", "averages"):
        assert same(list(inside[kind].values()), list(outside[kind].values()))
    assert not same(list(inside["raw"].values()), list(inside["averages"].values()))


def test_the_averages_are_evaluated_and_training_goes_on_with_the_weights(make_updater: MakeUpdater) -> None:
    updater = make_updater(ema_decay=0.9)
    advance(updater, 0, 4)
    raw, random, batches = weights(updater), torch.get_rng_state(), [random_batch(31, 6, 8, 100)]
    evaluated = updater.evaluate(batches, lambda: False)
    assert same(weights(updater), raw)
    assert torch.equal(torch.get_rng_state(), random)
    with updater.shown():
        assert not same(weights(updater), raw)
        assert updater.evaluate(batches, lambda: False) == evaluated
        with torch.no_grad():
            ids, targets = (torch.from_numpy(part) for part in batches[0])
            assert updater.model.loss(ids, targets).item() == pytest.approx(evaluated, rel=1e-6)
    assert same(weights(updater), raw)
    assert updater.model.training


def test_without_averages_the_weights_themselves_are_shown(make_updater: MakeUpdater) -> None:
    updater = make_updater()
    advance(updater, 0, 2)
    raw = weights(updater)
    with updater.shown():
        assert same(weights(updater), raw)
    assert "averages" not in updater.to_state()


def test_an_evaluation_counts_every_token_once_and_can_be_broken_off(make_updater: MakeUpdater) -> None:
    updater = make_updater()
    large, small = random_batch(31, 6, 8, 1), random_batch(31, 1, 5, 2)
    alone = [updater.evaluate([batch], lambda: False) for batch in (large, small)]
    assert None not in alone
    together = updater.evaluate([large, small], lambda: False)
    assert together == pytest.approx((48 * alone[0] + 5 * alone[1]) / 53, rel=1e-6)  # type: ignore[operator]
    updater.micro_batch_size = 4
    assert updater.evaluate([large, small], lambda: False) == pytest.approx(together, rel=1e-6)
    assert updater.evaluate([large, small], lambda: True) is None
    assert updater.model.training


def test_what_is_not_finite_changes_no_weight_and_is_told(
    make_updater: MakeUpdater, monkeypatch: pytest.MonkeyPatch
) -> None:
    updater, loss = make_updater(), GPT.loss
    advance(updater, 0, 1)
    before = weights(updater)
    monkeypatch.setattr(GPT, "loss", lambda *given: loss(*given) * math.nan)
    (reading,) = updater.update(random_batch(31, 6, 8, 1), 1, TRAIN)
    assert not reading.finite
    assert same(weights(updater), before)
    monkeypatch.undo()
    assert all(math.isfinite(each) for each in advance(updater, 2, 4))


def test_bfloat16_rounds_products_and_keeps_weights_and_optimizers_float32(make_updater: MakeUpdater) -> None:
    exact, low = make_updater(precision="float32"), make_updater(precision="bfloat16")
    assert advance(low, 0, 5) == pytest.approx(losses := advance(exact, 0, 5), rel=0.01)
    assert advance(low, 5, 6) != advance(exact, 5, 6)
    assert losses[0] > 3
    assert {each.dtype for each in low.model.parameters()} == {torch.float32}
    moments = low.to_state()["optimizers"]["adamw"]["state"].values()
    assert {each["exp_avg"].dtype for each in moments} == {torch.float32}


def test_bfloat16_is_chosen_on_gpus_that_can(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    for has_it in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has_it=has_it, **_: has_it)
        assert autocast_dtype("auto", cuda, 16) == (torch.bfloat16 if has_it else None)
        assert autocast_dtype("float32", cuda, 768) is None
        assert autocast_dtype("auto", torch.device("mps"), 768) is None


def test_the_z_loss_is_trained_on_and_not_evaluated(make_updater: MakeUpdater) -> None:
    plain, drawn = make_updater(), make_updater()
    batch = random_batch(31, 6, 8, 0)
    assert plain.evaluate([batch], lambda: False) == drawn.evaluate([batch], lambda: False)
    assert advance(drawn, 0, 1, z_loss=0.1)[0] > advance(plain, 0, 1)[0] + 0.5  # ln 31 squared is 11.8
