"""StepBenchmark: training steps of a preset, timed beside the rate at which this machine multiplies large matrices.

The steps are those of a run: batches of random ids go through the real Updater.
"""

import dataclasses
import statistics
import time
from dataclasses import dataclass

import torch

from gpt_model.architectures import build_model
from gpt_model.batches import Batch
from gpt_model.benchmark import peak_memory
from gpt_model.config import ModelConfig
from gpt_model.device import choose_device
from gpt_model.presets import Preset
from gpt_model.product_rates import ways_to_square
from gpt_model.update import Updater

_SQUARE = 2048
_STANDING = 1e-9
"""A learning rate at which nothing is learned."""


@dataclass(frozen=True)
class StepPace:
    """What a preset's steps take here. Times are medians."""

    step_seconds: float
    tokens_per_second: float
    matmul_fraction: float
    """The step's float operations a second, of those of a product of large matrices in the same precision."""
    matmul_flops_per_second: float
    """Of that product."""
    peak_rss_bytes: int
    """Largest resident memory of this process after the first steps, before the product was measured."""
    device: str
    precision: str
    threads: int
    """Of torch on the CPU."""
    parameters: int
    batch_size: int
    sequence_length: int


class StepBenchmark:
    """A preset's model, ready to be trained."""

    def __init__(self, preset: Preset) -> None:
        """Build the model.

        Raises:
            GptError: the preset's device is not here.
        """
        # Weights that learn chance by heart come to numbers that are too small for the CPU's fast paths.
        self._train = dataclasses.replace(preset.train, learning_rate=_STANDING, muon_learning_rate=_STANDING)
        if preset.train.threads:
            torch.set_num_threads(preset.train.threads)
        self._device = choose_device(preset.train.device)
        torch.manual_seed(0)
        model = build_model(preset.model).to(self._device).train()
        self._config = model.config
        self._updater = Updater(model, self._train)
        self._length = preset.train.sequence_length or preset.model.block_size

    def step(self, step: int) -> float:
        """Make one update and return the seconds that it took."""
        batch = random_batch(self._config.vocab_size, self._train.batch_size, self._length, step)
        began = time.perf_counter()
        self._updater.update(batch, step, self._train)
        self._wait()
        return time.perf_counter() - began

    def matmul_rate(self) -> float:
        """Return the float operations a second of a product of large matrices, in the precision of the steps.

        By the fastest way that this machine has, whichever the steps use.
        """
        dtype = self._updater.precision or torch.float32
        square = torch.ones(_SQUARE, _SQUARE, device=self._device, dtype=dtype)
        seconds: dict[str, list[float]] = {}
        for _ in range(4):
            for name, way in ways_to_square(square).items():
                began = time.perf_counter()
                way()
                self._wait()
                seconds.setdefault(name, []).append(time.perf_counter() - began)
        return (
            2 * _SQUARE**3 / min(statistics.median(taken[1:]) for taken in seconds.values())
        )  # the first fills caches

    def measure(self, steps: int) -> StepPace:
        """Make four steps to warm up and `steps` that count, with the product measured between them."""
        for warm in range(4):
            self.step(warm)
        peak = peak_memory()
        between = max(steps // 10, 1)
        taken, rates = [], []
        for step in range(steps):
            if step % between == 0:
                rates.append(self.matmul_rate())
            taken.append(self.step(4 + step))
        seconds, rate = statistics.median(taken), statistics.median(rates)
        batch_size = self._train.batch_size
        operations = step_operations(self._config, batch_size, self._length)
        return StepPace(
            seconds, batch_size * self._length / seconds, operations / seconds / rate, rate, peak,
            self._device.type, "bfloat16" if self._updater.precision else "float32", torch.get_num_threads(),
            self._config.parameter_count, batch_size, self._length,
        )  # fmt: skip

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def random_batch(vocab_size: int, batch_size: int, length: int, step: int) -> Batch:
    """Return ids and targets (batch_size, length) from a step's own seed."""
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(vocab_size, (batch_size, length + 1), generator=generator)
    return ids[:, :-1].numpy(), ids[:, 1:].numpy()


def step_operations(config: ModelConfig, batch_size: int, length: int) -> float:
    """Return the float operations of the matrix products of one update, forward and twice as many backward.

    A GPT-2's blocks and tied head, and attention over the half of the pairs that it sees. What is computed again or
    beside the products does not count.
    """
    width = config.n_embd
    matrices = config.n_layer * (4 * width * width + 2 * width * config.inner) + config.vocab_size * width
    tokens = batch_size * length
    attention = 2 * config.n_layer * config.n_embd * length * tokens
    return 3.0 * (2.0 * matrices * tokens + attention)
