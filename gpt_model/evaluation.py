"""How well a model predicts a text: loss, perplexity, bits per byte. Knows no run and no file."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gpt_model.batches import read_windows
from gpt_model.config import ModelConfig
from gpt_model.errors import DataError
from gpt_model.tokenizer import Tokenizer


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of a text."""

    loss: float
    """Mean cross-entropy, in nats a token."""
    perplexity: float
    """e to the loss."""
    bits_per_byte: float
    """Bits for a byte of the predicted text: comparable between vocabularies."""
    tokens: int
    """Tokens that were predicted: all but the first."""


class Scorer(Protocol):
    """What tells logits (B, T, V) for ids (B, T): a GPT, or the CPU's compiled one in any precision."""

    @property
    def config(self) -> ModelConfig: ...
    @property
    def device(self) -> torch.device: ...
    def __call__(self, ids: Tensor) -> Tensor: ...


_LOGITS = 2**26
"""Numbers that are computed at a time: 256 MiB of logits, whatever the model."""


@torch.no_grad()
def evaluate(model: Scorer, tokenizer: Tokenizer, text: str, batch_size: int = 16) -> Evaluation:
    """Return how well the model predicts a text.

    Windows of block_size tokens, one after another; every token but the very first is predicted exactly once, from
    what stands before it in its window.

    Raises:
        DataError: the text has fewer than two tokens.
    """
    tokens = tokenizer.encode_array(text)
    if len(tokens) < 2:
        raise DataError(f"The text has {len(tokens)} tokens; at least two are needed, one to predict the other from.")
    length = model.config.block_size
    whole = (len(tokens) - 1) // length
    batch_size = max(1, min(batch_size, _LOGITS // (length * model.config.vocab_size)))
    training, nats = getattr(model, "training", False), 0.0
    if training:
        model.eval()  # type: ignore[attr-defined]
    try:
        for first in range(0, whole, batch_size):
            nats += _nats(model, tokens, np.arange(first, min(first + batch_size, whole)) * length, length)
        if rest := len(tokens) - 1 - whole * length:
            nats += _nats(model, tokens, np.array([whole * length]), rest)
    finally:
        if training:
            model.train()  # type: ignore[attr-defined]
    predicted = len(tokens) - 1
    loss = nats / predicted
    size = len(tokenizer.decode_bytes(tokens[1:].tolist()))
    perplexity = math.exp(loss) if loss < 700 else math.inf
    return Evaluation(loss, perplexity, nats / math.log(2) / size, predicted)


def _nats(
    model: Scorer,
    tokens: "np.ndarray[tuple[int], np.dtype[np.uint32]]",
    starts: "np.ndarray[tuple[int], np.dtype[np.int64]]",
    length: int,
) -> float:
    """Return the summed cross-entropy of the windows (B, length) that begin at `starts`."""
    ids, targets = (torch.from_numpy(part).to(model.device) for part in read_windows(tokens, starts, length))
    logits = model(ids).flatten(0, 1).float()  # (B · T, V)
    # Summed in float64: over a long text the digits of float32 would run out.
    return float(F.cross_entropy(logits, targets.flatten(), reduction="none").double().sum())
