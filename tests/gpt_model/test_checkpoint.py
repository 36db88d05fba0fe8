"""Checkpoints: to transformers and back, and everything that can be wrong with one."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

from gpt_model.checkpoint import (
    export_pth,
    load_checkpoint,
    load_model_and_tokenizer,
    load_training_state,
    save_checkpoint,
)
from gpt_model.config import ModelConfig
from gpt_model.errors import CheckpointError, TokenizerError
from gpt_model.model import GPT
from gpt_model.tokenizer import Tokenizer

logging.set_verbosity_error()
logging.disable_progress_bar()

SHAPES: list[dict[str, Any]] = [
    {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 40, "vocab_size": 257},
    {"n_layer": 3, "n_head": 7, "n_embd": 84, "n_positions": 33, "vocab_size": 101},
    {
        "n_layer": 1,
        "n_head": 1,
        "n_embd": 8,
        "n_positions": 4,
        "vocab_size": 1000,
        "n_inner": 24,
        "layer_norm_epsilon": 1e-3,
    },
]


def huggingface_model(**shape: Any) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0, initializer_range=0.2)).eval()


@pytest.fixture
def saved(tiny_model: GPT, byte_tokenizer: Tokenizer, tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "checkpoint", tiny_model, byte_tokenizer)
    return tmp_path / "checkpoint"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_transformers_models_open_here_and_ours_open_there(shape: dict[str, Any], tmp_path: Path) -> None:
    theirs = huggingface_model(**shape)
    theirs.save_pretrained(tmp_path / "theirs")
    model, tokenizer = load_checkpoint(tmp_path / "theirs")
    assert (tokenizer is not None) == (shape["vocab_size"] == 257)
    ids = torch.randint(shape["vocab_size"], (2, shape["n_positions"]))
    with torch.no_grad():
        expected = theirs(ids).logits
        assert torch.allclose(model(ids), expected, atol=1e-4)
        save_checkpoint(tmp_path / "ours", model, tokenizer)
        again = GPT2LMHeadModel.from_pretrained(tmp_path / "ours").eval()
        assert torch.equal(again(ids).logits, expected)


def test_a_checkpoint_reads_back_exactly(saved: Path, tiny_model: GPT) -> None:
    model, tokenizer = load_model_and_tokenizer(saved)
    assert tokenizer.name == "bytes"
    assert model.config == tiny_model.config
    for name, tensor in tiny_model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    assert not model.training


def test_half_precision_on_disk_is_float32_in_memory(
    tiny_model: GPT, byte_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "half", tiny_model, byte_tokenizer, dtype=torch.float16)
    model, _ = load_checkpoint(tmp_path / "half")
    assert model.wte.weight.dtype == torch.float32
    assert torch.allclose(model.wte.weight, tiny_model.wte.weight, atol=1e-3)


def test_pth_files_of_several_kinds_open(tiny_model: GPT, tmp_path: Path) -> None:
    export_pth(tmp_path / "model.pth", tiny_model)
    content = torch.load(tmp_path / "model.pth", weights_only=True)
    compiled = {f"_orig_mod.{name}": tensor for name, tensor in content["model"].items()}
    torch.save({"model": compiled, "model_args": content["model_args"]}, tmp_path / "compiled.pt")
    for name in ("model.pth", "compiled.pt"):
        model, _ = load_checkpoint(tmp_path / name)
        assert torch.equal(model.h[0].attn.c_attn.weight, tiny_model.h[0].attn.c_attn.weight)
    theirs = huggingface_model(n_layer=1, n_head=2, n_embd=128, n_positions=8, vocab_size=257)
    torch.save(theirs.state_dict(), tmp_path / "bare.bin")  # heads of 64 are assumed
    model, _ = load_checkpoint(tmp_path / "bare.bin")
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.allclose(model(ids), theirs(ids).logits, atol=1e-4)
    torch.save(content["model"], tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match="how many heads"):
        load_checkpoint(tmp_path / "odd.pth")


class Harmful:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("harm-was-done",)


def test_a_pth_with_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Harmful()}, "harmful.pth")
    with pytest.raises(CheckpointError, match="would run code"):
        load_checkpoint("harmful.pth")
    assert not Path("harm-was-done").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.tiktoken", "MANIFEST.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
def test_damage_is_found(saved: Path, name: str, damage: str) -> None:
    file = saved / name
    content = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 0x41
        file.write_bytes(content)
    if (name, damage) == ("MANIFEST.json", "remove"):
        load_checkpoint(saved)  # a foreign directory has none
    else:
        with pytest.raises(CheckpointError):
            load_checkpoint(saved)


def test_truncated_weights_without_a_manifest_are_found_too(saved: Path) -> None:
    (saved / "MANIFEST.json").unlink()
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(saved)


@pytest.mark.parametrize("offset", [1, 2, 3])
def test_numbers_of_a_file_that_are_not_aligned_are_so_here(saved: Path, offset: int) -> None:
    (saved / "MANIFEST.json").unlink()
    weights = saved / "model.safetensors"
    right, _ = load_checkpoint(saved)
    content = weights.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + size].rstrip()
    header += b" " * ((offset - len(header)) % 4)  # others write headers of any length
    moved = len(header).to_bytes(8, "little") + header + content[8 + size :]
    weights.with_name("new").write_bytes(moved)  # beside the old one, which is mapped
    weights.with_name("new").rename(weights)
    model, _ = load_checkpoint(saved)
    for mine, theirs in zip(model.parameters(), right.parameters(), strict=True):
        assert mine.data_ptr() % 4 == 0
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model_type": "llama"}, "'llama' model"),
        ({"activation_function": "relu"}, "activation_function = relu is not GPT-2's"),
        ({"n_embd": 17}, "no possible model"),
        ({"n_layer": 3}, "not a whole GPT-2"),
        ({"n_layer": 1}, "not a plain GPT-2"),
        ({"n_positions": 25}, r"has shape \(24, 16\)"),
        ({"vocab_size": 256}, "has shape"),
    ],
)
def test_a_config_that_does_not_fit_is_told(saved: Path, change: dict[str, Any], sentence: str) -> None:
    (saved / "MANIFEST.json").unlink()
    config = json.loads((saved / "config.json").read_text(encoding="utf-8"))
    (saved / "config.json").write_text(json.dumps(config | change), encoding="utf-8")
    with pytest.raises(CheckpointError, match=sentence):
        load_checkpoint(saved)


def test_what_is_missing_or_something_else_is_told(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello", encoding="utf-8")
    (tmp_path / "text.pth").write_text("hello", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    for name, sentence in [
        ("none", "There is no"),
        ("notes.txt", "not a checkpoint"),
        ("text.pth", "damaged"),
        ("empty", "no config"),
    ]:
        with pytest.raises(CheckpointError, match=sentence):
            load_checkpoint(tmp_path / name)
    with pytest.raises(CheckpointError, match="has no training_state"):
        load_training_state(tmp_path / "empty")


def test_tokenizers_are_chosen_by_name_or_size(saved: Path, tmp_path: Path) -> None:
    huggingface_model(n_layer=1, n_head=1, n_embd=8, n_positions=4, vocab_size=300).save_pretrained(tmp_path / "theirs")
    with pytest.raises(CheckpointError, match="Name one with --tokenizer"):
        load_model_and_tokenizer(tmp_path / "theirs")
    assert load_model_and_tokenizer(tmp_path / "theirs", tokenizer="bytes")[1].name == "bytes"
    with pytest.raises(CheckpointError, match="too small"):
        load_checkpoint(tmp_path / "theirs", tokenizer="gpt2")
    assert load_model_and_tokenizer(saved, tokenizer="bytes")[1].name == "bytes"
    with pytest.raises(TokenizerError, match="brings its own"):
        load_checkpoint(saved, tokenizer="gpt2")
    with pytest.raises(TokenizerError, match="cannot be given"):
        load_checkpoint(saved, tokenizer="bpe:300")


def test_nothing_is_overwritten_and_broken_weights_are_not_saved(saved: Path, tiny_model: GPT, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="exists already"):
        save_checkpoint(saved, tiny_model, None)
    broken = GPT(tiny_model.config)
    broken.ln_f.weight.data[0] = float("nan")
    with pytest.raises(CheckpointError, match="not finite"):
        save_checkpoint(tmp_path / "broken", broken, None)
    assert not (tmp_path / "broken").exists()


def test_training_state_is_kept_beside_the_weights(tiny_model: GPT, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", tiny_model, None, {"step": 7, "moments": {"a": torch.ones(2)}})
    assert load_training_state(tmp_path / "c")["step"] == 7
    (tmp_path / "c" / "training_state.pt").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_training_state(tmp_path / "c")
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(tmp_path / "c")


def test_a_full_disk_leaves_nothing_behind(tiny_model: GPT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gpt_model.checkpoint.safetensors.torch.save_file", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save_checkpoint(tmp_path / "c", tiny_model, None)
    assert list(tmp_path.iterdir()) == []


def test_a_sharded_directory_opens(tmp_path: Path) -> None:
    theirs = huggingface_model(**SHAPES[0])
    theirs.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    model, _ = load_checkpoint(tmp_path / "sharded")
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.allclose(model(ids), theirs(ids).logits, atol=1e-4)
    shutil.rmtree(tmp_path / "sharded")


def test_a_checkpoint_that_does_not_fit_on_the_disk_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = os.statvfs(tmp_path)
    full = os.statvfs_result((*disk[:3], 1, 1, *disk[5:]))  # one block is free
    monkeypatch.setattr("os.statvfs", lambda path: full)
    model = GPT(ModelConfig(n_layer=1, n_head=1, n_embd=32, block_size=4, vocab_size=257))
    with pytest.raises(CheckpointError, match=r"has 0\.0 MB free, but 0\.1 MB are needed\. Free some space"):
        save_checkpoint(tmp_path / "model", model, None)
    assert list(tmp_path.iterdir()) == []
