"""Measuring generation beside what the machine can do: interleaved rounds, medians, fractions of its limits.

A token at batch 1 reads every weight once: its limit is the memory's bandwidth. A prompt is matrix products: its
limit is the rate at which torch multiplies large matrices. Both are measured between the rounds, where the model is.
"""

import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from gpt_model.backend import OpenModel
from gpt_model.config import ModelConfig
from gpt_model.generation import Engine, Request
from gpt_model.product_rates import ways_to_square
from gpt_model.token_record import Token
from samplers import Chain

_BUFFER = 2**27  # float32 numbers: 512 MiB, more than the caches hold
_ROW = 4096  # of the same, seen as a matrix
_SQUARE = 2048
_SQUARE_OF_OTHERS = 8192  # on a GPU, which a smaller product does not fill


@dataclass(frozen=True)
class Pace:
    """One generation."""

    time_to_first_token: float
    """Seconds from the request to its first token; the model is loaded and warm."""
    tokens_per_second: float
    """Of all samples together, after their first tokens."""


@dataclass(frozen=True)
class Limits:
    """What the model's device can do; a CPU with as many threads as the model has."""

    bandwidth: float
    """Bytes a second read from memory."""
    matmul: float
    """Operations a second in a product of large matrices: of float32 on a CPU, elsewhere of the model's numbers."""


def measure_pace(engine: Engine, chain: Chain, prompt: tuple[int, ...], new_tokens: int, samples: int) -> Pace:
    """Generate once, through everything a completion passes through: chain, draw and Token records.

    Nothing that was read before is known, however the prompt begins.
    """
    engine.forget()
    request = Request(prompt, chain, 1, samples, new_tokens, ignore_end_of_text=True)
    first = last = 0.0
    began, count = time.perf_counter(), 0
    for event in engine.generate(request):
        if isinstance(event, Token):
            last = time.perf_counter()
            first = first or last
            count += 1
    rate = (count - samples) / (last - first) if count > samples else 0.0
    return Pace(first - began, rate)


def prompts(vocab_size: int, length: int) -> Iterable[tuple[int, ...]]:
    """Yield prompts of random ids, of which no two begin alike while the vocabulary has beginnings left."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(vocab_size, generator=generator)
    for turn in range(sys.maxsize):
        rest = torch.randint(vocab_size, (length - 1,), generator=generator)
        yield (int(order[turn % vocab_size]), *rest.tolist())


class Machine:
    """Measures the limits of what a model runs on, a little at a time, between the rounds of what is compared."""

    def __init__(self, opened: OpenModel) -> None:
        self._threads = opened.backend.threads or torch.get_num_threads()
        self._device = opened.model.device
        on_cpu = self._device.type == "cpu"
        self._dtype = torch.float32 if on_cpu else getattr(torch, opened.backend.dtype)
        self._side = _SQUARE if on_cpu else _SQUARE_OF_OTHERS
        self._bandwidth: dict[str, list[float]] = {}
        self._matmul: dict[str, list[float]] = {}
        self._buffer: torch.Tensor | None = None

    @torch.inference_mode()
    def measure(self) -> None:
        """Measure both once more."""
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            if self._buffer is None:
                self._buffer = torch.ones(_BUFFER, device=self._device)
            buffer = self._buffer
            square = torch.ones(self._side, self._side, device=self._device, dtype=self._dtype)
            matrix, row = buffer.view(-1, _ROW), torch.ones(_ROW, device=self._device)
            # which of them reads as fast as the memory delivers depends on the processor
            readers: dict[str, Callable[[], object]] = {
                "sum": lambda: torch.sum(buffer),
                "dot": lambda: torch.dot(buffer, buffer),
                "mv": lambda: torch.mv(matrix, row),
            }
            for name, reader in readers.items():
                taken = self._bandwidth.setdefault(name, [])
                taken.extend(4 * _BUFFER / self._seconds(reader) for _ in range(3))
            for name, product in ways_to_square(square).items():
                rates = self._matmul.setdefault(name, [])
                rates.extend(2 * self._side**3 / self._seconds(product) for _ in range(3))
        finally:
            torch.set_num_threads(before)

    @property
    def limits(self) -> Limits:
        """Medians of what was measured, those of the fastest reader and of the fastest product."""
        return Limits(*(max(map(statistics.median, each.values())) for each in (self._bandwidth, self._matmul)))

    def _seconds(self, work: Callable[[], object]) -> float:
        _wait_for(self._device)
        began = time.perf_counter()
        work()
        _wait_for(self._device)
        return time.perf_counter() - began


def _wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was told: on a CPU it has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def bytes_per_token(opened: OpenModel) -> int:
    """Return the bytes of weights that one token reads at batch 1."""
    if (packed := getattr(opened.model, "packed", None)) is not None:
        return int(packed.bytes_per_token)
    config = opened.model.config
    size = 4 if opened.backend.name == "torch in float32" else getattr(torch, opened.backend.dtype).itemsize
    return (config.parameter_count - _table_numbers(config)) * size


def prefill_operations(opened: OpenModel, length: int) -> float:
    """Return the float operations of reading a prompt: the blocks' matrices and attention, and the head once."""
    config = opened.model.config
    head = config.vocab_size * config.n_embd
    blocks = config.parameter_count - head - _table_numbers(config)
    attention = 2 * config.n_layer * config.n_embd * length * length  # causal: half of q·k and of p·v
    return 2.0 * blocks * length + attention + 2.0 * head


def _table_numbers(config: ModelConfig) -> int:
    """Return the numbers of the table of which a token reads one row: of positions, or of tokens with a head apart."""
    return (config.block_size if config.arch == "gpt2" else config.vocab_size) * config.n_embd


def peak_memory() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_device_memory(opened: OpenModel) -> int | None:
    """Return the most bytes that tensors have taken on the model's device so far; None where it is this process's."""
    device = opened.model.device
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
