"""The compiled attention of training: the formula's numbers and gradients, with dropout too, on any threads."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gpt_model.compiled import training_attention
from gpt_model.compiled.cpu import LANES
from gpt_model.compiled.training_attention import linear_attend
from gpt_model.config import ModelConfig
from gpt_model.lora import AdaptedLinear, adapt
from gpt_model.model import GPT, Linear
from gpt_model.model import linear_attend as torchs

SEED = 2**61 + 12345


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def one_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_attention, "draw_seed", lambda: SEED)


def drawn(B: int, T: int, H: int, D: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values together, their bias, and the gradient of what is mixed."""
    generator = torch.Generator().manual_seed(B * T + H * D)
    product = torch.randn(B, T, 3 * H * D, generator=generator).to(dtype)
    return product, torch.randn(3 * H * D, generator=generator), torch.randn(B, T, H * D, generator=generator).to(dtype)


def computed(
    product: Tensor, bias: Tensor, gradient: Tensor, n_head: int, dropout: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what ours mixes, and the gradients of product and bias."""
    product, width = product.clone().requires_grad_(), product.shape[-1]
    layer = Linear(width, width)
    layer.weight = nn.Parameter(torch.eye(width, dtype=product.dtype), requires_grad=False)
    layer.bias = nn.Parameter(bias.clone())
    mixed = linear_attend(layer, product, n_head, dropout)
    return (mixed.detach(), *torch.autograd.grad(mixed, (product, layer.bias), gradient))


def exact(
    product: Tensor, bias: Tensor, gradient: Tensor, n_head: int, keeps: Tensor | float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same by the formula; `keeps` (B, H, T, T) is what dropout multiplies the weights by."""
    product, bias = product.double().requires_grad_(), bias.double().requires_grad_()
    B, T, width = product.shape
    size = width // (3 * n_head)
    query, key, value = (product + bias).view(B, T, 3, n_head, size).permute(2, 0, 3, 1, 4)
    future = torch.full((T, T), -math.inf, dtype=torch.float64).triu(1)
    weights = torch.softmax(query @ key.mT / math.sqrt(size) + future, -1) * keeps
    mixed = (weights @ value).transpose(1, 2).reshape(B, T, n_head * size)
    return (mixed.detach(), *torch.autograd.grad(mixed, (product, bias), gradient.double()))


def keeps(B: int, T: int, H: int, dropout: float) -> Tensor:
    """Return what the kernel's documentation says that dropout multiplies the weights by."""
    with np.errstate(over="ignore"):
        z = np.uint64(SEED) + (np.arange(B * H * T, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        key = ((z ^ (z >> np.uint64(31))) >> np.uint64(32)).astype(np.uint32)
        bits = np.arange(T, dtype=np.uint32) * np.uint32(0x9E3779B9) + key[:, None]
        bits = (bits ^ (bits >> np.uint32(16))) * np.uint32(0x7FEB352D)
        bits = (bits ^ (bits >> np.uint32(15))) * np.uint32(0x846CA68B)
        bits ^= bits >> np.uint32(16)
    kept = torch.from_numpy(bits >= round(dropout * 2**32))
    return kept.view(B, H, T, T) / (1 - dropout)


SHAPES = [(2, 5, 3, 16), (1, 1, 2, 32), (3, 33, 2, 48), (2, 64, 4, 32), (1, 200, 2, 64), (2, 17, 1, 128)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 3e-6), (torch.bfloat16, 2**-7)])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_it_and_its_gradients_are_those_of_the_formula(
    shape: tuple[int, int, int, int], dtype: torch.dtype, error: float, dropout: float, one_seed: None
) -> None:
    B, T, H, _ = shape
    product, bias, gradient = drawn(*shape, dtype)
    ours = computed(product, bias, gradient, H, dropout)
    assert [each.dtype for each in ours] == [dtype, dtype, torch.float32]
    theirs = exact(product, bias, gradient, H, keeps(B, T, H, dropout) if dropout else 1.0)
    for mine, right in zip(ours, theirs, strict=True):
        # the bias of keys has no gradient at all: what is left of it is rounding
        torch.testing.assert_close(mine.double(), right, rtol=error, atol=error * float(right.abs().max()))


def test_long_sequences_and_large_scores_stay_exact() -> None:
    product, bias, gradient = drawn(1, 1000, 1, 32)
    product[:, :, :64] *= 12  # scores of hundreds: most of a row's weights are zero
    for mine, right in zip(computed(product, bias, gradient, 1), exact(product, bias, gradient, 1), strict=True):
        torch.testing.assert_close(mine.double(), right, rtol=2e-4, atol=2e-4 * float(right.abs().max()))


@pytest.mark.parametrize("shape", [(2, 4, 2, 3), (1, 5, 3, LANES + 1)])
def test_other_widths_are_torchs(shape: tuple[int, int, int, int]) -> None:
    arguments = drawn(*shape)
    for ours, theirs in zip(computed(*arguments, shape[2]), exact(*arguments, shape[2]), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)


def test_what_is_no_number_stays_none() -> None:
    for place in (0, 20, 40):  # in the queries, the keys, the values of the first head
        product, bias, gradient = drawn(1, 20, 1, 16)
        product[0, 3, place] = math.nan
        mixed, of_product, _ = computed(product, bias, gradient, 1)
        assert mixed[0, 3].isnan().any()
        assert of_product.isnan().any()


def test_every_number_of_threads_gives_the_same_bits(threads: None, one_seed: None) -> None:
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(computed(*drawn(5, 70, 3, 32), 3, 0.2))
    for others in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], others, strict=True))


