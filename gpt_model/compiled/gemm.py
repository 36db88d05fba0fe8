"""gemm: the product of two float32 matrices on the CPU, compiled, whichever way round they lie."""

import functools
import itertools
import math

import torch
from torch import Tensor

from gpt_model.compiled.cpu import LANES, TILE_ROWS
from gpt_model.compiled.layout import GEMM_GROUP, GEMM_STEPS
from gpt_model.compiled.shared import shared_entry

_PAIR = 2 * LANES
_ROWS, _COLUMNS = 512, 1024
"""Of a block, at most: what is read of its rows at a time is to stay in the cache that a thread has for itself."""


def gemm(a: Tensor, b: Tensor, bias: Tensor | None = None, out: Tensor | None = None, is_added: bool = False) -> Tensor:
    """Return a (M, K) @ b (K, N), float32 matrices on the CPU. No gradient comes back.

    The same bits on any number of threads.

    Args:
        a: its rows or its columns are contiguous, or are made so; the same is true of b.
        b: the other matrix.
        bias: (N,), added to every row.
        out: a contiguous matrix (M, N) for the product; it is what is returned.
        is_added: whether the product is added to what is in `out`. Not together with a bias.

    Raises:
        ValueError: they do not fit together, or are no such matrices.
    """
    _check(a, b, bias, out)
    a, b = _laid_out(a), _laid_out(b)
    (rows, steps), columns = a.shape, b.shape[1]
    if not (rows and steps and columns):
        return _product_of_nothing(rows, columns, bias, out, is_added)
    result = a.new_empty((rows, columns)) if out is None else out
    is_packed, threads = a.stride(1) != 1, torch.get_num_threads()
    block_rows, block_columns = _block(rows, columns, threads)
    blocks = -(-rows // block_rows) * -(-columns // block_columns)
    room_size = _room_size(block_rows if is_packed else 0)
    if bias is not None:
        bias = _aligned(bias.contiguous())
    entry = shared_entry("gemm")
    with entry.lock:
        entry.call(
            blocks, threads, rows, columns, steps, block_rows, block_columns, a.data_ptr(), a.stride(0), a.stride(1),
            b.data_ptr(), b.stride(0), b.stride(1), result.data_ptr(), result.stride(0),
            0 if bias is None else bias.data_ptr(), bias is None and not is_added,
            entry.room(threads, room_size), room_size,
        )  # fmt: skip
    return result


def _product_of_nothing(rows: int, columns: int, bias: Tensor | None, out: Tensor | None, is_added: bool) -> Tensor:
    result = torch.zeros(rows, columns) if out is None else out if is_added else out.zero_()
    return result if bias is None else result.add_(bias)


def _laid_out(matrix: Tensor) -> Tensor:
    """Return a matrix of which two neighbours in a row, or in a column, are neighbours in memory."""
    return _aligned(matrix if 1 in matrix.stride() and min(matrix.stride()) > 0 else matrix.contiguous())


def _aligned(tensor: Tensor) -> Tensor:
    """Return it where a number may begin: in a file that is mapped, it can begin anywhere."""
    return tensor.clone() if tensor.data_ptr() % tensor.element_size() else tensor


def _check(a: Tensor, b: Tensor, bias: Tensor | None, out: Tensor | None) -> None:
    given = [each for each in (a, b, bias, out) if each is not None]
    if any(each.dtype != torch.float32 or each.device.type != "cpu" for each in given):
        raise ValueError("gemm multiplies float32 matrices on the CPU")
    shape = (a.shape[0], b.shape[-1])
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[0] or (bias is not None and bias.shape != shape[1:]):
        raise ValueError(f"matrices {tuple(a.shape)} and {tuple(b.shape)} do not fit together, or with the bias")
    if out is not None and (out.shape != shape or not out.is_contiguous() or out.data_ptr() % out.element_size()):
        raise ValueError(f"the product is {shape}, and its place another")


@functools.lru_cache(maxsize=256)
def _block(rows: int, columns: int, threads: int) -> tuple[int, int]:
    """Return the rows and columns of a block: those that leave the least to wait for and to pack."""

    def cost(block: tuple[int, int]) -> float:
        height, width = block
        rounds = math.ceil(math.ceil(rows / height) * math.ceil(columns / width) / threads)
        computed = rounds * threads * height * width / (rows * columns)
        return computed * (1 + 12 / height + 15 / width + 0.05 / rounds)  # as measured on a Zen 5, about

    blocks = itertools.product(_shares(rows, _ROWS, LANES, threads), _shares(columns, _COLUMNS, _PAIR, threads))
    return min(blocks, key=cost)


def _shares(size: int, most: int, unit: int, threads: int) -> list[int]:
    """Return in which parts a size can be taken, in units, that are about equal."""
    fewest = math.ceil(size / most)
    return sorted({math.ceil(size / parts / unit) * unit for parts in range(fewest, fewest + 4 * threads + 1)})


def _room_size(packed_rows: int) -> int:
    """Return how many numbers one thread needs; see gemm_blocks.multiply_block."""
    return GEMM_STEPS * (_PAIR + TILE_ROWS) + TILE_ROWS * _PAIR + packed_rows * GEMM_GROUP
