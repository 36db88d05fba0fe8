"""Updater: one update of the weights after another on one device. Knows no run, no file and no schedule of events."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gpt_model.averaging import AveragedWeights
from gpt_model.batches import Batch
from gpt_model.config import TrainConfig
from gpt_model.kernels import choose_polar_factor, choose_products, compile_kernels
from gpt_model.model import GPT
from gpt_model.optim import Optimizer, clip_gradients
from gpt_model.precision import autocast_dtype


@dataclass(frozen=True)
class Reading:
    """What one update showed."""

    step: int
    """Updates made, this one included."""
    loss: float
    """Mean cross-entropy of the batch before the update, in nats a token, and the z-loss where there is one."""
    grad_norm: float
    """Norm of the gradient before clipping."""
    learning_rate: float

    @property
    def finite(self) -> bool:
        """Whether the update was made: it is skipped when the loss or the gradient is not finite."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class Updater:
    """A model in training, with its optimizers and, where they are wanted, its averaged weights."""

    def __init__(self, model: GPT, train: TrainConfig) -> None:
        self.model = model
        self.micro_batch_size: int = train.micro_batch_size or train.batch_size
        """Sequences that are computed at once; becomes smaller when memory runs out."""
        compile_kernels(model)
        choose_products(model)
        self.precision: torch.dtype | None = autocast_dtype(train.precision, model.device, model.config.n_embd)
        """What matrix products are computed in; None is float32."""
        self._optimizers = Optimizer(model, train, choose_polar_factor)
        self._averages = AveragedWeights(model, train.ema_decay) if train.ema_decay else None
        self._are_averages_shown = False
        self._device = model.device
        self._on_cuda = self._device.type == "cuda"
        # On CUDA a step's numbers are fetched while the next step computes, so that the GPU never waits for Python.
        self._waiting: deque[tuple[int, float, Tensor, torch.cuda.Event | None]] = deque()

    def update(self, batch: Batch, step: int, train: TrainConfig) -> list[Reading]:
        """Make the update after `step` updates; return the readings that are known by now, oldest first.

        Raises:
            RuntimeError, MemoryError: memory ran out although one sequence at a time was computed.
        """
        learning_rate = self._optimizers.apply(train, step)
        loss = self._gradients(batch, train.z_loss)
        numbers = torch.stack((loss, self._clip(train.grad_clip)))
        is_finite = torch.isfinite(numbers).all()
        if self._on_cuda:
            self._optimizers.step(skip=1 - is_finite.float())
        elif is_finite:
            self._optimizers.step(skip=None)
        self._optimizers.zero_grad()
        if self._averages is not None:
            self._averages.after_update()
        self._waiting.append((step + 1, learning_rate, *self._fetch(numbers)))
        return self._read(all_but=1 if self._on_cuda else 0)

    def settle(self) -> list[Reading]:
        """Return the readings that are still under way."""
        return self._read(all_but=0)

    @torch.no_grad()
    def evaluate(self, batches: Sequence[Batch], broken_off: Callable[[], bool]) -> float | None:
        """Return the mean loss over batches of the weights that are shown, in nats a token; None when broken off.

        Draws no random numbers.
        """
        losses, counts = [], []
        self.model.eval()
        try:
            with self.shown():
                for ids, targets in (part for batch in batches for part in self._parts(batch)):
                    if broken_off():
                        return None
                    with self._autocast():
                        losses.append(self.model.loss(ids, targets))
                    counts.append(targets.numel())
        finally:
            self.model.train()
        nats = torch.stack(losses).cpu().double()  # the only place where the device is waited for
        return float(nats @ torch.tensor(counts, dtype=torch.float64)) / sum(counts)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Have the weights that are evaluated, sampled and saved stand in the model: the averages, if there are any."""
        if self._averages is None or self._are_averages_shown:
            yield
            return
        with self._averages.in_model():
            self._are_averages_shown = True
            try:
                yield
            finally:
                self._are_averages_shown = False

    def to_state(self) -> dict[str, Any]:
        """Return all that going on exactly needs beside the weights that are shown, for a checkpoint.

        The tensors are those in use, and `shown` lets averages and weights change places: take the state and save it
        on the same side of it.
        """
        state = {"optimizers": self._optimizers.to_state(), "micro_batch_size": self.micro_batch_size}
        if self._averages is not None:
            averages = self._averages.to_state()
            if self._are_averages_shown:
                averages |= {"averages": averages["raw"], "raw": averages["averages"]}
            state["averages"] = averages
        return state | self._random_state()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `to_state` returned."""
        self._optimizers.restore(state["optimizers"])
        if self._averages is not None:
            self._averages.restore(state["averages"])
        self.micro_batch_size = state["micro_batch_size"]
        self._restore_random(state)

    # --- the gradient

    def _gradients(self, batch: Batch, z_loss: float) -> Tensor:
        """Leave the gradient of a batch's mean loss in the parameters; return that loss.

        When memory runs out, the same batch is computed again in parts of half the size.
        """
        random = self._random_state()
        while True:
            try:
                return self._accumulate(batch, z_loss)
            except (MemoryError, RuntimeError) as error:
                size = min(self.micro_batch_size, len(batch[0]))
                if size == 1 or not is_out_of_memory(error):
                    raise
            # Only here, behind the handler, is the failed attempt's memory free: the error's frames held it.
            self.micro_batch_size = size // 2
            self._optimizers.zero_grad()
            self._restore_random(random)
            if self._on_cuda:
                torch.cuda.empty_cache()

    def _accumulate(self, batch: Batch, z_loss: float) -> Tensor:
        total = torch.zeros((), device=self._device)
        for ids, targets in self._parts(batch):
            with self._autocast():
                loss = self.model.loss(ids, targets, z_loss)
            if (share := len(ids) / len(batch[0])) < 1:
                loss = loss * share
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def _clip(self, grad_clip: float) -> Tensor:
        return clip_gradients(self.model, grad_clip)

    def _parts(self, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield a batch's ids and targets (micro_batch_size, T) on the device; the last may be fewer."""
        ids, targets = (torch.from_numpy(part) for part in batch)
        if self._on_cuda:  # from pinned memory the copy runs beside the computation
            ids, targets = (part.pin_memory().to(self._device, non_blocking=True) for part in (ids, targets))
        else:
            ids, targets = ids.to(self._device), targets.to(self._device)
        for first in range(0, len(ids), self.micro_batch_size):
            rows = slice(first, first + self.micro_batch_size)
            yield ids[rows], targets[rows]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, self.precision, enabled=self.precision is not None)

    def _random_state(self) -> dict[str, Tensor]:
        state = {"random": torch.get_rng_state()}
        if self._on_cuda:
            state["random_cuda"] = torch.cuda.get_rng_state(self._device)
        return state

    def _restore_random(self, state: dict[str, Any]) -> None:
        torch.set_rng_state(state["random"])
        if self._on_cuda and "random_cuda" in state:
            torch.cuda.set_rng_state(state["random_cuda"], self._device)

    # --- what it showed

    def _fetch(self, numbers: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
        if not self._on_cuda:
            return numbers.cpu(), None
        copy = numbers.to("cpu", non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
        return copy, arrived

    def _read(self, all_but: int) -> list[Reading]:
        readings = []
        while len(self._waiting) > all_but:
            step, learning_rate, numbers, arrived = self._waiting.popleft()
            if arrived is not None:
                arrived.synchronize()
            loss, norm = numbers.tolist()
            readings.append(Reading(step, loss, norm, learning_rate))
        return readings


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: not every allocator raises an error of its own."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    signs = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
