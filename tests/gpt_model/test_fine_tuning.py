"""Runs that start from somebody's checkpoint, and the shape of a file of weights, told without torch."""

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

from gpt_model.checkpoint import export_pth, load_checkpoint, read_config
from gpt_model.errors import CheckpointError
from gpt_model.model import GPT
from gpt_model.pickled_shape import read_pickled_shape
from gpt_model.runs import Run, Status
from gpt_model.weight_formats import to_huggingface

pytest_plugins = ["tiny_runs"]
logging.set_verbosity_error()
logging.disable_progress_bar()

SHAPE = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_inner": 80}
MakeRun = Callable[..., Run]
TrainHere = Callable[..., Status]


@pytest.fixture
def theirs(tmp_path: Path) -> GPT2LMHeadModel:
    """A model of transformers, saved in huggingface/."""
    torch.manual_seed(0)
    shape = GPT2Config(
        **SHAPE, n_positions=20, vocab_size=257, initializer_range=0.3, bos_token_id=256, eos_token_id=256,
        layer_norm_epsilon=1e-4,
    )  # fmt: skip
    model: GPT2LMHeadModel = GPT2LMHeadModel(shape).eval()
    model.save_pretrained(tmp_path / "huggingface")
    return model


def test_the_loss_before_the_first_step_is_that_of_transformers_on_the_same_tokens(
    make_run: MakeRun, train_here: TrainHere, theirs: GPT2LMHeadModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[torch.Tensor, torch.Tensor]] = []
    loss, started = GPT.loss, False

    def spy(self: GPT, ids: torch.Tensor, targets: torch.Tensor, *z_loss: float) -> torch.Tensor:
        nonlocal started
        started = started or self.training
        if not started:
            read.append((ids, targets))
        return loss(self, ids, targets, *z_loss)

    monkeypatch.setattr(GPT, "loss", spy)
    run = make_run(
        init=str(tmp_path / "huggingface"), **SHAPE, block_size=20, layer_norm_epsilon=1e-4, dropout=0.1, max_steps=2,
        eval_batches=10, val_fraction=0.4,
    )  # fmt: skip
    train_here(run)
    nats, count = 0.0, 0
    with torch.no_grad():
        for ids, targets in read:
            logits = theirs(ids).logits.double()
            nats += float(F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum"))
            count += targets.numel()
    assert count >= 300
    first = next(record for record in run.read_metrics()[0] if "val_loss" in record)
    assert first["step"] == 0
    assert first["val_loss"] == pytest.approx(nats / count, abs=1e-4)
    assert first["val_loss"] > 5.6  # far from a model that knows nothing: this one is wrong in its own way


def test_a_run_starts_from_a_file_of_weights(make_run: MakeRun, train_here: TrainHere, tiny_model: GPT) -> None:
    first = make_run("first", max_steps=1)  # for its directory
    file = first.directory.parent.parent / "weights.pth"
    export_pth(file, tiny_model)
    shape = read_pickled_shape(file)
    assert shape == tiny_model.config
    run = make_run(
        "second", init=str(file), tokenizer="bytes", n_layer=2, n_head=2, n_embd=16, block_size=24, max_steps=1,
        learning_rate=1e-9, dropout=0.0,
    )  # fmt: skip
    train_here(run)
    after = load_checkpoint(run.checkpoint_path("last"))[0].state_dict()
    for name, tensor in tiny_model.state_dict().items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=1e-6)


# --- the shape of a pickled file


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "pickles in a row"])
@pytest.mark.parametrize("form", ["ours", "huggingface", "compiled", "parameters"])
def test_its_shape_is_told_without_torch(theirs: GPT2LMHeadModel, tmp_path: Path, form: str, zipped: bool) -> None:
    model, _ = load_checkpoint(tmp_path / "huggingface")
    weights: dict[str, Any] = model.state_dict()
    content: dict[str, Any] = {
        "ours": weights, "huggingface": to_huggingface(weights, torch.float16),
        "compiled": {f"_orig_mod.{name}": tensor.bfloat16() for name, tensor in weights.items()},
        "parameters": {name: torch.nn.Parameter(tensor) for name, tensor in weights.items()},
    }[form]  # fmt: skip
    file = tmp_path / "weights.pth"
    said = {
        "model": content,
        "model_args": {"n_head": 2},
        "iter_num": 5,
        "size": torch.Size([2]),
        "device": torch.device("cpu"),
    }
    torch.save(said, file, _use_new_zipfile_serialization=zipped)
    found = read_pickled_shape(file)
    assert (found.n_layer, found.n_head, found.n_embd, found.n_inner) == (2, 2, 32, 80)
    assert (found.block_size, found.vocab_size) == (20, 257)
    assert found == read_config(file)


def test_reading_a_shape_imports_no_torch(tiny_model: GPT, tmp_path: Path) -> None:
    export_pth(tmp_path / "weights.pth", tiny_model)
    code = (
        "import sys; from pathlib import Path; from gpt_model.pickled_shape import read_pickled_shape\n"
        f"print(read_pickled_shape(Path({str(tmp_path / 'weights.pth')!r})).n_embd, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["16", "False"]


class _Evil:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('run')",)


def test_code_in_the_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"model": _Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"exec, which is no weight"):
        read_pickled_shape(tmp_path / "evil.pth")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "no file of weights"), (b"PK\x03\x04 cut short", r"damaged or no file of weights: copy it again, whole"),
        (pickle.dumps([1]) * 4, "holds a list"), (pickle.dumps({"a": (1, 2)}) * 4, "no state dict"),
    ],
)  # fmt: skip
def test_a_file_that_holds_no_weights_is_told(tmp_path: Path, content: bytes, match: str) -> None:
    (tmp_path / "odd.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=match):
        read_pickled_shape(tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_pickled_shape(tmp_path / "missing.pth")
    with pytest.raises(CheckpointError, match=r"notes\.txt is not a checkpoint: neither a directory nor a file"):
        read_pickled_shape(tmp_path / "notes.txt")


def test_a_bare_state_dict_has_heads_of_64_or_does_not_say(tiny_model: GPT, tmp_path: Path) -> None:
    torch.save(tiny_model.state_dict(), tmp_path / "bare.pth")
    with pytest.raises(CheckpointError, match="how many heads its width of 16"):
        read_pickled_shape(tmp_path / "bare.pth")
    torch.save({"wte.weight": torch.zeros(3, 64)}, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match=r"not a GPT-2: it has no 'wpe\.weight'"):
        read_pickled_shape(tmp_path / "part.pth")
