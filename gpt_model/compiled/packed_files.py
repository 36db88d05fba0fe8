"""Packed weights on disk, beside their checkpoint: a second start packs nothing again.

CHECKPOINT/packed/int8/          or CHECKPOINT.pth.packed/int8/, or in the user's cache where that cannot be written
    head.npy  head_scales.npy  matrices.npy  scales.npy  vectors.npy
    packed.json                  format, the model's shape, what it was made of, and each file's SHA-256; or, alone,
                                 why these weights cannot be packed so

They are packed in a process of its own (packer.py).
"""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from gpt_model.compiled.layout import PackedDtype
from gpt_model.compiled.memory import Array
from gpt_model.compiled.packed_places import forget, places, read
from gpt_model.compiled.packing import PackedModel, RangeError, expected_arrays
from gpt_model.compiled.sizes import Sizes
from gpt_model.config import ModelConfig
from gpt_model.errors import CheckpointError, GptError
from gpt_model.lifeline import lifeline
from gpt_model.weight_origin import hash_of, origin_of

_FORMAT = 5
UNUSABLE, TOO_LARGE, NOT_KEPT = 3, 4, 5
"""Exit codes of the packer; why stands in its last line on standard error."""


class NotKeptError(GptError):
    """No disk took the packed weights."""


def load_packed(checkpoint: Path, config: ModelConfig, dtype: PackedDtype) -> PackedModel | None:
    """Return a checkpoint's packed form from disk; None when there is none, a damaged one, or one of other weights.

    Raises:
        RangeError: it was found before that a weight is too large for the precision.
    """
    try:
        for directory in places(checkpoint, dtype):
            try:
                if (packed := _load(directory, checkpoint, config, dtype)) is not None:
                    return packed
            except (OSError, ValueError, KeyError, TypeError):
                continue  # cut short or of another format: it is made anew
        return None
    finally:
        forget()  # what was read ahead is not what stands there when it is asked for again


def pack_to_disk(checkpoint: Path, config: ModelConfig, dtype: PackedDtype) -> PackedModel:
    """Pack a checkpoint in another process and return what is on disk then.

    Raises:
        CheckpointError: the checkpoint cannot be loaded.
        RangeError: a weight is too large for the precision.
        NotKeptError: no disk takes it.
    """
    where = map(str, places(checkpoint, dtype))
    command = [sys.executable, "-P", "-m", "gpt_model.packer", str(checkpoint), dtype, *where]
    with lifeline() as line:
        done = subprocess.run(command, stdin=line, capture_output=True, text=True, check=False)
    why = (done.stderr.strip().splitlines() or [f"the packer ended with exit code {done.returncode}"])[-1]
    if done.returncode == UNUSABLE:
        raise CheckpointError(why)
    if done.returncode == TOO_LARGE:
        raise RangeError(why)
    if done.returncode == 0:
        if (packed := load_packed(checkpoint, config, dtype)) is not None:
            return packed
        why = "what was written is not what is read"
    raise NotKeptError(f"The packed weights could not be kept: {why.rstrip('.')}.")


def save_packed(places: Sequence[Path], packed: PackedModel, origin: dict[str, Any]) -> None:
    """Write a packed model, in one step, into the first of these directories that takes it.

    Raises:
        OSError: none does; nothing is left behind.
    """
    arrays = {name: getattr(packed, name) for name in expected_arrays(packed.sizes)}
    _save(places, _about(packed.config, packed.dtype, origin), arrays)


def save_refusal(
    places: Sequence[Path], config: ModelConfig, dtype: PackedDtype, origin: dict[str, Any], why: str
) -> None:
    """Note that these weights cannot be packed so: it need not be tried again.

    Raises:
        OSError: as `save_packed`.
    """
    _save(places, _about(config, dtype, origin) | {"refused": why}, {})


def _save(places: Sequence[Path], about: dict[str, Any], arrays: Mapping[str, Array]) -> None:
    refused: list[OSError] = []
    for directory in places:
        try:
            return _write(directory, about, arrays)
        except OSError as error:
            refused.append(error)
    raise refused[0]


def _write(directory: Path, about: dict[str, Any], arrays: Mapping[str, Array]) -> None:
    _sweep(directory.parent)
    staging = directory.with_name(f".tmp-{directory.name}-{os.getpid()}")
    try:
        staging.mkdir(parents=True)
        hashes = {}
        for name, array in arrays.items():
            np.save(staging / f"{name}.npy", array)
            hashes[name] = hash_of(staging / f"{name}.npy")
        about = about | {"sha256": hashes}
        (staging / "packed.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
        if not _holds(directory, about):
            shutil.rmtree(directory, ignore_errors=True)
            with suppress(OSError):
                staging.rename(directory)
            if staging.exists() and not _holds(directory, about):  # nor was another process quicker
                staging.rename(directory)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _holds(directory: Path, about: dict[str, Any]) -> bool:
    """Whether just this is there already, whole."""
    try:
        there = json.loads((directory / "packed.json").read_text(encoding="utf-8")) == about
        return there and all(hash_of(directory / f"{name}.npy") == told for name, told in about["sha256"].items())
    except (OSError, ValueError):
        return False


def _sweep(room: Path) -> None:
    """Remove what processes that were killed have left half-written."""
    for path in room.glob(".tmp-*-*"):
        pid = path.name.rpartition("-")[2]
        if pid.isdigit() and (int(pid) == os.getpid() or not _is_alive(int(pid))):
            shutil.rmtree(path, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _load(directory: Path, checkpoint: Path, config: ModelConfig, dtype: PackedDtype) -> PackedModel | None:
    file = directory / "packed.json"
    if not file.is_file():
        return None
    about = json.loads(file.read_text(encoding="utf-8"))
    known = about["origin"]
    if {**about, **_about(config, dtype, known)} != about:
        return None
    origin = origin_of(checkpoint, known)
    if origin["sha256"] != known["sha256"]:
        return None
    if origin is not known:
        _note_origin(file, about | {"origin": origin})
    if why := about.get("refused"):
        raise RangeError(str(why))
    arrays: dict[str, Any] = {"head_scales": None, "scales": None}
    for name, (kind, count) in expected_arrays(Sizes(config, dtype)).items():
        arrays[name], digest = read(directory / f"{name}.npy")
        if digest != about["sha256"][name] or arrays[name].dtype != kind or arrays[name].shape != (count,):
            return None
    return PackedModel(config, dtype, **arrays)


def _note_origin(file: Path, about: dict[str, Any]) -> None:
    """Take note that the checkpoint is a copy, or was touched: it need not be hashed the next time."""
    staging = file.with_name(f".tmp-{file.name}-{os.getpid()}")
    with suppress(OSError):
        staging.write_text(json.dumps(about, indent=1), encoding="utf-8")
        staging.replace(file)


def _about(config: ModelConfig, dtype: PackedDtype, origin: object) -> dict[str, Any]:
    shape = {name: value for name, value in dataclasses.asdict(config).items() if value is not None}
    return {"format": _FORMAT, "dtype": dtype, "model": shape, "origin": origin}
