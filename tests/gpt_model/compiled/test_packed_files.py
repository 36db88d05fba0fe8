"""Packed weights on disk: made once, verified, made anew when they are not what they were."""

import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gpt_model import packer
from gpt_model.checkpoint import export_pth, read_config, save_checkpoint
from gpt_model.compiled import packed_files
from gpt_model.compiled.layout import PackedDtype
from gpt_model.compiled.packed_files import NotKeptError, load_packed, pack_to_disk, save_packed
from gpt_model.compiled.packing import PackedModel, RangeError, pack
from gpt_model.errors import CheckpointError
from gpt_model.model import GPT
from gpt_model.weight_origin import origin_of

REAL_RUN = subprocess.run


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache is a directory of this test's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The packer's own process takes three seconds to import torch; one test has it."""

    def run(command: list[str], **settings: Any) -> subprocess.CompletedProcess[str]:
        with redirect_stderr(io.StringIO()) as told:
            code = packer.main(command[command.index("gpt_model.packer") + 1 :])
        return subprocess.CompletedProcess(command, code, "", told.getvalue())

    monkeypatch.setattr(packer, "end_with_parent", lambda: None)
    monkeypatch.setattr(packed_files.subprocess, "run", run)


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_model: GPT) -> Path:
    save_checkpoint(tmp_path / "c", tiny_model, None)
    return tmp_path / "c"


def load(checkpoint: Path, dtype: PackedDtype = "int8") -> PackedModel | None:
    return load_packed(checkpoint, read_config(checkpoint), dtype)


def make(checkpoint: Path, dtype: PackedDtype = "int8") -> PackedModel:
    return pack_to_disk(checkpoint, read_config(checkpoint), dtype)


def test_packed_once_in_a_process_of_its_own_and_read_from_then_on(
    checkpoint: Path, tiny_model: GPT, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_files.subprocess, "run", REAL_RUN)
    assert load(checkpoint) is None
    make(checkpoint)
    expected = pack(tiny_model.config, tiny_model.state_dict(), "int8")
    again = load(checkpoint)
    assert again is not None
    assert again.config == tiny_model.config
    for name in ("head", "head_scales", "matrices", "scales", "vectors"):
        assert np.array_equal(getattr(again, name), getattr(expected, name)), name
    assert load(checkpoint, "int4") is None
    assert not list(checkpoint.glob("packed/.tmp*"))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int4"])
def test_every_precision_has_the_arrays_that_are_expected(checkpoint: Path, dtype: PackedDtype) -> None:
    make(checkpoint, dtype)
    assert load(checkpoint, dtype) is not None


def about_of(checkpoint: Path) -> Path:
    return checkpoint / "packed" / "int8" / "packed.json"


def change_about(**changes: Any) -> Callable[[Path], None]:
    def change(checkpoint: Path) -> None:
        about = json.loads(about_of(checkpoint).read_text())
        about_of(checkpoint).write_text(json.dumps(about | changes))

    return change


def flip(checkpoint: Path) -> None:
    file = about_of(checkpoint).with_name("matrices.npy")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def cut(checkpoint: Path) -> None:
    file = about_of(checkpoint).with_name("matrices.npy")
    file.write_bytes(file.read_bytes()[:-100])


def other_heads(checkpoint: Path) -> None:
    model = json.loads(about_of(checkpoint).read_text())["model"]
    change_about(model=model | {"n_head": 4})(checkpoint)


def other_array(checkpoint: Path) -> None:
    """One that is what its hash says, and too short for the model."""
    file = about_of(checkpoint).with_name("vectors.npy")
    np.save(file, np.zeros(3, np.float32))
    hashes = json.loads(about_of(checkpoint).read_text())["sha256"]
    change_about(sha256=hashes | {"vectors": packed_files.hash_of(file)})(checkpoint)


def other_weights(checkpoint: Path) -> None:
    """Weights of the same size, to which the same time is given."""
    file = checkpoint / "model.safetensors"
    before, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    file.with_name("new").write_bytes(content)
    os.utime(file.with_name("new"), ns=(before.st_atime_ns, before.st_mtime_ns))
    (checkpoint / "MANIFEST.json").unlink()
    file.with_name("new").replace(file)


@pytest.mark.parametrize("damage", [
    flip, cut, other_heads, other_array, other_weights,
    lambda checkpoint: about_of(checkpoint).with_name("matrices.npy").unlink(),
    lambda checkpoint: about_of(checkpoint).write_text("{"), lambda checkpoint: about_of(checkpoint).write_text("[]"),
    change_about(sha256={}), change_about(sha256=[]), change_about(dtype="float16"), change_about(format=1),
    change_about(origin=None),
])  # fmt: skip
def test_what_is_damaged_or_out_of_date_is_not_used_but_made_anew(
    checkpoint: Path, damage: Callable[[Path], None]
) -> None:
    make(checkpoint)
    damage(checkpoint)
    assert load(checkpoint) is None
    make(checkpoint)
    assert load(checkpoint) is not None


def test_a_copy_is_known_and_hashed_once(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(checkpoint)
    shutil.copytree(checkpoint, tmp_path / "copy")
    for file in (tmp_path / "copy").glob("*.*"):
        os.utime(file, (1, 1))
    assert load(tmp_path / "copy") is not None
    known = json.loads(about_of(tmp_path / "copy").read_text())["origin"]
    assert origin_of(tmp_path / "copy", known) is known
    monkeypatch.setattr("gpt_model.weight_origin.hash_of", lambda file: pytest.fail("hashed again"))
    assert load(tmp_path / "copy") is not None


def test_a_file_of_weights_has_its_packed_form_beside_it(tmp_path: Path, tiny_model: GPT) -> None:
    narrow = dataclasses.replace(tiny_model.config, n_embd=64, n_head=1)
    export_pth(tmp_path / "m.pth", GPT(narrow))
    make(tmp_path / "m.pth", "float16")
    assert (tmp_path / "m.pth.packed" / "float16" / "packed.json").is_file()


def test_where_the_checkpoint_cannot_be_written_the_users_cache_is_used(checkpoint: Path, own_cache: Path) -> None:
    (checkpoint / "packed").write_text("in the way")  # root may write anywhere, but not through a file
    make(checkpoint)
    assert list(own_cache.rglob("packed.json"))
    assert load(checkpoint) is not None


def test_where_nothing_can_be_written_it_is_told_why(checkpoint: Path, own_cache: Path) -> None:
    (checkpoint / "packed").write_text("in the way")
    own_cache.write_text("in the way")
    with pytest.raises(NotKeptError, match=r"^The packed weights could not be kept: .*(exists|directory).*packed"):
        make(checkpoint)


def test_a_checkpoint_that_cannot_be_packed_is_told_in_its_own_words(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"is damaged: model\.safetensors has 7 bytes"):
        make(checkpoint)


def with_weight(tiny_model: GPT, directory: Path, value: float) -> Path:
    """A checkpoint with one weight that is far from the others."""
    save_checkpoint(directory, tiny_model, None)
    weights = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    weights["wte.weight"][0, 0] = value
    torch.save(weights, directory / "pytorch_model.bin")
    for name in ("model.safetensors", "MANIFEST.json"):
        (directory / name).unlink()
    return directory


def test_weights_that_are_too_large_are_packed_in_vain_but_once(tiny_model: GPT, tmp_path: Path) -> None:
    huge = with_weight(tiny_model, tmp_path / "huge", 1e6)
    with pytest.raises(RangeError, match="too large for float16"):
        make(huge, "float16")
    with pytest.raises(RangeError, match="too large for float16"):
        load(huge, "float16")
    assert load(huge, "bfloat16") is None


def test_weights_that_are_no_numbers_are_told_from_those(tiny_model: GPT, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not finite"):
        make(with_weight(tiny_model, tmp_path / "broken", float("nan")), "float16")


def save(checkpoint: Path) -> None:
    config = read_config(checkpoint)
    packed = pack(config, GPT(config).state_dict(), "int8")
    save_packed([checkpoint / "packed" / "int8"], packed, origin_of(checkpoint))


def test_whoever_is_interrupted_leaves_nothing_and_the_next_one_sweeps(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", interrupt)
        with pytest.raises(KeyboardInterrupt):
            save(checkpoint)
    assert list((checkpoint / "packed").iterdir()) == []
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid in (dead.pid, os.getppid()):
        (checkpoint / "packed" / f".tmp-int4-{pid}").mkdir()
    save(checkpoint)
    assert {path.name for path in (checkpoint / "packed").iterdir()} == {"int8", f".tmp-int4-{os.getppid()}"}


def test_who_comes_second_takes_what_the_first_one_made(checkpoint: Path) -> None:
    torch.manual_seed(0)
    save(checkpoint)
    before = about_of(checkpoint).stat().st_ino
    torch.manual_seed(0)
    save(checkpoint)
    assert about_of(checkpoint).stat().st_ino == before
