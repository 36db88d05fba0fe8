"""Whoever trains on a CPU uses compiled code, where it is to be had."""

import re
import subprocess
import sys

import pytest

from gpt_model import compiling, kernels, model
from gpt_model.compiled import shared, training_attention
from gpt_model.compiled.gelu import linear_gelu
from gpt_model.compiled.machine_code import CompileError
from gpt_model.compiled.training_attention import linear_attend
from gpt_model.config import ModelConfig, TrainConfig
from gpt_model.model import GPT, MLP, CausalSelfAttention
from gpt_model.update import Updater


def small() -> GPT:
    return GPT(ModelConfig(n_layer=1, n_head=2, n_embd=32, block_size=8, vocab_size=11))


def used(gpt: GPT) -> list[object]:
    attentions = [each.linear_attend for each in gpt.modules() if isinstance(each, CausalSelfAttention)]
    return attentions + [each.linear_gelu for each in gpt.modules() if isinstance(each, MLP)]


def test_whoever_trains_uses_it_and_whoever_writes_does_not() -> None:
    gpt = small()
    assert used(gpt) == [model.linear_attend, model.linear_gelu]
    Updater(gpt, TrainConfig(device="cpu"))
    assert used(gpt) == [linear_attend, linear_gelu]


class Elsewhere:
    """ctypes where torch has no OpenMP of its own."""

    CDLL = staticmethod(lambda name: object())


@pytest.mark.parametrize("reason", ["numba is off", "it does not compile", "torch's threads are others"])
def test_where_it_is_not_to_be_had_torchs_is_used(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise CompileError("no numba")

    for each in (compiling.is_compiled, shared.shared_entry, training_attention._machine):
        each.cache_clear()
    if reason == "numba is off":
        monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    else:
        name, replacement = ("load_entry", fail) if reason == "it does not compile" else ("ctypes", Elsewhere)
        monkeypatch.setattr(shared, name, replacement)
    try:
        gpt = small()
        assert not kernels.compile_kernels(gpt)
        assert used(gpt) == [model.linear_attend, model.linear_gelu]
    finally:
        compiling.is_compiled.cache_clear()


def test_once_compiled_it_needs_no_numba() -> None:
    assert compiling.are_compiled()
    code = (
        "import sys, torch; from gpt_model import compiling, kernels, model; from gpt_model.config import ModelConfig\n"
        "gpt = model.GPT(ModelConfig(n_layer=1, n_head=2, n_embd=32, block_size=8, vocab_size=11))\n"
        "assert kernels.compile_kernels(gpt)\n"
        "gpt.loss(torch.zeros(2, 8, dtype=torch.long), torch.zeros(2, 8, dtype=torch.long)).backward()\n"
        "print('numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_compiled_code_is_told_by_its_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    before = kernels.describe_kernels(compiled=True)
    assert re.fullmatch("compiled [0-9a-f]{6}", before["kernels"])
    assert re.fullmatch(r"numba [\d.]+, llvmlite [\d.]+", before["compiler"])
    sources = kernels._sources()
    assert {"attention_rows", "gelu_rows", "dropout_rows", "simd", "float_tile", "layout"} <= sources.keys()
    assert not {"decode_step", "draw_row"} & sources.keys()
    monkeypatch.setattr(kernels, "_sources", lambda: sources | {"simd": "another"})
    assert kernels.describe_kernels(compiled=True)["kernels"] != before["kernels"]
    assert kernels.describe_kernels(compiled=False) == {"kernels": "torch"}
