"""LanguageModel: what the engine asks of whatever computes: a torch GPT on any device, or the CPU's compiled one."""

from typing import Any, Protocol

import torch
from torch import Tensor

from gpt_model.config import ModelConfig


class Cache(Protocol):
    """Keys and values of what a model has read. Setting `length` back forgets what stands behind it."""

    length: int

    def expand(self, batch_size: int) -> "Cache":
        """Return a cache in which the one sequence of this one begins `batch_size` sequences."""

    def select(self, rows: list[int]) -> "Cache":
        """Return a cache of these of its sequences; one may be named several times."""


class LanguageModel(Protocol):
    """Reads tokens and tells how likely each is to come next."""

    @property
    def config(self) -> ModelConfig: ...
    @property
    def device(self) -> torch.device: ...

    def new_cache(self, batch_size: int = 1) -> Any:
        """Return an empty cache of this model's own kind for sequences of up to block_size tokens."""

    def __call__(self, ids: Tensor, cache: Any = None) -> Tensor:
        """Return logits (B, T, V) for ids (B, T), which follow what is in the cache."""

    def next_logits(self, ids: Tensor, cache: Any = None) -> Tensor:
        """Return the logits (B, V) float32 of the token after ids (B, T), which follow what is in the cache."""

    def read(self, ids: Tensor, cache: Any = None) -> tuple[Tensor, Tensor]:
        """Return the last block's normalised output (B, T, C) float32 for ids (B, T), and what next_logits does."""


def window_start(length: int, block_size: int) -> int:
    """Return where the window of a context of `length` tokens begins."""
    if length <= block_size:
        return 0
    stride = max(block_size // 2, 1)
    return -(-(length - block_size) // stride) * stride


class Reader:
    """A model's view of growing texts: the window, and the cache of what was computed in it.

    What was read for one request is there for the next: going on, writing again and branching read only what is new.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._cache: Cache | None = None
        self._tokens: list[int] = []
        self._start = 0

    def read_prompt(self, prompt: list[int]) -> Tensor:
        """Return the logits (1, V) of the token after a prompt."""
        start = window_start(len(prompt), self._model.config.block_size)
        if self._cache is None or start != self._start:
            self._begin(start)
        known = self._tokens[start : start + self._model.config.block_size]
        window = prompt[start:]
        pairs = zip(known, window, strict=False)
        same = next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(known), len(window)))
        assert self._cache is not None
        # the last token is read in any case: it is its logits that are asked for
        self._cache.length = min(same, len(window) - 1, self._cache.length)
        ids = torch.tensor([window[self._cache.length :]], device=self._model.device)
        self._tokens = list(prompt)
        try:
            return self._model.next_logits(ids, self._cache)
        except BaseException:
            self._cache = None  # half-read
            raise

    def forget(self) -> None:
        """Read the next prompt from its beginning, whatever was read before; the cache's memory is kept."""
        self._tokens = []

    def widen(self, rows: int) -> "TextRows":
        """Return a reader of `rows` texts that begin with the prompt; of one text, it teaches this one."""
        assert self._cache is not None
        cache = self._cache.expand(rows) if rows > 1 else self._cache
        return TextRows(self._model, cache, self._start, self if rows == 1 else None)

    def _begin(self, start: int) -> None:
        self._cache, self._tokens, self._start = self._model.new_cache(), [], start

    def learn(self, tokens: list[int], cache: Cache, start: int) -> None:
        """Take note of tokens that a request of one text has read."""
        self._tokens += tokens
        self._cache, self._start = cache, start


class TextRows:
    """Texts of one length that grow together."""

    def __init__(self, model: LanguageModel, cache: Cache, start: int, teacher: Reader | None = None) -> None:
        self._model, self._cache, self._start, self._teacher = model, cache, start, teacher

    def next_logits(self, tokens: Tensor, last: int | None = None) -> Tensor:
        """Return the logits (B, V) of the token after tokens (B, T), of which the last is new.

        Of one text it may be given as a number too, which spares a look at the tensor.
        """
        self._follow(tokens.shape[0], tokens.shape[1])
        logits = self._model.next_logits(tokens[:, self._start + self._cache.length :], self._cache)
        if self._teacher is not None:
            self._teacher.learn([int(tokens[0, -1]) if last is None else last], self._cache, self._start)
        return logits

    def begin(self, tokens: Tensor) -> None:
        """Have other cores begin with what `next_logits` will be asked for, where the model can."""
        begin = getattr(self._model, "begin", None)
        if begin is not None and self.room(tokens.shape[1]) > 0:
            begin(tokens[:, self._start + self._cache.length :], self._cache)

    def room(self, length: int) -> int:
        """Return how many tokens fit behind texts of this length before their window moves."""
        block_size = self._model.config.block_size
        return block_size - (length - window_start(length, block_size))

    def read_ahead(self, tokens: Tensor, guesses: list[int]) -> Tensor:
        """Return the logits (1 + n, V) after one text (1, T), whose last token is new, and after each of n guesses.

        The guesses are as good as read until `keep` says how many of them came true. There must be room for them.
        """
        self._follow(1, tokens.shape[1])
        unread = tokens[:, self._start + self._cache.length :]
        ids = torch.cat([unread, torch.tensor([guesses], dtype=torch.long, device=tokens.device)], dim=1)
        logits = self._model(ids, self._cache)[0, unread.shape[1] - 1 :].float()
        if self._teacher is not None:
            self._teacher.learn([int(tokens[0, -1])], self._cache, self._start)
        return logits

    def keep(self, guesses: list[int], count: int) -> None:
        """Forget all guesses that were read ahead but the first `count`."""
        self._cache.length -= len(guesses) - count
        if self._teacher is not None:
            self._teacher.learn(guesses[:count], self._cache, self._start)

    def select(self, rows: list[int]) -> None:
        """Go on with these of the texts; one may be named several times. The reader of the prompt learns no more."""
        self._cache, self._teacher = self._cache.select(rows), None

    def _follow(self, rows: int, length: int) -> None:
        """Move the window to where texts of this length have it."""
        start = window_start(length, self._model.config.block_size)
        if start != self._start:
            self._cache, self._start = self._model.new_cache(rows), start
