"""Engine: a model and a tokenizer at work on requests. Yields a Token a token and a Finished a sample.

The context's window is a pure function of the length: up to block_size tokens are all seen; beyond, the window's
start moves on by half a block at a time. So a text depends on its tokens alone, with the cache or without it, and the
cache is filled anew once in block_size / 2 tokens.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gpt_model.drawing import draw, finite, probabilities
from gpt_model.errors import GenerationError
from gpt_model.model import GPT, KVCache
from gpt_model.stop_texts import StopTexts
from gpt_model.token_record import Account, Candidate, Finished, FinishReason, Token
from gpt_model.tokenizer import StreamDecoder, Tokenizer
from samplers import Chain, ChainRun, Processed, keyed_uniform


@dataclass(frozen=True)
class Request:
    """What to generate."""

    prompt: str | tuple[int, ...]
    """Text, or token ids. An empty one starts from the end-of-text token, as the model's documents do."""
    chain: Chain = field(default_factory=Chain)
    seed: int = 0
    """Sample i has the seed `seed + i`."""
    samples: int = 1
    max_new_tokens: int = 200
    stop: tuple[str, ...] = ()
    """Texts that end a sample; they are not part of it."""
    ignore_end_of_text: bool = False
    """Go on after the end-of-text token."""
    candidates: int = 10
    """How many of the model's most likely tokens each Token tells."""
    account: bool = False
    """Whether each Token tells what every stage did."""
    use_cache: bool = True
    """Keep keys and values; the text is the same without, only slower."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise GenerationError(f"samples = {self.samples}: must be at least 1.")
        if self.max_new_tokens < 0:
            raise GenerationError(f"max_new_tokens = {self.max_new_tokens}: must not be negative.")


def window_start(length: int, block_size: int) -> int:
    """Return where the window of a context of `length` tokens begins."""
    if length <= block_size:
        return 0
    stride = max(block_size // 2, 1)
    return -(-(length - block_size) // stride) * stride


class Engine:
    """A model that completes text. One request at a time; `live_chain` is read once a token."""

    def __init__(self, model: GPT, tokenizer: Tokenizer | None) -> None:
        self.model = model
        self.tokenizer = tokenizer

    def encode(self, prompt: str | tuple[int, ...]) -> list[int]:
        """Return the ids of a prompt as the model will see them.

        Raises:
            GenerationError: there is no tokenizer for a text, or an id is outside the vocabulary.
        """
        if isinstance(prompt, str):
            if self.tokenizer is None:
                raise GenerationError("This model has no tokenizer, so it cannot read text: give it token ids.")
            ids = self.tokenizer.encode(prompt)
        else:
            ids = list(prompt)
        vocab_size = self.model.config.vocab_size
        outside = next((token for token in ids if not 0 <= token < vocab_size), None)
        if outside is not None:
            raise GenerationError(f"Token id {outside} is outside the model's vocabulary of {vocab_size:,}.")
        if not ids:
            ids = [self.tokenizer.end_of_text if self.tokenizer else 0]
        return ids

    @torch.inference_mode()
    def generate(
        self,
        request: Request,
        live_chain: Callable[[], Chain] | None = None,
        cancel: threading.Event | None = None,
    ) -> Iterator[Token | Finished]:
        """Yield tokens as they are drawn, of all samples in turn, and a Finished at the end of each sample.

        Args:
            request: what to generate.
            live_chain: asked once a token for the chain to use; a new answer takes effect at that token.
            cancel: when set, generation ends before the next token, with finish reason "cancel".

        Raises:
            GenerationError: the prompt cannot be read, or the model gives no finite logits.
        """
        began = time.perf_counter()
        prompt = self.encode(request.prompt)
        samples = [_Sample(self.tokenizer, request, number, began) for number in range(request.samples)]
        run = ChainRun(request.chain, [sample.seed for sample in samples], self.tokenizer)
        tokens = torch.tensor([prompt], device=self.model.device).expand(request.samples, -1)  # (B, T)
        window = _Window(self.model, request.use_cache)
        shown_chain: Chain | None = None
        for index in range(request.max_new_tokens):
            if cancel is not None and cancel.is_set():
                break
            raw = finite(window.next_logits(tokens))  # (B, V)
            if index == 0:
                for sample in samples:
                    sample.prompt_read = sample.last = time.perf_counter()
            if live_chain is not None and (chain := live_chain()) != run.chain:
                run.switch(chain)
            processed = run.process(raw, tokens, len(prompt), request.account)
            position = tokens.shape[1]
            drawn = [
                draw(processed.logits[row], keyed_uniform(sample.seed, position)) for row, sample in enumerate(samples)
            ]
            described = self._describe(raw, processed, drawn, request.candidates, samples)
            for row, sample in enumerate(samples):
                run.after(row, drawn[row])
                if not sample.finished:
                    new_chain = str(run.chain) if run.chain != shown_chain else None
                    token, reason = sample.token(described(row), index, position, new_chain)
                    yield token
                    if reason:
                        yield sample.finish(reason)
            shown_chain = run.chain
            if all(sample.finished for sample in samples):
                return
            tokens = torch.cat([tokens, torch.tensor(drawn, device=tokens.device)[:, None]], dim=1)
        for sample in samples:
            if not sample.finished:
                yield sample.finish("cancel" if cancel is not None and cancel.is_set() else "length")

    def _describe(
        self, raw: Tensor, processed: Processed, drawn: list[int], count: int, samples: list["_Sample"]
    ) -> Callable[[int], "_Described"]:
        """Return what each row tells about its draw; the arithmetic is done for all rows at once."""
        p_model, entropy = probabilities(raw)  # (B, V), (B,)
        p_chain = processed.logits.softmax(dim=-1)
        ids = torch.tensor(drawn, device=raw.device)[:, None]  # (B, 1)
        best = p_model.topk(min(count, raw.shape[1]), dim=-1)
        told = torch.cat([p_model.gather(1, ids), p_chain.gather(1, ids), entropy[:, None]], dim=1).tolist()
        rank = (raw > raw.gather(1, ids)).sum(dim=1).tolist()
        top = (best.indices.tolist(), best.values.tolist(), p_chain.gather(1, best.indices).tolist())

        def row(number: int) -> _Described:
            candidates = tuple(
                Candidate(token, self._text(token), before, after)
                for token, before, after in zip(*(part[number] for part in top), strict=True)
            )
            accounts = tuple(Account(*each) for each in processed.accounts[number]) if processed.accounts else ()
            p_before, p_after, nats = told[number]
            faults = processed.faults if number == 0 else ()
            return _Described(drawn[number], p_before, p_after, rank[number], nats, candidates, accounts, faults)

        return row

    def _text(self, token: int) -> str:
        return self.tokenizer.decode([token]) if self.tokenizer else ""


@dataclass(frozen=True)
class _Described:
    id: int
    p_model: float
    p_chain: float
    rank: int
    entropy: float
    candidates: tuple[Candidate, ...]
    accounts: tuple[Account, ...]
    faults: tuple[str, ...]


class _Sample:
    """One sample's text, clock and end."""

    def __init__(self, tokenizer: Tokenizer | None, request: Request, number: int, began: float) -> None:
        self.seed = request.seed + number
        self.finished = False
        self.began = self.prompt_read = self.last = began
        self._number = number
        self._count = 0
        self._decoder = StreamDecoder(tokenizer) if tokenizer else None
        self._stops = StopTexts(request.stop)
        self._end_of_text = tokenizer.end_of_text if tokenizer and not request.ignore_end_of_text else None

    def token(
        self, told: _Described, index: int, position: int, chain: str | None
    ) -> tuple[Token, FinishReason | None]:
        """Return the token's record, and why the sample ends with it, if it does."""
        text = ""
        reason: FinishReason | None = None
        if told.id == self._end_of_text:
            reason = "end_of_text"
        elif self._decoder:
            text, stopped = self._stops.push(self._decoder.push(told.id))
            reason = "stop" if stopped else None
        self._count += 1
        now = time.perf_counter()
        spent, self.last = (now - self.last) * 1000, now
        token = Token(
            self._number, index, position, told.id, text, told.p_model, told.p_chain, told.rank, told.entropy,
            keyed_uniform(self.seed, position), spent, told.candidates, told.accounts, chain, told.faults,
        )  # fmt: skip
        return token, reason

    def finish(self, reason: FinishReason) -> Finished:
        self.finished = True
        rest = ""
        if reason != "stop" and self._decoder:
            certain, stopped = self._stops.push(self._decoder.finish())
            rest = certain if stopped else certain + self._stops.finish()
        reading, writing = self.prompt_read - self.began, self.last - self.prompt_read
        return Finished(self._number, reason, rest, self._count, self.seed, reading, writing)


class _Window:
    """The model's view of growing token rows: the window, and the cache of what was computed in it."""

    def __init__(self, model: GPT, use_cache: bool) -> None:
        self._model = model
        self._use_cache = use_cache
        self._cache: KVCache | None = None
        self._start = 0

    def next_logits(self, tokens: Tensor) -> Tensor:
        """Return the logits (B, V) of the token after tokens (B, T)."""
        start = window_start(tokens.shape[1], self._model.config.block_size)
        if not self._use_cache:
            return self._model.next_logits(tokens[:, start:])
        if self._cache is None:  # all rows are the prompt: read it once
            self._cache, self._start = self._model.new_cache(), start
            logits = self._model.next_logits(tokens[:1, start:], self._cache)
            if tokens.shape[0] > 1:
                self._cache = self._cache.expand(tokens.shape[0])
            return logits.expand(tokens.shape[0], -1)
        if start != self._start:
            self._cache, self._start = self._model.new_cache(tokens.shape[0]), start
        return self._model.next_logits(tokens[:, self._start + self._cache.length :], self._cache)
