"""Which device computes: the choice behind `auto`, and a clear word when a wish cannot be granted."""

import torch

from gpt_model.errors import ConfigError


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
