"""Contrastive search."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from gpt_model.decoding import Session, Step
from gpt_model.language_model import window_start
from samplers import Param


@dataclass(frozen=True)
class Contrastive:
    """Of the k most likely tokens, take one that is likely and whose hidden state is unlike all before it.

    The largest (1 - alpha) · p - alpha · max cos(h, h_past): p after the chain, h the last block's normalised output
    with the token read, h_past those of all tokens in the context's window. Of equals, the likeliest. Su et al. 2022,
    "A Contrastive Framework for Neural Text Generation", arXiv 2202.06417, equation 5. Nothing is drawn: all samples
    are alike, and alpha = 0 is greedy. A token costs a pass of k rows.
    """

    name: ClassVar[str] = "contrastive"
    together: ClassVar[bool] = False
    k: Annotated[int, Param(1, 256, 1, log=True, help="tokens that are tried")] = 4
    alpha: Annotated[float, Param(0, 1, 0.05, help="weight of unlikeness")] = 0.6

    def decode(self, session: Session) -> Iterator[Step]:
        text = _Text(session)
        logits = text.read(window_start(session.tokens.shape[1], session.model.config.block_size))
        while True:
            decision = session.decide(logits)
            best = decision.rows.probabilities[0].topk(min(self.k, logits.shape[1]))
            candidates = best.indices[best.values > 0]  # (n,): what the chain cut is not tried
            likeness = text.try_each(candidates)
            scores = (1 - self.alpha) * best.values[: len(candidates)] - self.alpha * likeness
            place = int(scores.argmax())
            yield session.take([int(candidates[place])], decision)
            logits = text.keep(place)


class _Text:
    """A text with its hidden states, and with tokens that may come next."""

    def __init__(self, session: Session) -> None:
        self._session, self._model = session, session.model
        self._start = 0

    def read(self, start: int) -> Tensor:
        """Read the text from `start` on; return the logits (1, V) of the next token."""
        self._start, self._cache = start, self._model.new_cache()
        hidden, logits = self._model.read(self._session.tokens[:, start:], self._cache)
        self._directions = F.normalize(hidden[0], dim=-1)  # (T, C)
        return logits

    def try_each(self, candidates: Tensor) -> Tensor:
        """Read the text with each of candidates (n,); return the largest cosine (n,) with what stands before."""
        length = self._session.tokens.shape[1]
        start = window_start(length + 1, self._model.config.block_size)
        if start == length:  # a context of one token: nothing stands before
            self._cache, self._directions = self._model.new_cache(), self._directions[:0]
        elif start != self._start or not self._session.use_cache:
            self.read(start)
        self._wide: Any = self._cache.expand(len(candidates))
        hidden, self._logits = self._model.read(candidates[:, None], self._wide)
        self._tried = F.normalize(hidden[:, 0], dim=-1)  # (n, C)
        if start == length:
            return torch.zeros_like(self._tried[:, 0])
        return (self._tried @ self._directions.T).amax(dim=-1)

    def keep(self, place: int) -> Tensor:
        """Go on with one of those that were tried; return the logits (1, V) of the next token."""
        self._cache = self._wide.select([place])
        self._directions = torch.cat([self._directions, self._tried[place : place + 1]])
        return self._logits[place : place + 1]
