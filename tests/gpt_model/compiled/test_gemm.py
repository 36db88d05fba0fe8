"""The compiled product: that of the formula, whichever way round the matrices lie, on any threads."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from gpt_model.compiled import gemm as gemm_module
from gpt_model.compiled.gemm import gemm
from gpt_model.compiled.shared import shared_entry

SIZES = [
    (1, 1, 1), (3, 5, 7), (8, 16, 32), (9, 17, 33), (5, 300, 40), (100, 257, 65), (64, 600, 50), (530, 33, 257),
    (257, 512, 48), (16, 2048, 40),
]  # fmt: skip


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def turned(matrix: Tensor) -> Tensor:
    """Return the same matrix with contiguous columns."""
    return matrix.t().contiguous().t()


def assert_near(found: Tensor, exact: Tensor, steps: int) -> None:
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() < 5e-6 * steps**0.5 + 1e-6


@pytest.mark.parametrize("size", SIZES)
def test_it_is_the_product_whichever_way_round_they_lie(size: tuple[int, int, int]) -> None:
    rows, steps, columns = size
    a, b, bias, before = drawn(rows, steps), drawn(steps, columns), drawn(columns), drawn(rows, columns)
    exact = a.double() @ b.double()
    for mine in (a, turned(a)):
        for other in (b, turned(b)):
            assert_near(gemm(mine, other), exact, steps)
            assert_near(gemm(mine, other, bias), exact + bias, steps)
            assert_near(gemm(mine, other, out=before.clone()), exact, steps)
            out = before.clone()
            assert gemm(mine, other, out=out, is_added=True) is out
            assert_near(out, exact + before, steps)


def test_parts_of_matrices_and_matrices_without_neighbours_are_taken() -> None:
    whole = drawn(90, 120)
    for a in (whole[3:70, 5:60], whole.t()[3:70, 5:60], whole[::2, ::2][:40, :55], whole[:1].expand(40, 120)[:, :55]):
        b = drawn(55, 20)
        assert_near(gemm(a, b), a.double() @ b.double(), 55)
        assert_near(gemm(b.t(), a.t()), (a.double() @ b.double()).t(), 55)


def misplaced(tensor: Tensor, offset: int = 1) -> Tensor:
    """Return a tensor that begins where no number should, as in a file that is mapped."""
    raw = bytearray(tensor.numel() * 4 + 8)
    begin = -torch.frombuffer(raw, dtype=torch.uint8).data_ptr() % 4 + offset
    moved = torch.frombuffer(raw, dtype=torch.float32, count=tensor.numel(), offset=begin)
    return moved.view(tensor.shape).copy_(tensor)


def test_matrices_that_begin_anywhere_are_multiplied_all_the_same() -> None:
    a, b, bias = drawn(20, 33), drawn(33, 50), drawn(50)
    right = gemm(a, b, bias)
    for offset in (1, 2, 3):
        assert torch.equal(gemm(misplaced(a, offset), misplaced(b, offset), misplaced(bias, offset)), right)
    with pytest.raises(ValueError, match="place"):
        gemm(a, b, out=misplaced(right))


def test_what_does_not_fit_together_is_refused() -> None:
    a, b = drawn(4, 6), drawn(6, 5)
    for bad in (drawn(5, 5), drawn(6), drawn(6, 5).double()):
        with pytest.raises(ValueError, match=r"gemm|fit"):
            gemm(a, bad)
    for bad in (drawn(4), drawn(1, 5), drawn(5).double()):
        with pytest.raises(ValueError, match=r"gemm|fit"):
            gemm(a, b, bad)
    for bad in (drawn(5, 4), drawn(5, 4).t(), drawn(4, 10)[:, ::2]):
        with pytest.raises(ValueError, match="place"):
            gemm(a, b, out=bad)


def test_calls_are_counted_from_the_beginning_again(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = drawn(20, 30), drawn(30, 40)
    right = gemm(a, b)
    monkeypatch.setattr(shared_entry("gemm"), "_call", 2**31 - 2)
    for _ in range(3):
        assert torch.equal(gemm(a, b), right)
    assert shared_entry("gemm")._call == 2


@pytest.mark.parametrize("shape", [(0, 4, 5), (4, 5, 0), (4, 0, 5)])
def test_the_product_of_nothing_is_zeros(shape: tuple[int, int, int]) -> None:
    rows, steps, columns = shape
    a, b, bias, before = drawn(rows, steps), drawn(steps, columns), drawn(columns), drawn(rows, columns)
    assert torch.equal(gemm(a, b), torch.zeros(rows, columns))
    assert torch.equal(gemm(a, b, bias), bias.expand(rows, columns))
    assert torch.equal(gemm(a, b, out=before.clone(), is_added=True), before)
    assert torch.equal(gemm(a, b, out=before.clone()), torch.zeros(rows, columns))


def test_what_is_no_number_stays_in_its_row_and_column() -> None:
    a, b = drawn(11, 20), drawn(20, 37)
    a[10, 3] = float("nan")
    b[4, 36] = float("inf")
    found = gemm(a, b)
    assert found[:10, :36].isfinite().all()
    assert found[10].isnan().all()
    assert not found[:, 36].isfinite().any()


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("way", ["rows", "columns"])
def test_any_number_of_threads_gives_the_same_bits(way: str) -> None:
    a, b = drawn(500, 300), drawn(300, 200)
    a = turned(a) if way == "columns" else a
    found = []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        found.append(gemm(a, b))
    assert all(torch.equal(each, found[0]) for each in found)


@pytest.mark.parametrize("threads", [1, 2, 5, 64])
def test_blocks_leave_every_thread_some_and_fit_into_its_room(threads: int) -> None:
    for rows, columns in ((2048, 2304), (50_257, 768), (1024, 50_257), (768, 768), (128, 128), (3, 5)):
        height, width = gemm_module._block(rows, columns, threads)
        assert height % 8 == 0
        assert height <= 512
        assert width % gemm_module._PAIR == 0
        count = -(-rows // height) * -(-columns // width)
        assert count >= threads or rows * columns < 64 * 64 * threads
