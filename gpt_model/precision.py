"""autocast_dtype: in which precision a step's matrix products are computed. Weights and optimizers stay float32."""

from typing import Literal

import torch

PAYS_FROM = 128
"""n_embd from which bfloat16 pays on a CPU with AMX: in narrower models the conversions take what the products gain."""


def autocast_dtype(
    precision: Literal["auto", "float32", "bfloat16"], device: torch.device, n_embd: int
) -> torch.dtype | None:
    """Return what torch.autocast is to compute in on a device, for a model of that width; None to leave float32."""
    if precision == "auto":
        return torch.bfloat16 if _pays(device, n_embd) else None
    return torch.bfloat16 if precision == "bfloat16" else None


def _pays(device: torch.device, n_embd: int) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # AVX-512's own bfloat16 instructions do not pay: steps took 1.3 to 1.6 times as long as in float32, at any width.
    return device.type == "cpu" and n_embd >= PAYS_FROM and bool(torch.cpu._is_amx_tile_supported())
