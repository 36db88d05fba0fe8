"""The choice of what computes: it says what it took, falls back correctly, and refuses what cannot be."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gpt_model import backend
from gpt_model.backend import open_model, open_scorer
from gpt_model.checkpoint import export_pth, read_config, save_checkpoint
from gpt_model.compiled import machine_code, packed_files
from gpt_model.compiled.packed_files import NotKeptError
from gpt_model.config import DTYPES, ModelConfig
from gpt_model.device import cores
from gpt_model.errors import CheckpointError, ConfigError
from gpt_model.generation import Engine, Request
from gpt_model.model import GPT
from gpt_model.token_record import Token
from gpt_model.tokenizer import Tokenizer
from samplers import Chain


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_model: GPT, byte_tokenizer: Tokenizer) -> Path:
    save_checkpoint(tmp_path / "c", tiny_model, byte_tokenizer)
    return tmp_path / "c"


def forget_compiled() -> None:
    """Let the next model look for its code again."""
    machine_code.load_entry.cache_clear()
    machine_code._MADE.clear()


@pytest.fixture
def without_numba(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine on which numba was never installed."""
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "numba" else found(name))
    monkeypatch.setattr(machine_code, "_directory", lambda: tmp_path / "nothing-compiled")
    forget_compiled()


def ids_written(opened: backend.OpenModel) -> list[int]:
    request = Request((65, 66), Chain.parse("top_k=40,temperature=0.9"), 3, 1, 60, ignore_end_of_text=True)
    return [e.id for e in Engine(opened.model, opened.tokenizer).generate(request) if isinstance(e, Token)]


def test_it_says_what_it_runs_on(checkpoint: Path) -> None:
    opened = open_model(checkpoint, "cpu")
    assert str(opened.backend) == "cpu float32, compiled, 1 thread"
    assert opened.backend.note == ""
    assert str(open_model(checkpoint, "cpu", "int8", threads=2).backend) == "cpu int8, compiled, 2 threads"


@pytest.mark.parametrize("dtype", DTYPES)
def test_without_numba_torch_writes_the_same_tokens_and_the_reason_is_told(
    checkpoint: Path, dtype: str, without_numba: None
) -> None:
    told: list[str] = []
    opened = open_model(checkpoint, "cpu", dtype, tell=told.append)
    assert opened.backend.name.startswith("torch")
    assert "numba is not installed" in opened.backend.note
    assert told == []
    forget_compiled()


@pytest.mark.parametrize("dtype", DTYPES)
def test_compiled_and_torch_agree_in_every_precision(
    checkpoint: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = open_model(checkpoint, "cpu", dtype)
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    slow = open_model(checkpoint, "cpu", dtype)
    assert slow.backend.name.startswith("torch")
    assert "NUMBA_DISABLE_JIT" in slow.backend.note
    assert ids_written(compiled) == ids_written(slow)


def test_numba_that_does_not_work_is_a_note_and_no_end(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken" / "numba").mkdir(parents=True)
    (tmp_path / "broken" / "numba" / "__init__.py").write_text("raise ImportError('made for another numpy')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    monkeypatch.setattr(machine_code, "_directory", lambda: tmp_path / "nothing-compiled")
    forget_compiled()
    opened = open_model(checkpoint, "cpu")
    forget_compiled()
    assert opened.backend.name == "torch"
    assert "made for another numpy" in opened.backend.note


def test_generating_imports_no_numba(checkpoint: Path) -> None:
    """It is there to compile, in a process of its own."""
    open_model(checkpoint, "cpu")  # compiled now, if not before
    code = f"""
import sys
from pathlib import Path
from gpt_model.backend import open_model
from gpt_model.generation import Engine, Request
opened = open_model(Path({str(checkpoint)!r}), "cpu")
list(Engine(opened.model, opened.tokenizer).generate(Request("a", max_new_tokens=3)))
assert opened.backend.name == "compiled"
print(*({{"numba", "sympy", "transformers"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.fixture
def large(tmp_path: Path) -> GPT:
    """A model that is large enough to be packed on disk, saved as `large`."""
    torch.manual_seed(0)
    model = GPT(ModelConfig(n_layer=1, n_head=8, n_embd=512, block_size=8, vocab_size=36_000))
    save_checkpoint(tmp_path / "large", model, None)
    return model


def test_large_models_are_packed_beside_their_checkpoint(tmp_path: Path, large: GPT) -> None:
    told: list[str] = []
    opened = open_model(tmp_path / "large", "cpu", tell=told.append)
    assert opened.backend.dtype == "float16"
    assert any("Packing the weights as float16, once" in sentence for sentence in told)
    assert (tmp_path / "large" / "packed" / "float16" / "packed.json").is_file()
    told.clear()
    open_model(tmp_path / "large", "cpu", tell=told.append)
    assert told == []
    with torch.no_grad():
        large.wte.weight[0, 0] = 1e6
    save_checkpoint(tmp_path / "huge", large, None)
    assert open_model(tmp_path / "huge", "cpu").backend.dtype == "float32"  # does not fit into float16
    assert open_model(tmp_path / "huge", "cpu", tell=told.append).backend.dtype == "float32"
    assert told == []  # it is not tried again
    with pytest.raises(CheckpointError, match="too large for float16"):
        open_model(tmp_path / "huge", "cpu", "float16")


def test_a_large_model_is_not_packed_to_disk_where_torch_computes(
    tmp_path: Path, large: GPT, without_numba: None
) -> None:
    assert open_model(tmp_path / "large", "cpu", "bfloat16").backend.name.startswith("torch")
    assert not (tmp_path / "large" / "packed").exists()
    forget_compiled()


def test_packed_weights_that_no_disk_takes_are_told_of(
    tmp_path: Path, large: GPT, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise NotKeptError("The packed weights could not be kept: the disk is full.")

    monkeypatch.setattr(packed_files, "pack_to_disk", full)
    told: list[str] = []
    assert open_model(tmp_path / "large", "cpu", tell=told.append).backend.dtype == "float16"
    assert told[-1] == "The packed weights could not be kept: the disk is full."


def test_wishes_that_cannot_be_are_refused(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match=r"dtype = int9: must be one of .* Did you mean 'int8'"):
        open_model(checkpoint, dtype="int9")
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        open_model(checkpoint / "nowhere", "cpu")


def test_scoring_in_float32_is_torchs(checkpoint: Path) -> None:
    assert open_scorer(checkpoint, "cpu", "int8").backend.name == "compiled"
    scorer = open_scorer(checkpoint, "cpu").backend
    assert (scorer.name, scorer.threads) == ("torch", cores())  # whatever was opened before


def test_the_shape_of_a_pickled_file_is_read_without_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = ModelConfig(1, 1, 64, block_size=8, vocab_size=31)
    export_pth(tmp_path / "m.pth", GPT(shape))
    monkeypatch.setattr(torch, "load", lambda *arguments, **settings: pytest.fail("unpickled whole"))
    assert read_config(tmp_path / "m.pth") == shape
