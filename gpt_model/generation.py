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

from gpt_model.decoding import Decoder, Past, Plain, Session
from gpt_model.drawing import Drawn
from gpt_model.errors import GenerationError
from gpt_model.language_model import LanguageModel, Reader
from gpt_model.stop_texts import StopTexts
from gpt_model.token_record import Account, Candidate, Finished, FinishReason, Token
from gpt_model.tokenizer import StreamDecoder, Tokenizer
from samplers import Chain


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
    decoder: Decoder = field(default_factory=Plain)
    """What drives the model."""
    use_cache: bool = True
    """Keep keys and values; the text is the same without, only slower."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise GenerationError(f"samples = {self.samples}: must be at least 1.")
        if self.max_new_tokens < 0:
            raise GenerationError(f"max_new_tokens = {self.max_new_tokens}: must not be negative.")


class Engine:
    """A model that completes text. One request at a time; `live_chain` is read once a token."""

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer | None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self._reader = Reader(model)
        self._past: Past | None = None
        self._texts: dict[int, str] = {}

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

    def forget(self) -> None:
        """Begin the next request as if it were the first one."""
        self._reader.forget()
        self._past = None

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
        groups = [samples] if request.decoder.together else [[sample] for sample in samples]
        for group in groups:
            session = Session(
                self.model, self._reader, self.tokenizer, prompt, [sample.seed for sample in group],
                live_chain() if live_chain else request.chain, request.max_new_tokens, request.candidates,
                request.account, request.use_cache, live_chain, self._past, group[0].number, request.samples,
                samples[0].end_of_text, cancel.is_set if cancel else lambda: False,
            )  # fmt: skip
            try:
                yield from self._decode(request.decoder, session, group, cancel)
            finally:
                session.close()
                if len(group) == 1:
                    self._past = session.past

    def _decode(
        self, decoder: Decoder, session: Session, samples: list["_Sample"], cancel: threading.Event | None
    ) -> Iterator[Token | Finished]:
        """Yield what becomes of samples that stand in the rows of one session."""
        shown_chain: Chain | None = None
        steps = decoder.decode(session)
        reason: FinishReason = "length"
        for index in range(session.max_new_tokens):
            if cancel is not None and cancel.is_set():
                reason = "cancel"
                break
            if (step := next(steps, None)) is None:
                reason = "cancel" if session.cancelled() else "length"
                break
            if index == 0:
                for sample in samples:
                    sample.prompt_read = sample.last = session.prompt_read_at
            new_chain = str(step.chain) if step.chain != shown_chain else None
            shown_chain = step.chain
            for row, sample in enumerate(samples):
                if not sample.finished:
                    drawn = step.drawn[row]
                    accounts = tuple(Account(*each) for each in step.accounts[row]) if step.accounts else ()
                    cut_by = {id: each.stage for each in accounts for id in each.cut}
                    token, end = sample.token(
                        drawn, index, step.position, step.uniforms[row],
                        self._candidates(drawn, cut_by), accounts, new_chain, step.faults if row == 0 else (),
                    )  # fmt: skip
                    yield token
                    if end:
                        yield sample.finish(end)
            if all(sample.finished for sample in samples):
                return
        for sample in samples:
            if not sample.finished:
                yield sample.finish(reason)

    def _candidates(self, drawn: Drawn, cut_by: dict[int, str]) -> tuple[Candidate, ...]:
        texts = self._texts
        for id, _, _ in drawn.candidates:
            if id not in texts:
                texts[id] = self.tokenizer.decode([id]) if self.tokenizer else ""
        return tuple([Candidate(id, texts[id], p, q, cut_by.get(id, "")) for id, p, q in drawn.candidates])


class _Sample:
    """One sample's text, clock and end."""

    def __init__(self, tokenizer: Tokenizer | None, request: Request, number: int, began: float) -> None:
        self.seed = request.seed + number
        self.number = number
        self.finished = False
        self.began = self.prompt_read = self.last = began
        self._count = 0
        self._decoder = StreamDecoder(tokenizer) if tokenizer else None
        self._stops = StopTexts(request.stop)
        self.end_of_text = tokenizer.end_of_text if tokenizer and not request.ignore_end_of_text else None

    def token(
        self, drawn: Drawn, index: int, position: int, uniform: float, candidates: tuple[Candidate, ...],
        accounts: tuple[Account, ...], chain: str | None, faults: tuple[str, ...],
    ) -> tuple[Token, FinishReason | None]:  # fmt: skip
        """Return the token's record, and why the sample ends with it, if it does."""
        text = ""
        reason: FinishReason | None = None
        if drawn.id == self.end_of_text:
            reason = "end_of_text"
        elif self._decoder:
            text, stopped = self._stops.push(self._decoder.push(drawn.id))
            reason = "stop" if stopped else None
        self._count += 1
        now = time.perf_counter()
        spent, self.last = (now - self.last) * 1000, now
        token = Token(
            self.number, index, position, drawn.id, text, drawn.p_model, drawn.p_chain, drawn.rank, drawn.entropy,
            uniform, spent, candidates, accounts, chain, faults,
        )  # fmt: skip
        return token, reason

    def finish(self, reason: FinishReason) -> Finished:
        self.finished = True
        rest = ""
        if reason != "stop" and self._decoder:
            certain, stopped = self._stops.push(self._decoder.finish())
            rest = certain if stopped else certain + self._stops.finish()
        reading, writing = self.prompt_read - self.began, self.last - self.prompt_read
        return Finished(self.number, reason, rest, self._count, self.seed, reading, writing)
