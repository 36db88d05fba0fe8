"""What computes: the choice of device, precision and code for generating, and a word about why.

`auto` is what the weights were saved in for small models, and 16 bits for large ones, which are as slow as their
weights are heavy: float16 on a CPU (logits to 6e-4), bfloat16 on a GPU.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from gpt_model.checkpoint import load_checkpoint, load_tokenizer, load_weights, read_config
from gpt_model.compiling import compile_parts
from gpt_model.config import DTYPES, ModelConfig
from gpt_model.device import choose_device, cores, generation_threads, is_small
from gpt_model.errors import CheckpointError, ConfigError, did_you_mean
from gpt_model.kernels import choose_products
from gpt_model.language_model import LanguageModel
from gpt_model.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gpt_model.compiled.layout import PackedDtype
    from gpt_model.compiled.packing import PackedModel


@dataclass(frozen=True)
class Backend:
    """What a model runs on."""

    device: str
    dtype: str
    """Of the weights."""
    name: str
    """compiled, or torch."""
    threads: int | None = None
    note: str = ""
    """A sentence when it is not what could be had."""

    def __str__(self) -> str:
        threads = f", {self.threads} thread{'s' if self.threads != 1 else ''}" if self.threads else ""
        return f"{self.device} {self.dtype}, {self.name}{threads}"


@dataclass(frozen=True)
class OpenModel:
    """A model that is ready to generate."""

    model: LanguageModel
    tokenizer: Tokenizer | None
    backend: Backend

    def with_tokenizer(self, path: Path) -> Tokenizer:
        """Return the tokenizer, for those who need to read and write text.

        Raises:
            CheckpointError: there is none.
        """
        if self.tokenizer is None:
            raise CheckpointError(
                f"{path} brings no tokenizer, and its vocabulary of {self.model.config.vocab_size:,} is neither gpt2's "
                "nor bytes'. Name one with --tokenizer gpt2 or --tokenizer bytes."
            )
        return self.tokenizer


def open_model(
    path: Path, device: str = "auto", dtype: str = "auto", threads: int = 0, tokenizer: str | None = None,
    tell: Callable[[str], None] = lambda sentence: None,
) -> OpenModel:  # fmt: skip
    """Return a checkpoint, ready to generate by the fastest means there are.

    Args:
        path: as `load_checkpoint` takes it.
        device: auto, cpu, cuda or mps.
        dtype: one of `config.DTYPES`.
        threads: CPU threads; 0 leaves the choice to the model's size.
        tokenizer: for a checkpoint that brings none.
        tell: called with a sentence before something that takes seconds and happens once.

    Raises:
        CheckpointError, TokenizerError: as `load_checkpoint`.
        ConfigError: there is no such device or dtype, or the one cannot do the other.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype = {dtype}: must be one of {', '.join(DTYPES)}.{did_you_mean(dtype, DTYPES)}")
    chosen = choose_device(device)
    if chosen.type != "cpu":
        return _open_on_device(path, chosen, dtype, tokenizer)
    config = read_config(path)
    count = generation_threads(threads, config)
    try:
        ahead = threads != 1 and cores() > 1
        return _open_compiled(path, config, dtype, count, ahead, tokenizer, tell)
    except _NotCompiledError as error:
        torch.set_num_threads(count)
        return _open_in_torch(path, dtype, count, tokenizer, f"{error}, so torch computes, more slowly.")


def open_scorer(
    path: Path, device: str = "auto", dtype: str = "float32", threads: int = 0, tokenizer: str | None = None,
    tell: Callable[[str], None] = lambda sentence: None,
) -> "OpenModel":  # fmt: skip
    """Return a checkpoint, ready to score texts: as `open_model`, but float32 is torch's model, which multiplies many
    tokens at once by what is the fastest here.

    Raises:
        CheckpointError, TokenizerError, ConfigError: as `open_model`.
    """
    if dtype != "float32":
        return open_model(path, device, dtype, threads, tokenizer, tell)
    torch.set_num_threads(threads or cores())  # a compiled model that was opened before leaves torch with one
    chosen = choose_device(device)
    model, own = load_checkpoint(path, str(chosen), tokenizer)
    if chosen.type == "cpu":
        compile_parts(tell, "gemm")
    choose_products(model)
    return OpenModel(model, own, Backend(str(chosen), "float32", "torch", torch.get_num_threads()))


class _NotCompiledError(Exception):
    """Why the compiled pass is not to be had here."""


