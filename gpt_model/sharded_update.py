"""ShardedUpdater: a ParallelUpdater for models that fit no process whole, each of which has a part. Knows no run.

By FSDP (Zhao et al. 2023, arXiv 2304.11277): weights, gradients and the optimizers' moments are divided, and a block's
weights are whole only while it computes. Rank 0 keeps a plain model beside its part, which is given the weights when
they are to be evaluated, sampled or saved; a checkpoint is the same whatever the number of processes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from gpt_model.architectures import build_model
from gpt_model.batches import Batch
from gpt_model.config import TrainConfig
from gpt_model.distributed import Company, together
from gpt_model.errors import ConfigError, RunError
from gpt_model.model import GPT
from gpt_model.parallel_update import ParallelUpdater


class ShardedUpdater(ParallelUpdater):
    """An Updater that has a part of the weights in training. `model` is that part; the plain one is the trainer's."""

    is_sharded = True

    def __init__(self, model: GPT, train: TrainConfig, company: Company) -> None:
        """Divide the model among the processes; see ParallelUpdater.

        Raises:
            ConfigError: also, averages or adapters are wanted, or the processes would not have as many sequences each.
        """
        if train.batch_size % company.size:
            raise ConfigError(
                f"batch_size = {train.batch_size}: {company.size} processes that have a part of the model each "
                "(sharding = shard) need as many sequences each. Set batch_size to a multiple of their number."
            )
        for name in ("ema_decay", "lora_rank"):
            if getattr(train, name):
                raise ConfigError(
                    f"{name} = {getattr(train, name)}: a model that is divided among processes (sharding = shard) has "
                    f"none. Set {name} to 0, or sharding to replicate."
                )
        self._plain = model
        self._is_plain_current = True
        super().__init__(model, train, company)

    def update(self, batch: Batch, step: int, train: TrainConfig) -> Any:
        self._is_plain_current = False
        return super().update(batch, step, train)

    @torch.no_grad()
    def evaluate(self, batches: Sequence[Batch], broken_off: Callable[[], bool]) -> float | None:
        with self.shown():
            part, self.model = self.model, self._plain
            try:
                return super().evaluate(batches, broken_off)
            finally:
                self.model = part

    @contextmanager
    def shown(self) -> Iterator[None]:
        if not self._is_plain_current:
            self._company.tell("give_weights")
            self.give_weights()
            self._is_plain_current = True
        yield

    @torch.no_grad()
    def give_weights(self) -> None:
        """Have the weights of all parts put together in rank 0's plain model."""
        plain = dict(self._plain.named_parameters())
        with together():
            for name, parameter in self.model.named_parameters():
                whole = _whole(parameter)
                if self._leads:
                    plain[name].copy_(whole)

    def to_state(self) -> dict[str, Any]:
        state = super().to_state()
        with together():
            state["optimizers"]["adamw"]["state"] = {
                number: {name: _whole(value).cpu() for name, value in values.items()}
                for number, values in state["optimizers"]["adamw"]["state"].items()
            }
        return state

    def restore(self, state: dict[str, Any]) -> None:
        if self._leads:
            self._tell_to_restore(state)
        trained = self._optimizers.adamw_parameters()
        adamw = state["optimizers"]["adamw"]
        own = {
            number: {name: _part_of(value, trained[number]) for name, value in values.items()}
            for number, values in adamw["state"].items()
        }
        self._restore_own(state | {"optimizers": state["optimizers"] | {"adamw": adamw | {"state": own}}})

    def _own(self, model: GPT) -> GPT:
        own = model
        if self._leads:
            own = build_model(model.config).to(model.device)
            own.load_state_dict(model.state_dict())
        for block in own.h:
            fully_shard(block)
        fully_shard(own)
        register_fsdp_forward_method(own, "loss")
        return own.train()

    def _before_part(self, is_last: bool) -> None:
        assert isinstance(self.model, FSDPModule)
        self.model.set_requires_gradient_sync(is_last)

    def _backward(self, loss: Tensor) -> None:
        # FSDP averages over the processes, and the mean of their shares times their number is the sum.
        (loss * self._company.size).backward()  # type: ignore[no-untyped-call]

    def _after_parts(self) -> None:
        """FSDP has waited for the sums itself."""

    def _give_up_sum(self) -> None:
        # The others wait in the middle of a layer for this process's part of its weights.
        raise RunError(self._no_memory())

    def _clip(self, grad_clip: float) -> Tensor:
        parts = [each.grad.to_local() for each in self.model.parameters() if isinstance(each.grad, DTensor)]
        square = torch.stack(torch._foreach_norm(parts)).square().sum()
        distributed.all_reduce(square)
        norm: Tensor = square.sqrt()
        if grad_clip:
            torch._foreach_mul_(parts, (grad_clip / (norm + 1e-6)).clamp(max=1.0))
        return norm


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def _part_of(value: Tensor, parameter: Tensor) -> Tensor:
    """Return this process's part of a moment, divided as its parameter is."""
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
