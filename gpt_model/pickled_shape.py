"""The shape of the GPT-2 in a pickled file of weights (.pth, .pt, .bin), read without torch, its weights and its code.

torch.save writes a zip archive with one pickle, in older releases several pickles in a row. In either the tensors are
calls of a few known functions; only those are answered, and anything else in the file is refused.
"""

import dataclasses
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from gpt_model.config import ModelConfig
from gpt_model.errors import CheckpointError, ConfigError

PICKLED = (".pth", ".pt", ".bin", ".ckpt")
"""How the names of such files end."""
Shapes = Mapping[str, tuple[int, ...]]
_STORAGE = re.compile(r"\w*Storage|(?:b?float|u?int|complex|bool)\w*")


class _Shape(tuple[int, ...]):
    """A tensor's shape, told from any other tuple in the file."""


def read_pickled_shape(file: Path) -> ModelConfig:
    """Return the shape of the model in a pickled file: a bare state dict, or nanoGPT's checkpoint with `model_args`.

    Raises:
        CheckpointError: the file is missing, damaged, contains code, or is no GPT-2.
    """
    if file.suffix not in PICKLED:
        raise CheckpointError(
            f"{file} is not a checkpoint: neither a directory nor a file of weights (.pth, .pt, .bin)."
        )
    try:
        with file.open("rb") as stream:
            content = _read_content(stream)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror or error}.") from error
    except _NoWeight as error:
        raise CheckpointError(f"{file} is no file of weights that can be opened: it holds {error}.") from error
    except Exception as error:  # a damaged pickle raises nearly anything, in words that say nothing
        raise CheckpointError(
            f"{file} is damaged or no file of weights: copy it again, whole, or name a file that torch.save wrote."
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{file} holds a {type(content).__name__}, not a state dict.")
    nested = content.get("model", content.get("state_dict"))
    shapes = {str(name): shape for name, shape in (nested if isinstance(nested, Mapping) else content).items()}
    if not shapes or not all(isinstance(shape, _Shape) for shape in shapes.values()):
        raise CheckpointError(f"{file} holds no state dict of a GPT-2.")
    said = content.get("model_args")
    return shape_of(shapes, said if isinstance(said, Mapping) else {}, file)


def shape_of(shapes: Shapes, said: Mapping[str, Any], file: Path) -> ModelConfig:
    """Return the shape of a GPT-2 whose tensors have these, of whichever form; `said` are nanoGPT's `model_args`.

    A bare state dict does not say how many heads there are; every GPT-2 has heads of 64, so that is taken where it
    divides the width.

    Raises:
        CheckpointError: it is no GPT-2, or its heads cannot be told.
    """
    named = {bare_name(name): shape for name, shape in shapes.items()}
    try:
        vocab_size, n_embd = named["wte.weight"]
        block_size = named["wpe.weight"][0]
        (inner,) = named["h.0.mlp.c_fc.bias"]
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(f"{file} is not a GPT-2: it has no {error}.") from error
    n_layer = 1 + max(int(name.split(".")[1]) for name in named if re.match(r"h\.\d+\.", name))
    n_head = said.get("n_head") or (n_embd // 64 if n_embd % 64 == 0 else 0)
    if not n_head:
        raise CheckpointError(
            f"{file} does not say how many heads its width of {n_embd} is parted into. "
            "Save it with nanoGPT's 'model_args', or as a Hugging Face directory."
        )
    try:
        shape = ModelConfig(n_layer, n_head, n_embd, block_size, vocab_size)
        return shape if inner == 4 * n_embd else dataclasses.replace(shape, n_inner=inner)
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{file} describes no possible model: {error}") from error


def bare_name(name: str) -> str:
    """Return a parameter's name without what torch.compile, DDP and Hugging Face put before it."""
    return name.removeprefix("_orig_mod.").removeprefix("module.").removeprefix("transformer.")


def _read_content(stream: IO[bytes]) -> Any:
    if zipfile.is_zipfile(stream):
        stream.seek(0)
        with zipfile.ZipFile(stream) as archive:
            name = next(each for each in archive.namelist() if each.endswith("/data.pkl"))
            return _Unpickler(archive.open(name)).load()
    stream.seek(0)
    for _ in range(3):  # a magic number, the format's version, what machine it was
        _Unpickler(stream).load()
    return _Unpickler(stream).load()


class _NoWeight(pickle.UnpicklingError):
    """The file holds something that weights are not made of."""


class _Unpickler(pickle.Unpickler):
    """Reads tensors as shapes, plain values as they are, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, *rest: _Shape(size)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *rest: tensor
        if module == "torch" and name in ("Size", "device"):
            return lambda *what: what
        if module in ("torch", "torch.storage") and _STORAGE.fullmatch(name):
            return name
        raise _NoWeight(f"{module}.{name}, which is no weight")

    def persistent_load(self, pid: Any) -> None:
        """Leave the numbers where they are."""
