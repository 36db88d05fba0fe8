"""Packed weights on disk: made once, mapped, verified, made anew when they are not what they were."""

import os
from pathlib import Path

import numpy as np
import pytest

from gpt_model.checkpoint import export_pth, save_checkpoint
from gpt_model.compiled.packed_files import load_packed, pack_to_disk
from gpt_model.compiled.packing import pack
from gpt_model.errors import CheckpointError
from gpt_model.model import GPT


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache is a directory of this test's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_model: GPT) -> Path:
    save_checkpoint(tmp_path / "c", tiny_model, None)
    return tmp_path / "c"


def test_packed_once_and_mapped_from_then_on(checkpoint: Path, tiny_model: GPT) -> None:
    assert load_packed(checkpoint, "int8") is None
    made = pack_to_disk(checkpoint, "int8")
    assert made is not None
    expected = pack(tiny_model.config, tiny_model.state_dict(), "int8")
    again = load_packed(checkpoint, "int8")
    assert again is not None
    assert again.config == tiny_model.config
    for name in ("head", "head_scales", "matrices", "scales", "vectors"):
        assert np.array_equal(getattr(again, name), getattr(expected, name)), name
    assert load_packed(checkpoint, "int4") is None
    assert not list(checkpoint.glob("packed/.tmp*"))


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "about", "weights"])
def test_what_is_damaged_or_out_of_date_is_not_used(checkpoint: Path, damage: str) -> None:
    assert pack_to_disk(checkpoint, "int8") is not None
    file = checkpoint / "packed" / "int8" / "matrices.npy"
    if damage == "flip":
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "remove":
        file.unlink()
    elif damage == "about":
        (file.parent / "packed.json").write_text("{")
    else:
        os.utime(checkpoint / "model.safetensors", (1, 1))
    assert load_packed(checkpoint, "int8") is None
    assert pack_to_disk(checkpoint, "int8") is not None
    assert load_packed(checkpoint, "int8") is not None


def test_a_file_of_weights_has_its_packed_form_beside_it(tmp_path: Path, tiny_model: GPT) -> None:
    export_pth(tmp_path / "m.pth", tiny_model)
    assert pack_to_disk(tmp_path / "m.pth", "float16") is not None
    assert (tmp_path / "m.pth.packed" / "float16" / "packed.json").is_file()


def test_where_the_checkpoint_cannot_be_written_the_users_cache_is_used(checkpoint: Path, own_cache: Path) -> None:
    (checkpoint / "packed").write_text("in the way")  # root may write anywhere, but not through a file
    assert pack_to_disk(checkpoint, "int8") is not None
    assert list(own_cache.rglob("packed.json"))
    assert load_packed(checkpoint, "int8") is not None


def test_where_nothing_can_be_written_there_is_none(checkpoint: Path, own_cache: Path) -> None:
    (checkpoint / "packed").write_text("in the way")
    own_cache.write_text("in the way")
    assert pack_to_disk(checkpoint, "int8") is None


def test_a_checkpoint_that_cannot_be_packed_is_told_in_its_own_words(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"is damaged: model\.safetensors has 7 bytes"):
        pack_to_disk(checkpoint, "int8")
