"""Updater: one optimizer update after another on one device. Knows no run, no file and no schedule of events."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gpt_model.config import TrainConfig
from gpt_model.data import Batch
from gpt_model.model import GPT
from gpt_model.optim import apply_settings_at, build_optimizer, clip_gradients


@dataclass(frozen=True)
class Reading:
    """What one update showed."""

    step: int
    """Updates made, this one included."""
    loss: float
    """Mean cross-entropy of the batch before the update, in nats a token."""
    grad_norm: float
    """Norm of the gradient before clipping."""
    learning_rate: float

    @property
    def finite(self) -> bool:
        """Whether the update was made: it is skipped when the loss or the gradient is not finite."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class Updater:
    """A model in training, with its optimizer."""

    def __init__(self, model: GPT, train: TrainConfig) -> None:
        self.model = model
        self.optimizer = build_optimizer(model, train)
        self._device = model.device
        self._on_cuda = self._device.type == "cuda"
        self._has_bfloat16 = self._on_cuda and torch.cuda.is_bf16_supported()
        # On CUDA a step's numbers are fetched while the next step computes, so that the GPU never waits for Python.
        self._waiting: deque[tuple[int, float, Tensor, torch.cuda.Event | None]] = deque()

    def update(self, batch: Batch, step: int, train: TrainConfig) -> list[Reading]:
        """Make the update after `step` updates; return the readings that are known by now, oldest first."""
        learning_rate = apply_settings_at(self.optimizer, train, step)
        ids, targets = self._on_device(batch)
        with self._precision():
            loss = self.model.loss(ids, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = clip_gradients(self.model, train.grad_clip)
        numbers = torch.stack((loss.detach(), norm))
        if self._on_cuda:
            # AdamW's fused kernel reads found_inf on the GPU and skips the update, as it does for a GradScaler.
            self.optimizer.found_inf = 1 - torch.isfinite(numbers).all().float()  # type: ignore[attr-defined]
            self.optimizer.step()
        elif torch.isfinite(numbers).all():
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._waiting.append((step + 1, learning_rate, *self._fetch(numbers)))
        return self._read(all_but=1 if self._on_cuda else 0)

    def settle(self) -> list[Reading]:
        """Return the readings that are still under way."""
        return self._read(all_but=0)

    @torch.no_grad()
    def evaluate(self, batches: Sequence[Batch], broken_off: Callable[[], bool]) -> float | None:
        """Return the mean loss over batches, in nats a token; None when broken off. Draws no random numbers."""
        nats, count = torch.zeros((), dtype=torch.float64), 0
        self.model.eval()
        try:
            for batch in batches:
                if broken_off():
                    return None
                ids, targets = self._on_device(batch)
                with self._precision():
                    nats += self.model.loss(ids, targets).cpu().double() * targets.numel()
                count += targets.numel()
        finally:
            self.model.train()
        return nats.item() / count

    def to_state(self) -> dict[str, Any]:
        """Return the optimizer's state and the random numbers' place, for a checkpoint."""
        state = {"optimizer": self.optimizer.state_dict(), "random": torch.get_rng_state()}
        if self._on_cuda:
            state["random_cuda"] = torch.cuda.get_rng_state(self._device)
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `to_state` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        if self._on_cuda and "random_cuda" in state:
            torch.cuda.set_rng_state(state["random_cuda"], self._device)

    def _on_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        ids, targets = (torch.from_numpy(part) for part in batch)
        if self._on_cuda:  # from pinned memory the copy runs beside the computation
            return tuple(part.pin_memory().to(self._device, non_blocking=True) for part in (ids, targets))  # type: ignore[return-value]
        return ids.to(self._device), targets.to(self._device)

    def _precision(self) -> Any:
        return torch.autocast("cuda", dtype=torch.bfloat16) if self._has_bfloat16 else nullcontext()

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
