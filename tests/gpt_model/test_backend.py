"""The choice of what computes: it says what it took, falls back correctly, and refuses what cannot be."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gpt_model import backend
from gpt_model.backend import open_model, open_scorer
from gpt_model.checkpoint import save_checkpoint
from gpt_model.compiled import machine_code
from gpt_model.config import DTYPES, ModelConfig
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
    machine_code._compile.cache_clear()


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
    opened = open_model(checkpoint, "cpu", dtype)
    assert opened.backend.name.startswith("torch")
    assert "numba is not installed" in opened.backend.note
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


def test_large_models_are_packed_beside_their_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    large = GPT(ModelConfig(n_layer=1, n_head=8, n_embd=512, block_size=8, vocab_size=36_000))
    save_checkpoint(tmp_path / "large", large, None)
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
    with pytest.raises(CheckpointError, match="too large for float16"):
        open_model(tmp_path / "huge", "cpu", "float16")


def test_wishes_that_cannot_be_are_refused(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match=r"dtype = int9: must be one of .* Did you mean 'int8'"):
        open_model(checkpoint, dtype="int9")
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        open_model(checkpoint / "nowhere", "cpu")


def test_scoring_in_float32_is_torchs(checkpoint: Path) -> None:
    assert open_scorer(checkpoint, "cpu").backend.name == "torch"
    assert open_scorer(checkpoint, "cpu", "int8").backend.name == "compiled"


def test_damaged_machine_code_is_compiled_again(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = ids_written(open_model(checkpoint, "cpu"))
    shutil.copytree(machine_code._directory(), tmp_path / "code")
    monkeypatch.setattr(machine_code, "_directory", lambda: tmp_path / "code")
    file = tmp_path / "code" / "float32.o"
    file.write_bytes(file.read_bytes()[:-100])
    forget_compiled()
    told: list[str] = []
    assert ids_written(open_model(checkpoint, "cpu", tell=told.append)) == written
    assert told == ["Compiling for this CPU, once."]
    forget_compiled()
