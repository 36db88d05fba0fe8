"""Which device computes: the choice behind `auto`, and a clear word when a wish cannot be granted."""

import os

import torch

from gpt_model.config import ModelConfig
from gpt_model.errors import ConfigError

_SMALL = 20_000_000
_TORCHS = torch.get_num_threads()
"""Before anybody set it: a small model that was opened before leaves torch with one."""


def choose_device(name: str) -> torch.device:
    """Return the device of a configuration: auto is CUDA where there is one, then MPS, then the CPU.

    Raises:
        ConfigError: there is no such device here.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(each for each, is_there in present.items() if is_there)
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device = {name}: must be one of auto, {', '.join(sorted(present))}.") from None
    if not present.get(device.type, False):
        raise ConfigError(f"device = {name}: there is none on this machine. Set device to auto or cpu.")
    return device


def is_small(model: ModelConfig) -> bool:
    """Whether a model's weights stay in the CPU's own memory, so that neither a second thread nor fewer bits pay."""
    return model.parameter_count < _SMALL


def generation_threads(threads: int, model: ModelConfig) -> int:
    """Return the CPU threads of generation; 0 leaves the choice to the model's size.

    A small model's matrices are too small to share: a second thread gains a tenth, and loses nine tenths when
    something else, such as a training run, wants the cores, because threads wait for each other at every operator.
    """
    return threads or (1 if is_small(model) else cores())


def cores() -> int:
    """Return the cores that this process may use; torch counts the machine's real ones, without their twins."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min(allowed, _TORCHS), 1)
