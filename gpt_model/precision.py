"""autocast_dtype: in which precision a step's matrix products are computed. Weights and optimizers stay float32."""

from typing import Literal

import torch

from gpt_model.product_rates import product_rates

PAYS_FROM = 128
"""n_embd from which bfloat16 pays on a CPU: in narrower models the conversions take what the products gain."""
_WORTH = 1.5
"""How much faster a product must be: AMX is six times as fast and a Zen 5 twice, but AVX-512's bfloat16 instructions on
other CPUs are no faster at all, and steps took 1.3 to 1.6 times as long."""


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
    if device.type != "cpu" or n_embd < PAYS_FROM:
        return False
    rates = product_rates()
    return rates.bfloat16 > _WORTH * max(rates.torch, rates.compiled)
