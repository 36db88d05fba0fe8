"""A permutation by key: every number once, another order for another key, no pattern that a run could learn."""

import numpy as np
import pytest

from gpt_model.permutation import Permutation


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 15, 16, 17, 255, 256, 257, 1000, 65_537])
def test_every_number_stands_at_one_place(size: int) -> None:
    for key in ((0, 0), (7, 1)):
        numbers = Permutation(size, key)(np.arange(size))
        assert numbers.dtype == np.int64
        assert np.array_equal(np.sort(numbers), np.arange(size))


def test_any_place_can_be_asked_for_alone_and_in_a_large_domain() -> None:
    permutation = Permutation(3 * 2**40 + 5, (1, 2))
    places = np.random.default_rng(0).integers(0, permutation.size, 10_000)
    numbers = permutation(places)
    assert ((numbers >= 0) & (numbers < permutation.size)).all()
    assert len(np.unique(numbers)) == len(np.unique(places))
    assert [int(permutation(places[at : at + 1])[0]) for at in range(20)] == numbers[:20].tolist()


def test_keys_decide_and_neighbours_have_nothing_to_do_with_each_other() -> None:
    size, places = 50_000, np.arange(50_000)
    orders = [Permutation(size, key)(places) for key in ((1, 0), (1, 1), (2, 0), (1, 0))]
    assert np.array_equal(orders[0], orders[3])
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (orders[one] == orders[other]).mean() < 5 / np.sqrt(size)
        assert abs(np.corrcoef(orders[one], orders[other])[0, 1]) < 4 / np.sqrt(size)
    for order in orders[:3]:
        for distance in (1, 2, 16, 256):
            assert abs(np.corrcoef(order[:-distance], order[distance:])[0, 1]) < 4 / np.sqrt(size)
        # The numbers of the first tenth of an epoch come from all over the text.
        counts = np.bincount(order[: size // 10] * 10 // size, minlength=10)
        assert abs(counts - size / 100).max() < 5 * np.sqrt(size / 100)


def test_all_orders_of_three_come_up() -> None:
    seen = {tuple(Permutation(3, (seed, 0))(np.arange(3)).tolist()) for seed in range(200)}
    assert len(seen) == 6
