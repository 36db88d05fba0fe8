"""The compiled polar factor: that of torch's products, of matrices of every shape, on any threads."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from gpt_model.compiled.cpu import LANES
from gpt_model.compiled.polar import CompiledPolarFactor, pays
from gpt_model.config import ModelConfig, TrainConfig
from gpt_model.kernels import choose_polar_factor
from gpt_model.model import GPT
from gpt_model.polar import PolarFactor
from gpt_model.update import Updater

CPU = torch.device("cpu")
SHAPES = [(1, 16, 16), (3, 32, 32), (2, 48, 48), (5, 16, 64), (2, 48, 80), (3, 80, 160), (2, 112, 336), (2, 128, 512)]


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def drawn(count: int, short: int, long: int) -> Tensor:
    return torch.randn(count, short, long, generator=torch.Generator().manual_seed(short + long))


def factors(matrices: Tensor, polar: PolarFactor) -> Tensor:
    found = matrices.clone()
    polar.replace(found)
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_that_of_torchs_products(shape: tuple[int, int, int]) -> None:
    matrices = drawn(*shape)
    right = factors(matrices, PolarFactor(*shape, CPU))
    torch.testing.assert_close(factors(matrices, CompiledPolarFactor(*shape)), right, rtol=1e-4, atol=2e-5)


def test_size_does_not_matter_and_zeros_stay_zeros() -> None:
    matrices = drawn(4, 32, 64)
    matrices[1] *= 1e-3
    matrices[2] *= 1e6
    matrices[3] = 0
    found = factors(matrices, CompiledPolarFactor(4, 32, 64))
    assert torch.linalg.svdvals(found[:3]).max() < 1.22
    assert torch.linalg.svdvals(found[:3]).min() > 0.5
    assert found[3].eq(0).all()


def test_what_is_no_number_stays_none() -> None:
    matrices = drawn(2, 32, 32)
    matrices[0, 3, 4] = float("nan")
    found = factors(matrices, CompiledPolarFactor(2, 32, 32))
    assert found[0].isnan().all()
    assert found[1].isfinite().all()


@pytest.mark.usefixtures("threads")
def test_any_number_of_threads_gives_the_same_bits() -> None:
    matrices, found = drawn(7, 64, 192), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(factors(matrices, CompiledPolarFactor(7, 64, 192)))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_it_is_chosen_where_it_pays() -> None:
    assert type(choose_polar_factor(4, 32, 64, CPU)) is CompiledPolarFactor
    assert type(choose_polar_factor(4, 32, 64 + LANES // 2, CPU)) is PolarFactor
    assert pays(torch.get_num_threads(), 1024, 1024)
    assert torch.get_num_threads() == 1 or not pays(torch.get_num_threads() - 1, 1024, 1024)


def test_muon_in_training_uses_it() -> None:
    gpt = GPT(ModelConfig(n_layer=2, n_head=2, n_embd=32, block_size=8, vocab_size=40))
    updater = Updater(gpt, TrainConfig(device="cpu", optimizer="muon"))
    kinds = {type(stack._polar) for stack in updater._optimizers._muon._stacks}
    assert kinds == {CompiledPolarFactor}
