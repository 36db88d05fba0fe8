"""Packed weights that are read ahead: by the time they are asked for they are there, and only then."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gpt_model import head_start
from gpt_model.compiled import packed_places
from gpt_model.compiled.packed_places import begin_reading, forget, read
from gpt_model.head_start import begin_opening
from gpt_model.weight_origin import hash_of


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "packed" / "float16"
    place.mkdir(parents=True)
    np.save(place / "head.npy", np.arange(1000, dtype=np.int16))
    yield place / "head.npy"
    forget()


def test_what_was_begun_is_given_once(file: Path, tmp_path: Path) -> None:
    before = hash_of(file)
    begin_reading(tmp_path, "float16")
    packed_places._begun[file].result(10)
    np.save(file, np.zeros(7, np.int16))
    array, digest = read(file)
    assert (array[-1], digest) == (999, before)
    array, digest = read(file)
    assert (len(array), digest) == (7, hash_of(file))


def test_what_was_not_asked_for_is_forgotten(file: Path, tmp_path: Path) -> None:
    begin_reading(tmp_path, "float16")
    forget()
    assert not packed_places._begun
    assert len(read(file)[0]) == 1000


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY\x01\x00", b"no array at all"])
def test_what_cannot_be_read_is_told_when_it_is_asked_for(file: Path, tmp_path: Path, damage: bytes) -> None:
    file.write_bytes(damage)
    begin_reading(tmp_path, "float16")
    with pytest.raises(ValueError, match=r"."):
        read(file)


def test_a_file_that_is_cut_short_is_told(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="cut short"):
        read(file)


@pytest.mark.parametrize(
    ("device", "dtype", "begins"),
    [
        ("auto", "auto", True),
        ("cpu", "float16", True),
        ("cpu", "int8", False),
        ("cuda", "auto", False),
        ("cpu", "x", False),
    ],
)
def test_it_begins_with_what_will_be_opened(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, dtype: str, begins: bool
) -> None:
    monkeypatch.setattr(head_start, "_GPU", tmp_path / "none")
    begin_opening(tmp_path, device, dtype)
    assert bool(packed_places._begun) == begins


def test_where_a_gpu_may_be_chosen_nothing_is_read(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_start, "_GPU", tmp_path)
    begin_opening(tmp_path, "auto", "auto")
    assert not packed_places._begun
