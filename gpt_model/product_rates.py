"""product_rates: how fast this machine multiplies matrices, by torch and by compiled code; measured once and kept."""

import functools
import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt_model.cache_directory import cache_directory
from gpt_model.compiling import is_compiled
from gpt_model.processor import processor

_ROWS, _INNER, _WIDTH = 512, 768, 1536  # as large as is fast everywhere: eight rounds take a tenth of a second
_ROUNDS = 8


@dataclass(frozen=True)
class ProductRates:
    """Operations a second; 0 where there is no such way."""

    torch: float
    """float32 by torch.mm, which is MKL's on x86."""
    compiled: float
    """float32 by compiled/gemm.py."""
    bfloat16: float
    """bfloat16 by torch.mm."""


def ways_to_square(matrix: Tensor) -> dict[str, Callable[[], Any]]:
    """Return the ways of multiplying a square matrix with itself, by name: who tells a rate takes the best.

    oneDNN's is among them, which torch brings along, and in float32 uses for compiled graphs only.
    """
    ways: dict[str, Callable[[], Any]] = {"torch": lambda: torch.mm(matrix, matrix)}
    if matrix.device.type != "cpu" or matrix.dtype != torch.float32:
        return ways
    with suppress(AttributeError, RuntimeError):  # not in this build of torch, or not for this CPU
        product = torch.ops.mkldnn._linear_pointwise
        product(matrix[:1], matrix[:1], None, "none", [], "")
        ways["oneDNN"] = lambda: product(matrix, matrix, None, "none", [], "")
    if is_compiled("gemm"):
        from gpt_model.compiled.gemm import gemm

        ways["compiled"] = lambda: gemm(matrix, matrix)
    return ways


@functools.cache
def product_rates() -> ProductRates:
    """Return the rates that were measured on this machine, once: a choice that changes is no exact resume."""
    kept = _file()
    try:
        told = json.loads(kept.read_text(encoding="utf-8"))
        return ProductRates(**{name: float(value) for name, value in told.items()})
    except (OSError, ValueError, TypeError, AttributeError):
        rates = _measure()
    staging = kept.with_name(f".tmp-{os.getpid()}-{kept.name}")
    with suppress(OSError):  # without a disk it is measured every time
        kept.parent.mkdir(parents=True, exist_ok=True)
        staging.write_text(json.dumps(asdict(rates)), encoding="utf-8")
        staging.rename(kept)
    return rates


def _file() -> Path:
    about = f"{torch.__version__} {processor()} {torch.backends.cpu.get_cpu_capability()}"
    if is_compiled("gemm"):
        from gpt_model.compiled.machine_code import code_version

        about += f" {code_version()}"
    name = f"{hashlib.sha256(about.encode()).hexdigest()[:12]}.json"
    return cache_directory() / "products" / name


def _measure() -> ProductRates:
    """Return the best of some interleaved rounds: what else is at work here slows all of them."""
    with torch.no_grad():
        a, b = torch.ones(_ROWS, _INNER), torch.ones(_INNER, _WIDTH)
        low = a.bfloat16(), b.bfloat16()
        ways: dict[str, Callable[[], Any]] = {"torch": lambda: torch.mm(a, b), "bfloat16": lambda: torch.mm(*low)}
        if is_compiled("gemm"):
            from gpt_model.compiled.gemm import gemm

            ways["compiled"] = lambda: gemm(a, b)
        best = {"compiled": 0.0} | dict.fromkeys(ways, 0.0)
        for _ in range(_ROUNDS):
            for name, way in ways.items():
                began = time.perf_counter()
                way()
                best[name] = max(best[name], 2 * _ROWS * _INNER * _WIDTH / (time.perf_counter() - began))
    return ProductRates(**best)
