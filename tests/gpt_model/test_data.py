"""Shards and batches: the split, what is reused, and the order as a pure function of (seed, step)."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gpt_model.corpus import find_documents
from gpt_model.data import Batches, Shards, evaluation_batches, prepare_shards, split_documents
from gpt_model.errors import DataError
from gpt_model.tokenizer import build_tokenizer

pytest_plugins = ["tiny_runs"]

BYTES = build_tokenizer("bytes")


def shards_of(tmp_path: Path, *texts: str, spec: str = "bytes", val_fraction: float = 0.1) -> Shards:
    files = []
    for number, text in enumerate(texts):
        files.append(str(tmp_path / f"{number}.txt"))
        Path(files[-1]).write_text(text, encoding="utf-8")
    return prepare_shards(tmp_path / "data", lambda: find_documents(files), spec, val_fraction)


def test_the_last_tenth_of_the_bytes_is_the_validation_split(tmp_path: Path) -> None:
    text = "".join(chr(ord("a") + number % 26) for number in range(1234))
    shards = shards_of(tmp_path, text)
    cut = int(len(text) * 0.9)
    assert BYTES.decode(shards.train.tolist()) == text[:cut]
    assert BYTES.decode(shards.val.tolist()) == text[cut:]
    assert shards.train.dtype == np.uint16


def test_documents_are_parted_by_the_end_of_text_which_counts_in_no_split(tmp_path: Path) -> None:
    shards = shards_of(tmp_path, "a" * 50, "b" * 30, "c" * 20, val_fraction=0.4)
    end = BYTES.end_of_text
    assert shards.train.tolist() == [ord("a")] * 50 + [end] + [ord("b")] * 10
    assert shards.val.tolist() == [ord("b")] * 20 + [end] + [ord("c")] * 20


@pytest.mark.parametrize("val_fraction", [0.0, 0.25, 0.999])
def test_no_byte_is_lost_or_seen_twice(tmp_path: Path, sentences: Callable[[int], str], val_fraction: float) -> None:
    text = sentences(30)
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    train, val = split_documents(find_documents([str(tmp_path / "a.txt")]), val_fraction)
    assert "".join(chunk for part in (*train, *val) for chunk in part.chunks()) == text
    assert sum(part.size for part in val) == pytest.approx(len(text.encode()) * val_fraction, abs=3)


def test_shards_that_are_there_are_used_though_the_files_are_gone(
    tmp_path: Path, sentences: Callable[[int], str]
) -> None:
    first = shards_of(tmp_path, sentences(50), spec="bpe:300")
    (tmp_path / "0.txt").unlink()
    again = prepare_shards(tmp_path / "data", lambda: find_documents([str(tmp_path / "0.txt")]), "bpe:300", 0.1)
    assert again.train.tolist() == first.train.tolist()
    assert again.tokenizer.fingerprint == first.tokenizer.fingerprint
    assert 257 < again.tokenizer.vocab_size <= 300


@pytest.mark.parametrize("damage", ["train.bin", "tokenizer.tiktoken", "data.json"])
def test_shards_that_are_not_whole_are_made_again(tmp_path: Path, sentences: Callable[[int], str], damage: str) -> None:
    first = shards_of(tmp_path, sentences(50))
    tokens = first.train.tolist()
    (tmp_path / "data" / damage).unlink()
    assert shards_of(tmp_path, sentences(50)).train.tolist() == tokens


def test_a_large_vocabulary_takes_four_bytes_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BYTES, "vocab_size", (1 << 16) + 1)
    (tmp_path / "a.txt").write_text("abc" * 10)
    shards = prepare_shards(tmp_path / "data", lambda: find_documents([str(tmp_path / "a.txt")]), BYTES, 0.1)
    assert shards.train.dtype == np.uint32
    assert bytes(shards.train.tolist()) == b"abc" * 9


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
