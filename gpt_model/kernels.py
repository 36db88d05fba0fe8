"""How a model that trains or scores computes on a CPU: by compiled code where it is the faster, or as torch does."""

import functools
import hashlib
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from gpt_model.compiling import are_compiled, is_compiled
from gpt_model.model import GPT, MLP, CausalSelfAttention, Dropout, Linear
from gpt_model.polar import PolarFactor
from gpt_model.product_rates import product_rates

_WORTH = 1.1
"""How much faster compiled products must be: between equals, torch's own way is the shorter one."""


def choose_products(model: GPT) -> bool:
    """Have a model on a CPU multiply in float32 by compiled code, if it is the faster here; return whether it does."""
    if model.device.type != "cpu" or not uses_compiled_products():
        return False
    from gpt_model.compiled.training_products import CompiledProducts

    model.products = CompiledProducts()
    for each in model.modules():
        if isinstance(each, Linear):
            each.product = model.products.linear
    return True


def uses_compiled_products() -> bool:
    """Whether float32 products are compiled ones on this machine."""
    rates = product_rates()
    return is_compiled("gemm") and rates.compiled > _WORTH * rates.torch


def compile_kernels(model: GPT) -> bool:
    """Have a model on a CPU use compiled code, if it is to be had here; return whether it does.

    torch's own takes a third of a small model's step, or half of it with dropout. The first time on a machine,
    compiling takes some seconds.
    """
    if model.device.type != "cpu" or not are_compiled():
        return False
    from gpt_model.compiled.cross_entropy import row_losses
    from gpt_model.compiled.dropout import dropout
    from gpt_model.compiled.gelu import linear_gelu
    from gpt_model.compiled.training_attention import linear_attend

    model.row_losses = row_losses
    for each in model.modules():
        if isinstance(each, CausalSelfAttention):
            each.linear_attend = linear_attend
        elif isinstance(each, MLP):
            each.linear_gelu = linear_gelu
        elif isinstance(each, Dropout) and each.share:
            each.drop = dropout
    return True


def choose_polar_factor(count: int, short: int, long: int, device: torch.device) -> PolarFactor:
    """Return what computes the polar factors of so many matrices (short, long): compiled code where it pays."""
    if device.type == "cpu" and is_compiled("polar"):
        from gpt_model.compiled.polar import CompiledPolarFactor, pays

        if pays(count, short, long):
            return CompiledPolarFactor(count, short, long)
    return PolarFactor(count, short, long, device)


def describe_kernels(compiled: bool) -> dict[str, str]:
    """Return what computes a step's parts beside the products, in words that differ when other numbers may come out.

    Compiled code is told by its sources, as in "compiled 3fa9c1": another version of it adds in another order.
    """
    if not compiled:
        return {"kernels": "torch"}
    compiler = f"numba {_version('numba')}, llvmlite {_version('llvmlite')}"
    sources = _sources()
    digest = hashlib.sha256("".join(sources[name] for name in sorted(sources)).encode()).hexdigest()
    return {"kernels": f"compiled {digest[:6]}", "compiler": compiler}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # what it made before is in the cache
        return "gone"


@functools.cache
def _sources() -> dict[str, str]:
    """Return by name the sources of the compiled code that training uses, and of all that they import there."""
    directory = Path(__file__).parent / "compiled"
    sources: dict[str, str] = {}
    missing = {
        "training_attention", "training_products", "training_entries", "cross_entropy", "dropout", "gelu", "polar",
    }  # fmt: skip
    while missing:
        sources |= {name: (directory / f"{name}.py").read_text(encoding="utf-8") for name in missing}
        found = re.findall(r"from gpt_model\.compiled(?:\.| import )(\w+)", "\n".join(sources.values()))
        missing = set(found) - sources.keys()
    return sources
