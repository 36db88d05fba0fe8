"""Checkpoints: Hugging Face GPT-2 directories, saved atomically and verified when loaded.

    config.json  model.safetensors  vocab.json  merges.txt  tokenizer_config.json     what transformers reads
    tokenizer.tiktoken                                                                our tokenizer
    training_state.pt                                                                 what resuming needs, if anything
    MANIFEST.json                                                                     sizes and SHA-256 of all of these

The config is mapped in huggingface_config.py, foreign weights are read in weight_formats.py. A modern model's files
bear the same names, but nobody else reads its first two.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from gpt_model.architectures import build_model
from gpt_model.config import ModelConfig
from gpt_model.disk_space import require_space
from gpt_model.errors import CheckpointError, DamageError, TokenizerError
from gpt_model.huggingface_config import read_model_config, to_config_json
from gpt_model.manifest import MANIFEST, verify
from gpt_model.model import GPT
from gpt_model.pickled_shape import PICKLED, read_pickled_shape
from gpt_model.tokenizer import Tokenizer, build_tokenizer, read_tokenizer, tokenizer_for_size
from gpt_model.weight_formats import from_foreign, read_pickled, to_file, to_nanogpt

WEIGHTS = "model.safetensors"
STATE = "training_state.pt"


def save_checkpoint(
    directory: Path,
    model: GPT,
    tokenizer: Tokenizer | None,
    training_state: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a checkpoint directory in one step: it is whole under its name, or not there at all.

    Everything is written beside it, flushed to disk, sealed with a manifest, and renamed; the rename is the commit.

    Raises:
        CheckpointError: the directory exists already, the weights are not finite, the disk has no room or refuses.
    """
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise CheckpointError(f"{directory} exists already. Remove it or choose another name.")
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    weights = to_file(model.config, state, dtype)
    broken = next((name for name, tensor in weights.items() if not torch.isfinite(tensor).all()), None)
    if broken:
        raise CheckpointError(f"The weights are not finite ({broken}), so they were not saved to {directory}.")
    needed = _bytes_of(weights) + _bytes_of(training_state or {})
    advice = "Free some space, or keep fewer checkpoints (keep_checkpoints)."
    require_space(directory, needed, CheckpointError, advice)
    staging = directory.with_name(f".tmp-{directory.name}-{os.getpid()}")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        safetensors.torch.save_file(weights, staging / WEIGHTS, metadata={"format": "pt"})
        config = json.dumps(
            to_config_json(
                model.config, tokenizer.end_of_text if tokenizer else None, str(dtype).removeprefix("torch.")
            ),
            indent=2,
        )
        (staging / "config.json").write_text(config + "\n", encoding="utf-8")
        if tokenizer is not None:
            tokenizer.save(staging)
            tokenizer.save_for_transformers(staging)
        if training_state is not None:
            torch.save(dict(training_state), staging / STATE)
        _seal(staging)
        if directory.exists():
            directory.rmdir()  # the empty one that was allowed above
        staging.rename(directory)
        _flush(directory.parent)
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:  # torch and safetensors wrap a full disk
        shutil.rmtree(staging, ignore_errors=True)
        raise CheckpointError(
            f"The checkpoint {directory} could not be saved: {error}. Nothing else was changed."
        ) from error


def load_checkpoint(
    path: str | Path, device: str = "cpu", tokenizer: str | None = None
) -> tuple[GPT, Tokenizer | None]:
    """Return the model, in float32 and evaluation mode, and the tokenizer of a checkpoint.

    Args:
        path: a checkpoint directory (ours or Hugging Face's), or a file of pickled weights (.pth, .pt, .bin).
        device: where the weights go.
        tokenizer: `gpt2` or `bytes`, for a checkpoint that brings none. Without it such a checkpoint gets gpt2 for a
            vocabulary of 50,257, bytes for 257, and otherwise None.

    Raises:
        CheckpointError: it is missing, damaged, neither a GPT-2 nor a modern model, or contains code.
        TokenizerError: its vocabulary is damaged, or `tokenizer` is unknown or another than its own.
    """
    path = Path(path)
    config, weights = load_weights(path)
    with torch.device("meta"):  # no memory and no random numbers: every weight comes from the file
        model = build_model(config)
    on_device = {name: _aligned(tensor).to(device=device, dtype=torch.float32) for name, tensor in weights.items()}
    model.load_state_dict(on_device, assign=True)
    return model.eval().requires_grad_(False), load_tokenizer(path, config, tokenizer)


