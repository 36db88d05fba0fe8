"""read_batch: what a run trains on at a step, as text, while it is running or afterwards. Knows no torch."""

import math
from dataclasses import dataclass

import numpy as np

from gpt_model.batches import Batches
from gpt_model.errors import RunError
from gpt_model.runs import Run
from gpt_model.shards import open_shards

_LAST_STEP = 10**12
"""Far beyond what anybody trains, and so far the sequences can be counted in 64 bits."""


@dataclass(frozen=True)
class Row:
    """One sequence of a batch."""

    epoch: int
    """How often the text was gone through before, from 0."""
    first_token: int
    """Where in the training tokens the sequence begins."""
    ids: list[int]
    """The tokens that are read, and at the end the last one that is predicted: T + 1."""
    text: str


@dataclass(frozen=True)
class BatchText:
    """The batch of an update, and what it showed."""

    step: int
    rows: list[Row]
    train_loss: float | None
    """Before the update; None if it was not made yet."""
    grad_norm: float | None


def read_batch(run: Run, step: int) -> BatchText:
    """Return the batch of the update that leads to `step`, counted from 1 as in the metrics.

    Raises:
        RunError: there is no such step.
        DataError: the run's text is not encoded yet.
    """
    if step < 1:
        raise RunError("The first step of a run is 1.")
    if step > _LAST_STEP:
        raise RunError(f"There is no step {step}: steps are counted up to {_LAST_STEP:,}.")
    shards, train = open_shards(run.directory / "data"), run.config.train
    length = train.sequence_length or run.config.model.block_size
    batches = Batches(shards.train, train.batch_size, length, train.seed)
    ids, targets = batches.batch(step - 1)
    sequences = np.concatenate((ids, targets[:, -1:]), axis=1).tolist()
    rows = [
        Row(int(epoch), int(start), sequence, shards.tokenizer.decode(sequence))
        for epoch, start, sequence in zip(*batches.windows(step - 1), sequences, strict=True)
    ]
    shown = next((record for record in run.read_metrics()[0] if record["step"] == step and "train_loss" in record), {})
    return BatchText(step, rows, _finite(shown.get("train_loss")), _finite(shown.get("grad_norm")))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
