"""Packed weights on disk, beside their checkpoint: mapped into memory, so that a second start reads nothing twice.

CHECKPOINT/packed/int8/          or CHECKPOINT.pth.packed/int8/, or in the user's cache where that cannot be written
    head.npy  head_scales.npy  matrices.npy  scales.npy  vectors.npy
    packed.json                  format, the model's shape, what it was made of, and each file's SHA-256

python -m gpt_model.compiled.packed_files CHECKPOINT DTYPE DIRECTORY      packs, in a process of its own: the
                                 float32 weights are needed for this alone, and would stay the peak of the memory
"""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from gpt_model.compiled.layout import PackedDtype
from gpt_model.compiled.packing import PackedModel
from gpt_model.config import ModelConfig
from gpt_model.config_values import from_table
from gpt_model.errors import CheckpointError, ConfigError

_FORMAT = 4
_ARRAYS = ("head", "head_scales", "matrices", "scales", "vectors")


def load_packed(checkpoint: Path, dtype: PackedDtype) -> PackedModel | None:
    """Return a checkpoint's packed form from disk; None when there is none, a damaged one, or one of other weights."""
    for directory in _places(checkpoint, dtype):
        try:
            if (packed := _load(directory, origin_of(checkpoint))) is not None:
                return packed
        except (OSError, ValueError, KeyError, TypeError, ConfigError):
            continue  # cut short or of another format: it is made anew
    return None


def pack_to_disk(checkpoint: Path, dtype: PackedDtype) -> PackedModel | None:
    """Pack a checkpoint in another process (packer.py) and return what is on disk then.

    None when no disk takes it, or when a weight is too large for the precision.

    Raises:
        CheckpointError: the checkpoint cannot be loaded.
    """
    for directory in _places(checkpoint, dtype):
        command = [sys.executable, "-P", "-m", "gpt_model.packer", str(checkpoint), dtype, str(directory)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 3:
            raise CheckpointError(done.stderr.strip().splitlines()[-1])
        if done.returncode == 0 and (packed := load_packed(checkpoint, dtype)) is not None:
            return packed
    return None


def save_packed(directory: Path, packed: PackedModel, origin: dict[str, Any]) -> None:
    """Write a packed model in one step.

    Raises:
        OSError: the disk refuses; nothing is left behind.
    """
    staging = directory.with_name(f".tmp-{directory.name}-{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
        hashes = {}
        for name in _ARRAYS:
            if (array := getattr(packed, name)) is not None:
                np.save(staging / f"{name}.npy", array)
                hashes[name] = _hash(staging / f"{name}.npy")
        about = {"format": _FORMAT, "dtype": packed.dtype, "model": _table(packed.config), "origin": origin}
        (staging / "packed.json").write_text(json.dumps(about | {"sha256": hashes}, indent=1), encoding="utf-8")
        shutil.rmtree(directory, ignore_errors=True)
        staging.rename(directory)
    except OSError:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _load(directory: Path, origin: dict[str, Any]) -> PackedModel | None:
    if not (directory / "packed.json").is_file():
        return None
    about = json.loads((directory / "packed.json").read_text(encoding="utf-8"))
    if about["format"] != _FORMAT or about["origin"] != origin:
        return None
    arrays: dict[str, Any] = dict.fromkeys(_ARRAYS)
    for name, expected in about["sha256"].items():
        file = directory / f"{name}.npy"
        if _hash(file) != expected:
            return None
        arrays[name] = np.asarray(np.load(file, mmap_mode="r"))
    return PackedModel(from_table(ModelConfig, about["model"]), about["dtype"], **arrays)


def _places(checkpoint: Path, dtype: PackedDtype) -> Iterator[Path]:
    """Yield where the packed form may lie, best first."""
    beside = checkpoint / "packed" if checkpoint.is_dir() else checkpoint.with_name(checkpoint.name + ".packed")
    yield beside / dtype
    name = hashlib.sha256(str(checkpoint.resolve()).encode()).hexdigest()[:16]
    yield platformdirs.user_cache_path("gpt-tui") / "packed" / name / dtype


def origin_of(checkpoint: Path) -> dict[str, Any]:
    """Return what tells whether the weights are still the same: every weight file's size and time."""
    files = [checkpoint]
    if checkpoint.is_dir():
        files = [*checkpoint.glob("*.safetensors"), *checkpoint.glob("*.bin"), checkpoint / "config.json"]
    return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(files)}


def _table(config: ModelConfig) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(config).items() if value is not None}


def _hash(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
