"""The two ways of reading a matrix for one column, of which a CPU has one, give the same bits."""

import numpy as np
import pytest

from gpt_model.compiled import products
from gpt_model.compiled.decode_step import _place
from gpt_model.compiled.memory import aligned_zeros


@pytest.mark.parametrize("width", [16, 64, 208])
def test_rows_together_and_in_turn(width: int) -> None:
    luck = np.random.default_rng(1)
    rows, at = 12, 32
    w = aligned_zeros((at + rows * width + 4096,))  # and what is asked for ahead
    w[:] = luck.standard_normal(len(w))
    x = aligned_zeros((2, width))
    x[:] = luck.standard_normal(x.shape)
    found = []
    for way in (products._rows_together, products._rows_in_turn):
        y = aligned_zeros((2, rows))
        way(w, at, x, 1, y, 4, rows)
        found.append(y)
    together, in_turn = found
    assert np.array_equal(together, in_turn)
    expected = w[at + 4 * width : at + rows * width].reshape(-1, width).astype(np.float64) @ x[1]
    np.testing.assert_allclose(together[1, 4:], expected, rtol=1e-4, atol=1e-4)
    assert not together[0].any()
    assert not together[1, :4].any()


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("chunks", [1, 2, 7, 12, 25])
def test_every_chunk_has_one_place(threads: int, chunks: int) -> None:
    places = [_place.py_func(chunk, chunks, threads) for chunk in range(chunks)]
    assert sorted(places) == list(range(chunks))
    mine = places[: chunks // threads * threads : threads]
    assert mine == list(range(len(mine)))  # who takes every n-th reads on
