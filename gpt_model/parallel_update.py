"""ParallelUpdater: updates that several processes compute together, each its rows of a batch. Knows no run.

Every process makes the same updates of the same weights, from the sum of all gradients; rank 0 tells the others when
(following.py), and has what the others need not: averaged weights, evaluation, samples, checkpoints.
"""

import copy
import dataclasses
from typing import Any

import torch
from torch import Tensor, distributed

from gpt_model.batches import Batch
from gpt_model.config import TrainConfig
from gpt_model.distributed import Company, together
from gpt_model.errors import ConfigError, RunError
from gpt_model.gradient_sum import GradientSum
from gpt_model.model import GPT
from gpt_model.precision import autocast_dtype
from gpt_model.update import Reading, Updater, is_out_of_memory

_TRIAL_STEPS = 3
"""Updates after which a step of as many sequences is known to fit: the optimizer's moments are there from the first."""


class ParallelUpdater(Updater):
    """An Updater that is one of several, in every process of a run's company."""

    is_sharded = False
    """Whether every process has a part of the weights only."""

    def __init__(self, model: GPT, train: TrainConfig, company: Company) -> None:
        """Gather with the other processes; all take rank 0's weights.

        Raises:
            ConfigError: a batch has fewer sequences than there are processes.
            RunError: a process is gone.
        """
        if train.batch_size < company.size:
            raise ConfigError(
                f"batch_size = {train.batch_size}: {company.size} processes need at least a sequence each. Set a "
                "larger batch_size, or fewer processes."
            )
        self._company = company
        self._leads = company.rank == 0
        self._attempts = 0
        if self._leads:
            # By its own processor: hosts of different ones are to compute alike.
            dtype = autocast_dtype(train.precision, model.device, model.config.n_embd)
            precision: Any = "float32" if dtype is None else "bfloat16"
            told = dataclasses.replace(train, ema_decay=0.0, precision=precision)
            company.tell("build", model.config, told, self.is_sharded)
        share_weights(model)
        super().__init__(self._own(model), train)
        largest = -(-train.batch_size // company.size)
        self.micro_batch_size = min(self.micro_batch_size, largest)
        if not self._leads:
            torch.manual_seed(train.seed + 1_000_003 * company.rank)  # dropout of its own

    def _own(self, model: GPT) -> GPT:
        """Return the model that this process trains, which has the same weights in all of them."""
        self._sum = GradientSum([each for each in model.parameters() if each.requires_grad])
        return model

    def update(self, batch: Batch, step: int, train: TrainConfig) -> list[Reading]:
        """Make an update together; see Updater.

        Raises:
            RunError: a process is gone, or has no memory for its part.
        """
        if self._leads:
            self._company.tell("update", batch, step, train)
        with together():
            return super().update(batch, step, train)

    def to_state(self) -> dict[str, Any]:
        """Return what Updater does, and the random state of every process; on others than rank 0 nothing of use."""
        if self._leads:
            self._company.tell("to_state")
        states: list[Any] | None = [None] * self._company.size if self._leads else None
        with together():
            distributed.gather_object(self._random_state(), states, dst=0)
        return super().to_state() | {"random_of_ranks": states}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `to_state` returned, also of another number of processes: then with other random numbers."""
        if self._leads:
            self._tell_to_restore(state)
        self._restore_own(state)
        share_weights(self.model)  # with averages, those in training came to rank 0 only now

    def _tell_to_restore(self, state: dict[str, Any]) -> None:
        self._company.tell("restore", {name: value for name, value in state.items() if name != "averages"})

    def _restore_own(self, state: dict[str, Any]) -> None:
        own = copy.copy(state)
        states = state.get("random_of_ranks") or [state]
        if len(states) == self._company.size:
            own |= states[self._company.rank]
        elif not self._leads:
            own |= self._random_state()
        super().restore(own)

    def _gradients(self, batch: Batch, z_loss: float) -> Tensor:
        """Leave the gradient of the whole batch's mean loss in the parameters; return that loss.

        When memory runs out in one of the processes, all compute the same batch again in parts of half the size.
        """
        random = self._random_state()
        while True:
            loss = self._try_own(batch, z_loss)
            told = torch.zeros(2, device=self._device)  # the loss, and how many processes have none
            told[0 if loss is not None else 1] = loss if loss is not None else 1.0
            distributed.all_reduce(told)
            if self._is_memory_known() or not told[1]:
                self._attempts += 1
                return told[0]
            size = self.micro_batch_size
            if size == 1:
                raise RunError(
                    "A process of this run has not enough memory for one sequence at a time. Start a new run with a "
                    "smaller sequence_length or a smaller model, or with sharding=shard."
                )
            self.micro_batch_size = size // 2
            self._attempts = 0
            self._optimizers.zero_grad()
            self._restore_random(random)
            if self._on_cuda:
                torch.cuda.empty_cache()

    def _try_own(self, batch: Batch, z_loss: float) -> Tensor | None:
        """Return this process's share of the mean loss, or None when it has no memory for it."""
        try:
            return self._accumulate_own(batch, z_loss)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if self._is_memory_known():
                raise RunError(self._no_memory()) from error
        # Only here, behind the handler, is the failed attempt's memory free: the error's frames held it.
        self._optimizers.zero_grad()
        self._give_up_sum()
        return None

    def _accumulate_own(self, batch: Batch, z_loss: float) -> Tensor:
        """Return this process's share of the mean loss, and have the gradients of all added up."""
        ids, targets = (_rows(part, self._company) for part in batch)
        total = torch.zeros((), device=self._device)
        left = len(ids)
        for some_ids, some_targets in self._parts((ids, targets)):
            left -= len(some_ids)
            self._before_part(is_last=not left)
            with self._autocast():
                loss = self.model.loss(some_ids, some_targets, z_loss) * (len(some_ids) / len(batch[0]))
            self._backward(loss)
            total += loss.detach()
        self._after_parts()
        return total

    def _before_part(self, is_last: bool) -> None:
        if is_last:
            self._sum.begin()

    def _backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def _after_parts(self) -> None:
        self._sum.finish()

    def _is_memory_known(self) -> bool:
        """Whether nobody asks any more if all had memory: on CUDA to ask is to wait, and each step takes as much."""
        return self._on_cuda and self._attempts >= _TRIAL_STEPS

    def _no_memory(self) -> str:
        return (
            f"Process {self._company.rank} has not enough memory for {self.micro_batch_size} sequences at a time. "
            f"Start the run anew with micro_batch_size={max(self.micro_batch_size // 2, 1)}, or more processes."
        )

    def _give_up_sum(self) -> None:
        """Let the others go on, who wait for this process's gradients."""
        self._sum.abandon()


@torch.no_grad()
def share_weights(model: GPT) -> None:
    """Give every process rank 0's weights.

    Raises:
        RunError: a process is gone.
    """
    with together():
        for parameter in model.parameters():
            distributed.broadcast(parameter, src=0)


def _rows(part: Any, company: Company) -> Any:
    """Return a process's rows of a batch: as many as the others have, or one more."""
    return part[company.rank * len(part) // company.size : (company.rank + 1) * len(part) // company.size]
