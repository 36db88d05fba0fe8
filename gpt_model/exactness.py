"""Exactness: whether going on from a checkpoint gives the very numbers that an undisturbed run would have given.

It does on the same build, device, threads and processes; floating-point sums come out otherwise in another order.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from gpt_model.processor import processor


@dataclass(frozen=True)
class Exactness:
    """The verdict on a resume: EXACT, or APPROXIMATE and why."""

    reasons: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether the numbers will be the same."""
        return not self.reasons

    def __str__(self) -> str:
        """Return it as it is told, as in "APPROXIMATE: threads 2→1"."""
        return f"APPROXIMATE: {', '.join(self.reasons)}" if self.reasons else "EXACT"


def describe_environment(
    device: torch.device,
    precision: torch.dtype | None,
    data: str,
    processes: int,
    kernels: Mapping[str, str],
    compiled_products: bool,
) -> dict[str, str]:
    """Return what must not change for the same numbers to come out, by names that a person knows.

    Args:
        device: Where is computed.
        precision: In which matrix products are computed; None is float32.
        data: Checksum of the tokens; empty if nobody knows it.
        processes: How many share a batch.
        kernels: What a step's parts beside the products are computed by on a CPU, as kernels.describe_kernels tells it.
        compiled_products: Whether float32 products are, on a CPU.
    """
    told = {
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": str(processes),
        "precision": str(precision or torch.float32).removeprefix("torch."),
    }
    if device.type == "cpu":
        told |= {
            "threads": str(torch.get_num_threads()), "processor": torch.backends.cpu.get_cpu_capability(),
            "products": "compiled" if compiled_products else "torch", "CPU": processor(), **kernels,
        }  # fmt: skip
    return told | ({"data": data} if data else {})


def judge(before: Mapping[str, str], now: Mapping[str, str]) -> Exactness:
    """Return whether training in the environment `now` goes on exactly from what was trained in `before`.

    What only one of them tells is no difference: an older checkpoint did not know of it, or another device is named.
    """
    changes = [f"{name} {before[name]}→{now[name]}" for name in now if before.get(name, now[name]) != now[name]]
    if now["device"] != "cpu":
        changes.append("a GPU adds in no fixed order")
    return Exactness(tuple(changes))
