"""The compiled GELU of training: torch's numbers and gradients, at every size, in both precisions, on any threads."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt_model.compiled.cpu import LANES
from gpt_model.compiled.gelu import linear_gelu
from gpt_model.config import ModelConfig
from gpt_model.lora import AdaptedLinear, adapt
from gpt_model.model import GPT, Linear
from gpt_model.model import linear_gelu as torchs


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def computed(product: Tensor, bias: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return our GELU of a product and its bias, and the gradients of both."""
    product, width = product.clone().requires_grad_(), product.shape[-1]
    layer = Linear(width, width)
    layer.weight = nn.Parameter(torch.eye(width, dtype=product.dtype), requires_grad=False)
    layer.bias = nn.Parameter(bias.clone())
    result = linear_gelu(layer, product)
    return (result.detach(), *torch.autograd.grad(result, (product, layer.bias), gradient))


def exact(product: Tensor, bias: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    product, bias = product.double().requires_grad_(), bias.detach().double().requires_grad_()
    result = F.gelu(product + bias, approximate="tanh")
    return (result.detach(), *torch.autograd.grad(result, (product, bias), gradient.double()))


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(sum(shape))
    product = (torch.randn(shape, generator=generator) * 4).to(dtype)
    bias = torch.randn(shape[-1], generator=generator)
    return product, bias, torch.randn(shape, generator=generator).to(dtype)


@pytest.mark.parametrize("shape", [(1, 16), (3, 48), (2, 5, 64), (1000, 32), (3, 341, 48), (2, 2048), (33, 512)])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 2e-6), (torch.bfloat16, 2**-8)])
def test_it_and_its_gradients_are_those_of_the_formula(
    shape: tuple[int, ...], dtype: torch.dtype, error: float
) -> None:
    arguments = drawn(*shape, dtype=dtype)
    rows = arguments[0].numel() // shape[-1]
    result, of_product, of_bias = computed(*arguments)
    exact_result, exact_of_product, exact_of_bias = exact(*arguments)
    assert (result.dtype, of_product.dtype, of_bias.dtype) == (dtype, dtype, torch.float32)
    torch.testing.assert_close(result.double(), exact_result, rtol=error, atol=error)
    torch.testing.assert_close(of_product.double(), exact_of_product, rtol=error, atol=error)
    torch.testing.assert_close(of_bias.double(), exact_of_bias, rtol=1e-5, atol=2e-6 * rows**0.5)


@pytest.mark.parametrize("shape", [(2, 3), (5, LANES + 1), (0, 16)])
def test_other_shapes_are_torchs(shape: tuple[int, int]) -> None:
    for ours, theirs in zip(computed(*drawn(*shape)), exact(*drawn(*shape)), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)


def test_far_from_zero_it_is_a_ramp_and_what_is_no_number_stays_none() -> None:
    numbers = torch.tensor([[-1e30, -1e4, -30.0, 0.0, 30.0, 1e4, 1e18, 1e30] * 2])
    result, of_product, _ = computed(numbers, torch.zeros(16), torch.ones(1, 16))
    torch.testing.assert_close(result, numbers.clamp(min=0), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(of_product[0, :8], torch.tensor([0, 0, 0, 0.5, 1, 1, 1, 1]), rtol=0, atol=1e-30)
    for each in computed(torch.full((1, 16), float("nan")), torch.zeros(16), torch.ones(1, 16)):
        assert each.isnan().all()


def test_every_number_of_threads_gives_the_same_bits(threads: None) -> None:
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(computed(*drawn(2001, 64)))
    for others in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(results[0], others, strict=True))


@pytest.mark.parametrize("low", [False, True])
def test_a_layer_with_and_without_adapters_gives_what_torchs_gives(low: bool) -> None:
    model = GPT(ModelConfig(n_layer=1, n_head=2, n_embd=16, block_size=8, vocab_size=11))
    adapt(model, 2, 4.0)
    plain, adapted = Linear(16, 64), next(each for each in model.modules() if isinstance(each, AdaptedLinear))
    nn.init.normal_(adapted.lora_b)
    hidden = torch.randn(3, 5, 16)
    for layer in (plain, adapted, Linear(16, 64, bias=False)):
        layer.requires_grad_(True)
        gradients = []
        for function in (linear_gelu, torchs):
            layer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                result = function(layer, hidden)
            result.float().square().sum().backward()
            gradients.append([result.detach().float()] + [each.grad for each in layer.parameters()])
        for ours, theirs in zip(*gradients, strict=True):
            error = 0.03 if low else 1e-5
            torch.testing.assert_close(ours, theirs, rtol=error, atol=error * float(theirs.abs().max()))
