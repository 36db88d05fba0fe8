"""The compiled dropout of training: what its documentation says stays, on the way back too, on any threads."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from gpt_model.compiled import dropout as dropout_module
from gpt_model.compiled.dropout import dropout
from gpt_model.compiled.layout import DROP_ROW

SEED = 2**60 + 777


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def one_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dropout_module, "draw_seed", lambda: SEED)


def keeps(count: int, share: float) -> Tensor:
    """Return which of so many numbers stay, by the documentation of row_key and simd.kept."""
    rows = -(-count // DROP_ROW)
    with np.errstate(over="ignore"):
        z = np.uint64(SEED) + (np.arange(rows, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        key = ((z ^ (z >> np.uint64(31))) >> np.uint64(32)).astype(np.uint32)
        bits = np.arange(DROP_ROW, dtype=np.uint32) * np.uint32(0x9E3779B9) + key[:, None]
        bits = (bits ^ (bits >> np.uint32(16))) * np.uint32(0x7FEB352D)
        bits = (bits ^ (bits >> np.uint32(15))) * np.uint32(0x846CA68B)
        bits ^= bits >> np.uint32(16)
    return torch.from_numpy(bits >= round(share * 2**32)).flatten()[:count]


@pytest.mark.parametrize("shape", [(1, 16), (3, 5, 48), (1024,), (7, 1040), (2, 300, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_what_stays_is_known_and_so_is_its_gradient(
    shape: tuple[int, ...], dtype: torch.dtype, share: float, one_seed: None
) -> None:
    hidden, gradient = torch.randn(shape).to(dtype).requires_grad_(), torch.randn(shape).to(dtype)
    result = dropout(hidden, share)
    mask = keeps(hidden.numel(), share).view(shape)
    factor = torch.tensor(1 / (1 - share), dtype=torch.float32)
    torch.testing.assert_close(result.detach(), (hidden.detach().float() * factor * mask).to(dtype), rtol=0, atol=0)
    (of_hidden,) = torch.autograd.grad(result, hidden, gradient)
    torch.testing.assert_close(of_hidden, (gradient.float() * factor * mask).to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.95])
def test_it_keeps_its_share(share: float) -> None:
    torch.manual_seed(3)
    n = 2**20
    kept = int(dropout(torch.ones(n), share).count_nonzero())
    assert abs(kept - n * (1 - share)) < 5 * math.sqrt(n * share * (1 - share))


def test_neighbours_rows_and_calls_know_nothing_of_each_other() -> None:
    torch.manual_seed(4)
    one, other = ((dropout(torch.ones(1024, 1024), 0.5) > 0).double() * 2 - 1 for _ in range(2))
    pairs = [(one, other), (one[1:], one[:-1]), (one[:, 1:], one[:, :-1]), (one[:, 64:], one[:, :-64])]
    for a, b in pairs:
        assert abs(float((a * b).mean())) < 5e-3  # five standard deviations


def test_other_numbers_are_torchs() -> None:
    for hidden in (torch.ones(5, 3), torch.ones(64, dtype=torch.float64), torch.ones(0, 16)):
        assert set(dropout(hidden, 0.5).unique().tolist()) <= {0.0, 2.0}
    assert dropout(torch.ones(64), 1.0).count_nonzero() == 0


def test_every_number_of_threads_gives_the_same_bits_and_torchs_generator_decides(threads: None) -> None:
    hidden, results = torch.randn(100, 1000), []
    for count, seed in ((1, 1), (2, 1), (3, 1), (2, 2)):
        torch.set_num_threads(count)
        torch.manual_seed(seed)
        results.append(torch.stack([dropout(hidden, 0.3) for _ in range(2)]))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert not torch.equal(results[0], results[3])
    assert not torch.equal(results[0][0], results[0][1])
