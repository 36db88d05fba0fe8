"""The head's loss in chunks, against torch's own cross-entropy on all logits at once."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gpt_model import cross_entropy
from gpt_model.config import ModelConfig
from gpt_model.cross_entropy import head_loss
from gpt_model.model import GPT

ROWS, WIDTH, VOCABULARY = 23, 12, 40
Case = tuple[Tensor, Tensor, Tensor]
MakeCase = Callable[[], Case]


@pytest.fixture
def make_case() -> MakeCase:
    """Return a maker of a hidden (N, C), a weight (V, C) and targets (N,): the same numbers each time."""

    def make() -> Case:
        generator = torch.Generator().manual_seed(5)
        hidden = torch.randn(ROWS, WIDTH, generator=generator).requires_grad_()
        weight = torch.randn(VOCABULARY, WIDTH, generator=generator).requires_grad_()
        return hidden, weight, torch.randint(VOCABULARY, (ROWS,), generator=generator)

    return make


@pytest.fixture(params=[2**24, 7 * VOCABULARY, 1], ids=["one chunk", "uneven chunks", "a row at a time"])
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_LOGITS", "_LOW_LOGITS"):
        monkeypatch.setattr(cross_entropy, name, request.param)
    monkeypatch.setattr(cross_entropy, "_SLICE", max(request.param // 3, 1))


def reference(hidden: Tensor, weight: Tensor, targets: Tensor, z_loss: float = 0.0, softcap: float = 0.0) -> Tensor:
    logits = hidden @ weight.T
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    return F.cross_entropy(logits, targets) + z_loss * logits.logsumexp(-1).square().mean()


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize(("z_loss", "softcap"), [(0.0, 0.0), (1e-2, 0.0), (0.0, 3.0), (1e-2, 3.0)])
def test_loss_and_gradients_are_those_of_all_logits_at_once(make_case: MakeCase, z_loss: float, softcap: float) -> None:
    hidden, weight, targets = make_case()
    loss = head_loss(hidden, weight, targets, z_loss, softcap)
    loss.backward()
    exact_hidden, exact_weight = (each.detach().double().requires_grad_() for each in (hidden, weight))
    exact = reference(exact_hidden, exact_weight, targets, z_loss, softcap)
    exact.backward()
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)
    torch.testing.assert_close(hidden.grad, exact_hidden.grad.float(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(weight.grad, exact_weight.grad.float(), rtol=1e-5, atol=1e-7)


def test_a_hopeless_target_has_a_finite_loss() -> None:
    hidden = torch.full((1, 1), 200.0, requires_grad=True)
    loss = head_loss(hidden, torch.tensor([[1.0], [-1.0]]), torch.tensor([1]))
    loss.backward()
    assert loss.item() == 400.0  # its probability is 0 in float32
    assert hidden.grad is not None
    assert hidden.grad.item() == pytest.approx(2.0)


def test_an_incoming_gradient_scales_both(make_case: MakeCase) -> None:
    plain, scaled = make_case(), make_case()
    head_loss(*plain).backward()
    (head_loss(*scaled) * -2.5).backward()
    for one, other in zip(plain[:2], scaled[:2], strict=True):
        torch.testing.assert_close(other.grad, -2.5 * one.grad)


def test_what_is_frozen_gets_no_gradient_and_the_other_the_same(make_case: MakeCase) -> None:
    both = make_case()
    head_loss(*both).backward()
    for frozen in (0, 1):
        case = make_case()
        case[frozen].requires_grad_(False)
        head_loss(*case).backward()
        assert case[frozen].grad is None
        assert torch.equal(case[1 - frozen].grad, both[1 - frozen].grad)


def test_without_gradients_the_loss_is_the_same_and_holds_nothing(make_case: MakeCase) -> None:
    case = make_case()
    with torch.no_grad():
        loss = head_loss(*case)
    assert not loss.requires_grad
    assert loss.item() == head_loss(*case).item()


def test_a_second_backward_is_refused(make_case: MakeCase) -> None:
    loss = head_loss(*make_case()) * 2
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_only_the_products_are_rounded(make_case: MakeCase, dtype: torch.dtype) -> None:
    hidden, weight, targets = make_case()
    with torch.autocast("cpu", dtype=dtype):
        loss = head_loss(hidden, weight, targets, 1e-2)
    loss.backward()
    low_hidden, low_weight = (each.detach().to(dtype) for each in (hidden, weight))
    wide_hidden, wide_weight = (each.float().requires_grad_() for each in (low_hidden, low_weight))
    logits = (low_hidden @ low_weight.T).float() + 0 * (wide_hidden @ wide_weight.T)
    exact = F.cross_entropy(logits, targets) + 1e-2 * logits.logsumexp(-1).square().mean()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)
    unrounded = make_case()
    reference(*unrounded, 1e-2).backward()
    for one, other in zip((hidden, weight), unrounded[:2], strict=True):
        assert one.grad is not None
        assert one.grad.dtype == torch.float32
        assert (one.grad - other.grad).norm() < 0.02 * other.grad.norm()


def test_the_tied_model_gets_the_gradient_of_both_its_uses() -> None:
    torch.manual_seed(0)
    model = GPT(ModelConfig(1, 2, 8, block_size=6, vocab_size=11))
    ids, targets = torch.randint(11, (2, 3, 6)).unbind()
    model.loss(ids, targets).backward()
    ours = {name: each.grad.clone() for name, each in model.named_parameters()}
    model.zero_grad()
    F.cross_entropy(model(ids).flatten(0, 1), targets.flatten()).backward()
    for name, each in model.named_parameters():
        torch.testing.assert_close(ours[name], each.grad, rtol=1e-5, atol=1e-7)