def _open_compiled(
    path: Path, config: ModelConfig, dtype: str, threads: int, ahead: bool, tokenizer: str | None,
    tell: Callable[[str], None],
) -> OpenModel:  # fmt: skip
    if config.arch != "gpt2":
        raise _NotCompiledError(f"The compiled pass knows GPT-2 alone, and this is a {config.arch} model")
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        raise _NotCompiledError("NUMBA_DISABLE_JIT is set")
    try:
        from gpt_model.compiled.cpu import HAS_FLOAT16
        from gpt_model.compiled.machine_code import CompileError, compile_missing
        from gpt_model.compiled.model import CompiledGPT
    except (ImportError, OSError) as error:
        raise _NotCompiledError(f"numba is not to be had ({error})") from error

    if dtype == "float16" and not HAS_FLOAT16:
        raise ConfigError("dtype = float16: this CPU cannot convert it. Use bfloat16 or int8.")
    torch.set_num_threads(1)  # what torch does now is small, and its waiting threads would be in the way
    compile_for: Callable[[PackedDtype], None] = lambda kind: compile_missing((kind, *_ENTRIES), tell)  # noqa: E731
    try:
        packed = _pack(path, config, dtype, HAS_FLOAT16, tell, compile_for)
        model = CompiledGPT(packed, threads, ahead)
    except CompileError as error:
        raise _NotCompiledError(str(error)) from error
    return OpenModel(model, load_tokenizer(path, config, tokenizer), Backend("cpu", packed.dtype, "compiled", threads))


_ENTRIES = ("scan", "draw", "publish", "serve")
"""What is compiled beside the forward pass."""


def _pack(
    path: Path, config: ModelConfig, dtype: str, has_float16: bool, tell: Callable[[str], None],
    compile_for: "Callable[[PackedDtype], None]",
) -> "PackedModel":  # fmt: skip
    """Return the packed weights: from disk when they are heavy. Compiled before: else they would be of no use."""
    from gpt_model.compiled.packed_files import NotKeptError, load_packed, pack_to_disk
    from gpt_model.compiled.packing import RangeError, pack

    kind = cast("PackedDtype", dtype)
    if dtype == "auto":
        kind = "float16" if has_float16 and not is_small(config) else "float32"
    if kind != "float32" and not is_small(config):  # a small one is packed faster than found
        try:
            found = load_packed(path, config, kind)
            compile_for(kind)
            if found is not None:
                return found
            tell(f"Packing the weights as {kind}, once.")
            return pack_to_disk(path, config, kind)
        except NotKeptError as error:
            tell(str(error))
        except RangeError:
            if dtype != "auto":
                raise
            kind = "float32"
    _, weights = load_weights(path)
    if dtype == "auto" and has_float16 and all(tensor.dtype == torch.float16 for tensor in weights.values()):
        kind = "float16"  # as they were saved: nothing is lost
    compile_for(kind)
    try:
        return pack(config, weights, kind)
    except RangeError:
        if dtype != "auto":
            raise
    compile_for("float32")
    return pack(config, weights, "float32")


def _open_in_torch(path: Path, dtype: str, threads: int, tokenizer: str | None, why: str) -> OpenModel:
    """The same numbers, more slowly."""
    model, own = load_checkpoint(path, tokenizer=tokenizer)
    if dtype in ("auto", "float32"):
        return OpenModel(model, own, Backend("cpu", "float32", "torch", threads, why))
    if model.config.arch != "gpt2":
        if dtype in ("int8", "int4"):
            raise ConfigError(f"dtype = {dtype}: a {model.config.arch} model has none. Use float32 or bfloat16.")
        return OpenModel(model.to(getattr(torch, dtype)), own, Backend("cpu", dtype, "torch", threads, why))
    from gpt_model.compiled.packing import pack, unpack

    meant = unpack(pack(model.config, model.state_dict(), cast("PackedDtype", dtype)))
    return OpenModel(meant, own, Backend("cpu", dtype, "torch in float32", threads, why))


def _open_on_device(path: Path, device: torch.device, dtype: str, tokenizer: str | None) -> OpenModel:
    if dtype in ("int8", "int4"):
        raise ConfigError(f"dtype = {dtype}: for the CPU alone. On {device.type} use bfloat16, float16 or float32.")
    model, own = load_checkpoint(path, str(device), tokenizer)
    if dtype == "auto":
        halves = device.type == "cuda" and torch.cuda.is_bf16_supported() and not is_small(model.config)
        dtype = "bfloat16" if halves else "float32"
    model = model.to(getattr(torch, dtype))
    if device.type != "cuda":
        return OpenModel(model, own, Backend(str(device), dtype, "torch"))
    from gpt_model.graphs import GraphedGPT

    return OpenModel(GraphedGPT(model), own, Backend(str(device), dtype, "torch with CUDA graphs"))