def _aligned(tensor: torch.Tensor) -> torch.Tensor:
    """Return it where a number may begin: a mapped file of others can have its tensors anywhere."""
    return tensor.clone() if tensor.data_ptr() % tensor.element_size() else tensor


def load_weights(path: Path) -> tuple[ModelConfig, dict[str, torch.Tensor]]:
    """Return the shape of a checkpoint's model, and its weights under GPT's names, in the precision of the file.

    Raises:
        CheckpointError: as `load_checkpoint`.
    """
    if _is_pickled(path):
        config, weights = read_pickled(path)
    else:
        verify(path)
        config, weights = read_model_config(path), _read_directory_weights(path)
    if config.arch == "gpt2":
        weights = from_foreign(weights, path)
    with torch.device("meta"):
        _check_shapes(build_model(config), weights, path)
    return config, weights


def read_config(path: str | Path) -> ModelConfig:
    """Return the shape of a checkpoint's model.

    Raises:
        CheckpointError: it is missing, damaged or not a GPT-2.
    """
    path = Path(path)
    if not _is_pickled(path):
        return read_model_config(path)
    try:
        return read_pickled_shape(path)
    except CheckpointError:
        return read_pickled(path)[0]  # which opens more, or tells what is wrong


def _is_pickled(path: Path) -> bool:
    """Return whether a checkpoint is a file of pickled weights; if not, it is a directory.

    Raises:
        CheckpointError: it is neither, or missing.
    """
    if path.is_dir() or (path.is_file() and path.suffix in PICKLED):
        return not path.is_dir()
    if path.exists():
        raise CheckpointError(
            f"{path} is not a checkpoint: neither a directory nor a file of weights (.pth, .pt, .bin)."
        )
    raise CheckpointError(f"There is no checkpoint {path}.")


def load_model_and_tokenizer(
    path: str | Path, device: str = "cpu", tokenizer: str | None = None
) -> tuple[GPT, Tokenizer]:
    """Return what `load_checkpoint` does, for those who need to read and write text.

    Raises:
        CheckpointError: as `load_checkpoint`, or the checkpoint has no tokenizer.
        TokenizerError: as `load_checkpoint`.
    """
    model, chosen = load_checkpoint(path, device, tokenizer)
    if chosen is None:
        raise CheckpointError(
            f"{path} brings no tokenizer, and its vocabulary of {model.config.vocab_size:,} is neither gpt2's nor "
            "bytes'. Name one with --tokenizer gpt2 or --tokenizer bytes."
        )
    return model, chosen


def load_training_state(path: str | Path, lazily: bool = False) -> dict[str, Any]:
    """Return what a run saved beside the weights to be resumed; `lazily` for who wants none of its tensors.

    Raises:
        DamageError: there is none.
        CheckpointError: it cannot be read, which for a file that is as it was saved is no damage.
    """
    file = Path(path) / STATE
    try:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True, mmap=lazily)
    except (FileNotFoundError, NotADirectoryError):
        raise DamageError(f"The checkpoint {path} has no {STATE}, so training cannot be resumed from it.") from None
    except Exception as error:  # torch raises many kinds for a damaged file, and for one that it cannot read just now
        raise CheckpointError(
            f"{file} cannot be read ({_first_line(error)}). If it is not damaged, then memory, open files or the disk "
            "are wanting; nothing was changed, so try again when that is mended."
        ) from error
    return state


def export_pth(file: Path, model: GPT) -> None:
    """Write the weights as nanoGPT does: `{"model": state_dict, "model_args": {...}}`, loadable with weights_only.

    Raises:
        CheckpointError: the model is no GPT-2, or the file exists already or cannot be written.
    """
    require_gpt2(model.config, "nanoGPT")
    if file.exists():
        raise CheckpointError(f"{file} exists already. Remove it or choose another name.")
    weights = to_nanogpt({name: tensor.detach().cpu() for name, tensor in model.state_dict().items()})
    shape = model.config
    names = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size", "dropout")
    staging = file.with_name(f".tmp-{file.name}-{os.getpid()}")
    try:
        torch.save(
            {"model": weights, "model_args": {name: getattr(shape, name) for name in names} | {"bias": True}}, staging
        )
        staging.rename(file)
    except (OSError, RuntimeError) as error:
        staging.unlink(missing_ok=True)
        raise CheckpointError(f"The weights could not be written to {file}: {error}.") from error


