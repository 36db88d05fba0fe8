"""The compiled cross-entropy of rows: torch's numbers and gradients, at every width, on any threads."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from gpt_model.compiled.cross_entropy import row_losses
from gpt_model.config import ModelConfig, TrainConfig
from gpt_model.cross_entropy import head_loss
from gpt_model.cross_entropy import row_losses as torchs
from gpt_model.model import GPT
from gpt_model.update import Updater


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def drawn(rows: int, width: int, spread: float = 4.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows + width)
    return (
        torch.randn(rows, width, generator=generator) * spread,
        torch.randint(width, (rows,), generator=generator),
    )


@pytest.mark.parametrize("width", [5, 16, 17, 31, 64, 65, 100, 257, 1024, 50_257])
@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_losses_and_gradients_are_those_of_the_formula(width: int, z_loss: float) -> None:
    logits, targets = drawn(9, width)
    exact = logits.double().requires_grad_()
    normaliser = exact.logsumexp(-1)
    right = normaliser - exact[torch.arange(9), targets] + z_loss * normaliser.square()
    (gradient,) = torch.autograd.grad(right.sum(), exact)
    for in_place in (False, True):
        found = logits.clone()
        losses = row_losses(found, targets, z_loss, in_place)
        torch.testing.assert_close(losses.double(), right.detach(), rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(found.double(), gradient, rtol=5e-6, atol=3e-7)


def test_far_apart_logits_have_finite_losses() -> None:
    logits = torch.full((2, 40), -1e4)
    logits[0, 3], logits[1, 39] = 1e4, 500.0
    targets = torch.tensor([7, 39])
    found, right = logits.clone(), logits.clone()
    losses = row_losses(found, targets, 0.0, in_place=True)
    torch.testing.assert_close(losses, torchs(right, targets, 0.0, in_place=True))
    torch.testing.assert_close(found, right)
    assert losses.tolist() == [2e4, 0.0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 16, 39])
def test_what_is_no_number_is_not_hidden(bad: float, place: int) -> None:
    logits, targets = drawn(3, 40)
    logits[1, place] = bad
    losses = row_losses(logits, targets, 0.0, in_place=True)
    assert losses.isfinite().tolist() == [True, False, True]


def test_a_target_beyond_the_columns_is_refused() -> None:
    for target in (-1, 40):
        logits, _ = drawn(2, 40)
        with pytest.raises(IndexError):
            row_losses(logits, torch.tensor([0, target]), 0.0, in_place=True)


def test_logits_with_other_strides_are_torchs() -> None:
    logits, targets = drawn(40, 20)
    right = torchs(logits.t()[:, :17].clone(), targets[:20] % 17, 0.0, in_place=False)
    torch.testing.assert_close(row_losses(logits.t()[:, :17], targets[:20] % 17, 0.0, in_place=False), right)


def test_the_order_of_targets_in_memory_does_not_matter() -> None:
    logits, _ = drawn(4, 40)
    targets = torch.arange(16).view(4, 4)[:, 1]
    right = torchs(logits.clone(), targets, 0.0, in_place=False)
    torch.testing.assert_close(row_losses(logits, targets, 0.0, in_place=False), right)


@pytest.mark.usefixtures("threads")
def test_any_number_of_threads_gives_the_same_bits() -> None:
    logits, targets = drawn(301, 1000)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        gradient = logits.clone()
        found.append((row_losses(gradient, targets, 1e-3, in_place=True), gradient))
    for losses, gradient in found[1:]:
        assert torch.equal(losses, found[0][0])
        assert torch.equal(gradient, found[0][1])


@pytest.mark.parametrize("softcap", [0.0, 3.0])
def test_the_heads_loss_is_the_same_by_it(softcap: float) -> None:
    hidden, targets = drawn(21, 32, spread=1.0)
    hidden.requires_grad_()
    weight = drawn(67, 32, spread=1.0)[0].requires_grad_()
    mine, theirs = (head_loss(hidden, weight, targets, 1e-3, softcap, row_losses=each) for each in (row_losses, torchs))
    torch.testing.assert_close(mine, theirs)
    for one, other in zip(*(torch.autograd.grad(each, (hidden, weight)) for each in (mine, theirs)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_model_in_training_uses_it() -> None:
    gpt = GPT(ModelConfig(n_layer=1, n_head=2, n_embd=32, block_size=8, vocab_size=40))
    assert gpt.row_losses == torchs
    Updater(gpt, TrainConfig(device="cpu"))
    assert gpt.row_losses == row_losses
