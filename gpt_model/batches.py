"""Batches: what is trained on at a step, and what is evaluated on. A batch is a pure function of the seed and the step.

Knows no torch, no model and no file: tokens are an array, whatever is behind it.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gpt_model.errors import DataError
from gpt_model.permutation import Permutation
from gpt_model.shards import Tokens

Batch = tuple[NDArray[np.int64], NDArray[np.int64]]
"""ids and targets, both (B, T): targets[b, t] follows ids[b, t]."""


class Batches:
    """The batches of a run. The order is a pure function of (seed, step), so that resuming needs no loader's state.

    In every epoch the text is cut into windows of T tokens that do not overlap, from a new random start, and every
    window is drawn once, in a new random order.
    """

    def __init__(self, tokens: Tokens, batch_size: int, sequence_length: int, seed: int) -> None:
        """Take the tokens to draw from.

        Raises:
            DataError: there are fewer than one window and its target.
        """
        needed = sequence_length + 1
        if len(tokens) < needed:
            raise DataError(
                f"The training text has {len(tokens):,} tokens, but one sequence needs {needed:,}. Train on more text, "
                f"or set sequence_length (or the model's block_size) to {max(len(tokens) - 1, 1):,} or less."
            )
        self._tokens = tokens
        self._batch_size = batch_size
        self._length = sequence_length
        self._seed = seed
        # One window fewer than would fit, so that every epoch has room to start somewhere else and all have as many.
        self.windows_per_epoch = max((len(tokens) - 1) // sequence_length - 1, 1)
        self._slack = min(len(tokens) - 1 - self.windows_per_epoch * sequence_length, sequence_length - 1)
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one batch predicts."""
        return self._batch_size * self._length

    def batch(self, step: int) -> Batch:
        """Return ids and targets (B, T) of the update after `step` updates."""
        return read_windows(self._tokens, self.windows(step)[1], self._length)

    def windows(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the epochs (B,), counted from 0, and the first tokens (B,) of that batch's windows."""
        samples = np.arange(step * self._batch_size, (step + 1) * self._batch_size, dtype=np.int64)
        epochs, places = np.divmod(samples, self.windows_per_epoch)
        starts = np.empty_like(samples)
        for epoch in np.unique(epochs):  # a batch can reach from one epoch into the next
            offset, order = self._epoch(int(epoch))
            rows = epochs == epoch
            starts[rows] = offset + order(places[rows]) * self._length
        return epochs, starts

    def _draw_epoch(self, epoch: int) -> tuple[int, Permutation]:
        random = np.random.Generator(np.random.Philox(key=np.array([self._seed, epoch], dtype=np.uint64)))
        return int(random.integers(self._slack + 1)), Permutation(self.windows_per_epoch, (self._seed, epoch))


def evaluation_batches(tokens: Tokens, batch_size: int, sequence_length: int, count: int) -> list[Batch]:
    """Return up to `count` batches, always the same, of windows evenly spaced over the tokens.

    Fewer tokens than a window make one shorter window; fewer than two tokens none.
    """
    if len(tokens) < 2:
        return []
    length = min(sequence_length, len(tokens) - 1)
    windows = (len(tokens) - 1) // length
    taken = min(windows, batch_size * count)
    starts = np.arange(taken) * windows // taken * length
    return [read_windows(tokens, starts[at : at + batch_size], length) for at in range(0, taken, batch_size)]


def read_windows(tokens: Tokens, starts: NDArray[np.int64], length: int) -> Batch:
    """Return ids and targets (B, length) of the windows that begin at `starts` (B,)."""
    windows = tokens[starts[:, None] + np.arange(length + 1)].astype(np.int64)  # (B, length + 1)
    return windows[:, :-1], windows[:, 1:]