def test_dropout_draws_by_torchs_generator() -> None:
    arguments = drawn(2, 40, 2, 16)
    texts = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        texts.append([computed(*arguments, 2, 0.5)[0] for _ in range(2)])
    assert all(torch.equal(one, other) for one, other in zip(texts[0], texts[1], strict=True))
    assert not torch.equal(texts[0][0], texts[0][1])
    assert not torch.equal(texts[0][0], texts[2][0])


@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.5, 0.9])
def test_dropout_keeps_its_share(dropout: float) -> None:
    product, bias, gradient = drawn(8, 256, 4, 16)
    product[..., :128] = 0.0  # all weights of a row alike, all values 1: a row's output is what is kept of it
    product[..., 128:] = 1.0
    mixed = computed(product, torch.zeros_like(bias), gradient, 4, dropout)[0].double()
    n = 8 * 4 * 256 * 257 / 2
    share = mixed[..., ::16] * torch.arange(1, 257)[:, None] * (1 - dropout)  # weights kept of each row
    assert abs(float(share.sum()) - n * (1 - dropout)) <= 5 * math.sqrt(n * dropout * (1 - dropout)) + 1e-3 * n**0.5


@pytest.mark.parametrize("low", [False, True])
def test_a_layer_with_and_without_adapters_gives_what_torchs_gives(low: bool) -> None:
    model = GPT(ModelConfig(n_layer=1, n_head=2, n_embd=32, block_size=8, vocab_size=11))
    adapt(model, 2, 4.0)
    plain, adapted = Linear(32, 96), next(each for each in model.modules() if isinstance(each, AdaptedLinear))
    nn.init.normal_(adapted.lora_b)
    hidden = torch.randn(3, 5, 32)
    for layer in (plain, adapted, Linear(32, 96, bias=False)):
        layer.requires_grad_(True)
        gradients = []
        for function in (linear_attend, torchs):
            layer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                result = function(layer, hidden, 2, 0.0)
            result.float().square().sum().backward()
            gradients.append([result.detach().float()] + [each.grad for each in layer.parameters()])
        for ours, theirs in zip(*gradients, strict=True):
            error = 0.05 if low else 1e-4
            torch.testing.assert_close(ours, theirs, rtol=error, atol=error * float(theirs.abs().max()))