def require_gpt2(config: ModelConfig, whose: str) -> None:
    """Let only a GPT-2 into somebody else's format.

    Raises:
        CheckpointError: it is another model.
    """
    if config.arch != "gpt2":
        raise CheckpointError(
            f"This is a {config.arch} model, not a GPT-2, so {whose} cannot open it and it is not written in that "
            "format. To copy it for gpt-tui elsewhere: gpt-tui models export CHECKPOINT DESTINATION --format gpt-tui."
        )


def _read_directory_weights(directory: Path) -> dict[str, torch.Tensor]:
    shards = sorted(directory.glob("model-*-of-*.safetensors"))
    files = [directory / WEIGHTS] if (directory / WEIGHTS).exists() else shards
    try:
        if files:
            return {name: tensor for file in files for name, tensor in safetensors.torch.load_file(file).items()}
    except OSError as error:
        raise CheckpointError(f"The weights in {directory} cannot be read: {error.strerror or error}.") from error
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"The weights in {directory} are damaged: {_first_line(error)}.") from error
    if (directory / "pytorch_model.bin").exists():
        return read_pickled(directory / "pytorch_model.bin", read_model_config(directory))[1]
    raise CheckpointError(f"{directory} has no weights: neither {WEIGHTS} nor pytorch_model.bin.")


def _check_shapes(model: GPT, weights: Mapping[str, torch.Tensor], path: Path) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if missing := expected.keys() - found.keys():
        raise CheckpointError(
            f"{path} is not a whole {_kind(model)}: {min(missing)} and {len(missing) - 1} others are missing."
        )
    if extra := found.keys() - expected.keys():
        raise CheckpointError(
            f"{path} is not a plain {_kind(model)}: it has {min(extra)} and {len(extra) - 1} others beside it."
        )
    wrong = next((name for name in expected if expected[name] != found[name]), None)
    if wrong:
        raise CheckpointError(f"{path}: {wrong} has shape {found[wrong]}, but its config says {expected[wrong]}.")


def _kind(model: GPT) -> str:
    return "GPT-2" if model.config.arch == "gpt2" else f"{model.config.arch} model"


def load_tokenizer(path: Path, config: ModelConfig, spec: str | None = None) -> Tokenizer | None:
    """Return the tokenizer of a checkpoint, as `load_checkpoint` does.

    Raises:
        CheckpointError, TokenizerError: as there.
    """
    own = read_tokenizer(path) if path.is_dir() else None
    chosen = own or tokenizer_for_size(config.vocab_size)
    if spec is not None:
        if spec not in ("gpt2", "bytes"):
            raise TokenizerError(f"The tokenizer '{spec}' cannot be given to a checkpoint. Known: gpt2, bytes.")
        chosen = build_tokenizer(spec)
        if own is not None and own.fingerprint != chosen.fingerprint:
            raise TokenizerError(f"{path} brings its own tokenizer ({own.name}); with '{spec}' its ids mean nothing.")
    if chosen is not None and chosen.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{path} has a vocabulary of {config.vocab_size:,}, too small for the tokenizer "
            f"'{chosen.name}' with {chosen.vocab_size:,} tokens."
        )
    return chosen


def _seal(directory: Path) -> None:
    """Flush every file to disk and write the manifest last."""
    entries = {}
    for file in sorted(directory.iterdir()):
        with file.open("rb") as handle:
            entries[file.name] = {
                "bytes": file.stat().st_size,
                "sha256": hashlib.file_digest(handle, "sha256").hexdigest(),
            }
            os.fsync(handle.fileno())
    (directory / MANIFEST).write_text(json.dumps({"schema": 1, "files": entries}, indent=1) + "\n", encoding="utf-8")
    _flush(directory / MANIFEST)
    _flush(directory)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _bytes_of(value: object) -> int:
    """Return the bytes of the tensors in nested values."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(_bytes_of(each) for each in value.values())
    return sum(_bytes_of(each) for each in value) if isinstance(value, list | tuple) else 0
