"""Compiled products are torch's own to rounding, forth and back, and are used where they are the faster ones."""

from collections.abc import Iterator
from pathlib import Path

import platformdirs
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gpt_model import kernels, precision
from gpt_model import product_rates as rates
from gpt_model.compiled.training_products import CompiledProducts
from gpt_model.config import ModelConfig
from gpt_model.cross_entropy import head_loss
from gpt_model.kernels import choose_products, uses_compiled_products
from gpt_model.model import GPT, Linear
from gpt_model.precision import autocast_dtype
from gpt_model.product_rates import ProductRates, product_rates, ways_to_square
from gpt_model.products import HeadProducts, Products

COMPILED = CompiledProducts()


@pytest.fixture(params=[True, False])
def faster(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """The compiled ones are, or are not, the faster ones."""
    measured = ProductRates(torch=1.0, compiled=2.0 if request.param else 1.05, bfloat16=0.0)
    monkeypatch.setattr(kernels, "product_rates", lambda: measured)
    return bool(request.param)


def drawn(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


@pytest.mark.parametrize(("inner", "width"), [(16, 48), (7, 5), (1, 1), (130, 257)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_a_layer_and_its_gradients_are_torchs(inner: int, width: int, with_bias: bool) -> None:
    inputs = drawn((3, 9, inner), (width, inner), (width,))[: 3 if with_bias else 2]
    ours, theirs = COMPILED.linear(*inputs), F.linear(*inputs)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    (gradient,) = drawn(tuple(theirs.shape))
    both = [torch.autograd.grad(each, inputs, gradient.detach()) for each in (ours, theirs)]
    for mine, right in zip(*both, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-4, atol=1e-4)
        assert mine.is_contiguous()


def test_what_needs_no_gradient_has_none() -> None:
    hidden, weight = drawn((4, 8), (6, 8))
    weight.requires_grad_(False)
    assert torch.autograd.grad(COMPILED.linear(hidden, weight).sum(), [hidden])[0].shape == (4, 8)
    hidden.requires_grad_(False)
    assert not COMPILED.linear(hidden, weight).requires_grad


def test_what_torch_refuses_or_takes_is_refused_or_taken() -> None:
    hidden, weight, bias = (each.detach() for each in drawn((9, 8), (6, 8), (6,)))
    torch.testing.assert_close(COMPILED.linear(hidden[0], weight), F.linear(hidden[0], weight))
    torch.testing.assert_close(COMPILED.linear(hidden[:1], weight, bias), F.linear(hidden[:1], weight, bias))
    with pytest.raises((RuntimeError, ValueError)):
        COMPILED.linear(hidden, weight[:, :4])
    with pytest.raises((RuntimeError, ValueError)):
        COMPILED.linear(hidden, weight, bias[:3])
    with pytest.raises((RuntimeError, ValueError)):
        COMPILED.linear(hidden, weight, bias.double())


def test_only_the_bias_may_be_trained() -> None:
    hidden, weight, bias = drawn((9, 8), (6, 8), (6,))
    found = COMPILED.linear(hidden.detach(), weight.detach(), bias)
    assert torch.autograd.grad(found.sum(), [bias])[0].tolist() == [9.0] * 6


def test_a_heads_matrix_may_lie_the_other_way_round() -> None:
    hidden, weight = drawn((21, 16), (16, 67))
    turned, targets = weight.t(), torch.arange(21)
    loss = head_loss(hidden, turned, targets, products=COMPILED)
    right = F.cross_entropy(hidden @ turned.t(), targets)
    (mine,), (theirs,) = (torch.autograd.grad(each, [weight]) for each in (loss, right))
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_other_kinds_of_numbers_are_torchs() -> None:
    hidden, weight = (each.detach().double() for each in drawn((4, 8), (6, 8)))
    assert torch.equal(COMPILED.linear(hidden, weight), F.linear(hidden, weight))
    assert type(COMPILED.head(weight)) is HeadProducts
    with torch.autocast("cpu", torch.bfloat16):
        assert COMPILED.linear(hidden.float(), weight.float()).dtype == torch.bfloat16
    assert COMPILED.linear(hidden[:0], weight).shape == (0, 6)


def test_the_heads_loss_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight = drawn((21, 16), (67, 16))
    targets = torch.arange(21)
    monkeypatch.setattr("gpt_model.cross_entropy._LOGITS", 67 * 8)  # three chunks
    right = F.cross_entropy(hidden @ weight.t(), targets)
    for products in (COMPILED, Products()):
        loss = head_loss(hidden, weight, targets, products=products)
        torch.testing.assert_close(loss, right)
        gradients = (torch.autograd.grad(each, [hidden, weight], retain_graph=True) for each in (loss, right))
        for mine, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_a_models_layers_and_head_multiply_so(faster: bool) -> None:
    gpt = GPT(ModelConfig(n_layer=1, n_head=2, n_embd=32, block_size=8, vocab_size=11)).eval()
    ids = torch.arange(8)[None]
    before = gpt(ids)
    assert choose_products(gpt) == faster
    kind = CompiledProducts if faster else Products
    assert type(gpt.products) is kind
    layers = [each.product for each in gpt.modules() if isinstance(each, Linear)]
    assert len(layers) == 4
    assert all((each == gpt.products.linear) == faster for each in layers)
    torch.testing.assert_close(gpt(ids), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("bfloat16", "wanted"), [(4.0, torch.bfloat16), (2.5, None), (0.0, None)])
def test_bfloat16_is_chosen_where_it_is_much_faster(
    bfloat16: float, wanted: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "product_rates", lambda: ProductRates(1.0, 2.0, bfloat16))
    cpu = torch.device("cpu")
    assert autocast_dtype("auto", cpu, 128) == wanted
    assert autocast_dtype("auto", cpu, 64) is None  # what it gains is lost in conversions
    assert autocast_dtype("float32", cpu, 768) is None
    assert autocast_dtype("bfloat16", cpu, 16) == torch.bfloat16


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / name)
    product_rates.cache_clear()
    yield tmp_path
    product_rates.cache_clear()


def test_it_is_measured_once_on_a_machine(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = product_rates()
    assert min(measured.torch, measured.compiled, measured.bfloat16) > 0
    product_rates.cache_clear()
    monkeypatch.setattr(rates, "_measure", lambda: pytest.fail("measured again"))
    assert product_rates() == measured


@pytest.mark.parametrize("damaged", ["", "{", "[1]", '{"torch": 1}', '{"torch": 1, "compiled": "x", "bfloat16": 1}'])
def test_what_is_damaged_is_measured_again(cache: Path, damaged: str) -> None:
    product_rates()
    (file,) = (cache / "gpt-tui" / "products").iterdir()
    file.write_text(damaged, encoding="utf-8")
    product_rates.cache_clear()
    assert product_rates().torch > 1
    assert '"torch": ' in file.read_text(encoding="utf-8")


def test_without_a_disk_it_is_measured_every_time(cache: Path) -> None:
    (cache / "gpt-tui").write_text("in the way", encoding="utf-8")
    assert product_rates().torch > 0


def test_without_a_compiler_torch_computes_and_what_was_measured_with_one_is_kept_apart(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = product_rates()
    product_rates.cache_clear()
    for module in (rates, kernels):
        monkeypatch.setattr(module, "is_compiled", lambda part: False)
    assert product_rates().compiled == 0
    assert not uses_compiled_products()
    assert len(list((cache / "gpt-tui" / "products").iterdir())) == 2
    assert before.compiled > 0


def test_a_rate_is_held_against_every_library() -> None:
    (matrix,) = (each.detach() for each in drawn((40, 40)))
    right = matrix @ matrix
    ways = ways_to_square(matrix)
    assert {"torch", "compiled"} <= ways.keys()
    assert ways.keys() <= {"torch", "compiled", "oneDNN"}
    for name, way in ways.items():
        other = matrix @ matrix.t() if name == "oneDNN" else right
        torch.testing.assert_close(way(), other, rtol=1e-4, atol=1e-4)
    assert ways_to_square(matrix.bfloat16()).keys() == {"torch"}
