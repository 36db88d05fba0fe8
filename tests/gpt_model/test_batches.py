"""Batches: the order as a pure function of (seed, step), every window once an epoch, and evaluation's windows."""

from collections import Counter

import numpy as np
import pytest

from gpt_model.batches import Batches, evaluation_batches
from gpt_model.errors import DataError


def tokens(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.uint16)


def test_a_batch_is_a_pure_function_of_seed_and_step() -> None:
    forwards = [Batches(tokens(500), 4, 8, seed=1).batch(step) for step in range(60)]
    one = Batches(tokens(500), 4, 8, seed=1)
    for step in reversed(range(60)):
        ids, targets = one.batch(step)
        assert ids.shape == targets.shape == (4, 8)
        assert ids.dtype == targets.dtype == np.int64
        assert (ids == forwards[step][0]).all()
        assert (targets == ids + 1).all()  # each target is the token after
    other = Batches(tokens(500), 4, 8, seed=2).batch(0)[0]
    assert (other != forwards[0][0]).any()


@pytest.mark.parametrize(("count", "length"), [(9, 8), (16, 8), (17, 8), (203, 8), (1000, 7)])
def test_an_epoch_draws_every_window_once_and_no_token_twice(count: int, length: int) -> None:
    batches = Batches(tokens(count), 1, length, seed=5)
    windows = batches.windows_per_epoch
    starts_of_epochs = []
    for epoch in range(3):
        seen = Counter[int]()
        for step in range(epoch * windows, (epoch + 1) * windows):
            seen.update(batches.batch(step)[0].flatten().tolist())
        assert set(seen.values()) == {1}
        assert len(seen) == windows * length
        assert max(seen) - min(seen) == len(seen) - 1
        starts_of_epochs.append(min(seen))
    assert windows * length >= count - 1 - 2 * length
    if count > 100:
        assert len(set(starts_of_epochs)) > 1


def test_a_batch_may_reach_from_one_epoch_into_the_next() -> None:
    batches = Batches(tokens(50), 3, 8, seed=1)
    assert batches.windows_per_epoch % 3
    flat = [start for step in range(20) for start in batches.batch(step)[0][:, 0].tolist()]
    single = Batches(tokens(50), 1, 8, seed=1)
    assert flat == [int(single.batch(sample)[0][0, 0]) for sample in range(60)]


def test_a_text_shorter_than_one_sequence_says_what_to_set() -> None:
    with pytest.raises(DataError, match=r"has 8 tokens.*needs 9.*sequence_length.*to 7 or less"):
        Batches(tokens(8), 4, 8, seed=1)


def test_evaluation_windows_are_evenly_spaced_and_always_the_same() -> None:
    batches = evaluation_batches(tokens(1001), batch_size=2, sequence_length=10, count=3)
    starts = [start for ids, _ in batches for start in ids[:, 0].tolist()]
    assert starts == [0, 160, 330, 500, 660, 830]
    everything = evaluation_batches(tokens(1001), batch_size=16, sequence_length=10, count=50)
    targets = [target for _, part in everything for target in part.flatten().tolist()]
    assert targets == list(range(1, 1001))


def test_a_validation_split_too_small_for_a_window_makes_a_shorter_one() -> None:
    ((ids, targets),) = evaluation_batches(tokens(5), 4, 8, 10)
    assert ids.tolist() == [[0, 1, 2, 3]]
    assert targets.tolist() == [[1, 2, 3, 4]]
    assert evaluation_batches(tokens(1), 4, 8, 10) == []


def test_an_order_of_any_length_takes_no_memory() -> None:
    class Endless:
        """Tokens of a text that fits no memory: each is its own place."""

        def __len__(self) -> int:
            return 10**13

        def __getitem__(self, places: np.ndarray) -> np.ndarray:
            return places

    batches = Batches(Endless(), 512, 1024, seed=3)  # type: ignore[arg-type]
    ids, _ = batches.batch(10**6)
    starts = ids[:, 0]
    assert len(set(starts.tolist())) == 512
    assert starts.min() >= 0
    assert starts.max() < 10**13
    assert starts.std() > 10**12  # all over the text


def test_the_windows_that_are_told_are_those_of_the_batch() -> None:
    batches = Batches(tokens(100), 5, 8, seed=2)
    for step in range(10):
        epochs, starts = batches.windows(step)
        assert batches.batch(step)[0][:, 0].tolist() == starts.tolist()
        assert epochs.tolist() == [sample // batches.windows_per_epoch for sample in range(step * 5, step * 5 + 5)]
