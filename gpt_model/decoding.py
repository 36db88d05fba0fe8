"""Decoder: what drives the model, token after token. Session: what a decoder works with. Plain is the usual one.

A decoder is a frozen dataclass whose fields are its parameters, as a stage is; those of others come through the
entry-point group "gpt_tui.decoders". It yields a Step for every token of a text, and leaves what belongs to a text
(its characters, its end) to the engine.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol, cast

import torch
from torch import Tensor

from gpt_model.drawing import Drawn, cleaned, draw, finite, tell
from gpt_model.language_model import LanguageModel, Reader, TextRows, window_start
from samplers import (
    Chain,
    ChainRun,
    Memories,
    NotFiniteError,
    Plan,
    Rows,
    StageAccount,
    Vocabulary,
    keyed_uniform,
    load_decoder,
    parse_stage,
)


@dataclass(frozen=True)
class Step:
    """One token of each text."""

    drawn: list[Drawn]
    position: int
    """How many tokens stand before it."""
    uniforms: list[float]
    """The numbers in [0, 1) that drew."""
    chain: Chain
    """The chain that was in force."""
    accounts: tuple[tuple[StageAccount, ...], ...] = ()
    faults: tuple[str, ...] = ()


class Decoder(Protocol):
    """A way of driving the model. An instance is a value and may decode any number of texts."""

    name: ClassVar[str]
    together: ClassVar[bool]
    """Whether it decodes several texts of one request in one session; else each has a session of its own."""

    def decode(self, session: "Session") -> Iterator[Step]:
        """Yield a step a token until it is told to stop, or nothing more can come."""


@dataclass(frozen=True)
class Plain:
    """Read a token, let the chain decide, draw: one forward pass a token."""

    name: ClassVar[str] = "plain"
    together: ClassVar[bool] = True

    def decode(self, session: "Session") -> Iterator[Step]:
        logits = session.read_prompt()
        while True:
            step = session.step(logits)
            session.begin_last()
            yield step
            logits = session.read_last()


def parse_decoder(text: str) -> Decoder:
    """Return the decoder of a text such as `beam=4` or `contrastive:k=6:alpha=0.5`; an empty one is Plain.

    Raises:
        ChainError: it is unknown, or a parameter is unknown or out of range.
    """
    return cast(Decoder, parse_stage(text.strip(), load_decoder, "decoder")) if text.strip() else Plain()


@dataclass
class Past:
    """What the chain's stages remembered at each position of the last text, so that going on goes on with it."""

    tokens: list[int]
    prompt_length: int
    memories: list[Memories]
    """Of each token after the prompt, before it was drawn."""

    def at(self, prompt: list[int]) -> tuple[int, Memories]:
        """Return how much of a prompt is a prompt, and what is remembered behind it.

        What the last text had written before the place where it is taken up again is still output.
        """
        written = len(prompt) - self.prompt_length
        if 0 < written < len(self.memories) and self.tokens[: len(prompt)] == prompt:
            return self.prompt_length, self.memories[written]
        return len(prompt), ()


class Session:
    """One request at work on one model: reads, lets the chain decide, draws, and keeps the texts' tokens.

    Several texts, of one length, stand in rows. B rows, T tokens, V = vocab_size.
    """

    def __init__(
        self, model: LanguageModel, reader: Reader, vocabulary: Vocabulary | None, prompt: list[int],
        seeds: list[int], chain: Chain, max_new_tokens: int, candidates: int = 10, account: bool = False,
        use_cache: bool = True, live_chain: Callable[[], Chain] | None = None, past: Past | None = None,
        number: int = 0, samples: int = 1, end_of_text: int | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        self.model = model
        self.vocabulary = vocabulary
        self.prompt = prompt
        self.max_new_tokens = max_new_tokens
        self.number = number
        """Which of the request's samples the first row is."""
        self.samples = samples
        """How many the request has."""
        self.end_of_text = end_of_text
        """The token that ends a text; None if none does."""
        self.cancelled = cancelled
        """Whether nobody waits any more: for a decoder that works long between two tokens."""
        self.run = ChainRun(chain, seeds, vocabulary)
        self.prompt_read_at = 0.0
        """When the first logits were there, by time.perf_counter."""
        self.past = Past(list(prompt), len(prompt), [])
        if past is not None:
            self.past.prompt_length, memories = past.at(prompt)
            self.run.restore(memories)
            self.past.memories = past.memories[: len(prompt) - self.past.prompt_length]
        self.tokens = torch.tensor([prompt], device=model.device).expand(len(seeds), -1)  # (B, T)
        self._make_room()
        self.seeds = seeds
        self._reader = reader
        self._rows: TextRows | None = None
        self.use_cache = use_cache
        self._candidates, self._account = candidates, account
        self._live_chain = live_chain
        # the compiled model brings its own
        self._draw: Callable[..., list[Drawn]] = getattr(model, "draw", draw)
        self._finite: Callable[[Tensor], Rows] = getattr(model, "finite", finite)

    @property
    def remaining(self) -> int:
        """Tokens that may still come."""
        return self.max_new_tokens - (self.tokens.shape[1] - len(self.prompt))

    # --- reading

    def read_prompt(self) -> Tensor:
        """Return the logits (B, V) of the token after the prompt."""
        if not self.use_cache:
            return self._anew()
        logits = self._reader.read_prompt(self.prompt).expand(len(self.seeds), -1)
        self._rows = self._reader.widen(len(self.seeds))
        return logits

    def read_last(self) -> Tensor:
        """Return the logits (B, V) of the token after the texts as they are now, whose last token is new."""
        if self._rows is None:
            return self._anew()
        return self._rows.next_logits(self.tokens, self.past.tokens[-1] if len(self.seeds) == 1 else None)

    def begin_last(self) -> None:
        """Have other cores begin with what `read_last` will be asked for, if more is to come."""
        if self._rows is not None and self.remaining > 0:
            self._rows.begin(self.tokens)

    def read_ahead(self, guesses: list[int]) -> Tensor:
        """Return the logits (1 + n, V) after the one text as it is now, whose last token is new, and after n guesses.

        Say with `keep` how many came true before anything else is read.
        """
        assert self._rows is not None, "guessing needs the cache"
        return self._rows.read_ahead(self.tokens, guesses)

    def keep(self, guesses: list[int], count: int) -> None:
        """Forget all guesses but the first `count`."""
        assert self._rows is not None, "guessing needs the cache"
        self._rows.keep(guesses, count)

    @property
    def room(self) -> int:
        """Tokens that can be read ahead after the text's last one: 0 without a cache."""
        return self._rows.room(self.tokens.shape[1]) if self._rows is not None else 0

    def fork(self, count: int) -> TextRows:
        """Return a reader of `count` texts that begin with the prompt, which must have been read."""
        if not self.use_cache:
            return TextRows(self.model, self.model.new_cache(count), 0)
        return self._reader.widen(count)

    def _anew(self) -> Tensor:
        return self.model.next_logits(self.tokens[:, window_start(self.tokens.shape[1], self._size) :])

    @property
    def _size(self) -> int:
        return self.model.config.block_size

    # --- deciding

    def decide(self, logits: Tensor, run: ChainRun | None = None, tokens: Tensor | None = None) -> "Decision":
        """Let the chain that is in force decide on logits (B, V).

        Args:
            logits: of the token after the texts as they are now.
            run: the state of the chain, and
            tokens: the tokens (B, T), where texts are tried that are not the session's.

        Raises:
            GenerationError: a row has no finite number: the model is broken.
        """
        rows = finite(logits) if logits.device.type == "cpu" else cleaned(logits)
        return self._decide(rows, run, tokens)

    def _decide(self, rows: Rows, run: ChainRun | None = None, tokens: Tensor | None = None) -> "Decision":
        if not self.prompt_read_at:
            self.prompt_read_at = time.perf_counter()
        own = run is None or tokens is None
        if run is None or tokens is None:
            run, tokens = self.run, self.tokens
        if self._live_chain is not None and (chain := self._live_chain()) != run.chain:
            run.switch(chain)
        if own:
            self._note()
        remaining = self.max_new_tokens - (tokens.shape[1] - len(self.prompt))
        processed = run.process(rows, tokens, self.past.prompt_length, self._account, remaining)
        return Decision(rows, processed.chosen, processed.accounts, processed.faults, processed.left)

    def step(self, logits: Tensor, model_logits: Tensor | None = None) -> Step:
        """Let the chain decide on logits (B, V), draw a token for each text, and add it.

        Args:
            logits: what the chain is given.
            model_logits: the model's own, where `logits` are not; what is told of the model is told of them.

        Raises:
            GenerationError: a row has no finite number: the model is broken.
        """
        position = self.tokens.shape[1]
        uniforms = [keyed_uniform(seed, position) for seed in self.seeds]
        try:
            decision = self._decide(self._finite(logits))
            before = decision.model if model_logits is None else self._finite(model_logits)
            drawn = self._draw(before, decision.chosen, uniforms, self._candidates)
        except NotFiniteError:  # found only now, for to look for it takes time
            return self.step(cleaned(logits).logits, None if model_logits is None else cleaned(model_logits).logits)
        return self._add(drawn, decision, uniforms)

    def take(self, tokens: list[int], decision: "Decision") -> Step:
        """Add tokens, one a text, that a decoder has chosen itself after a decision."""
        told = tell(decision.model, decision.rows, tokens, self._candidates)
        return self._add(told, decision, [0.0] * len(tokens))

    def tell(self, decision: "Decision", rows: list[int], tokens: list[int]) -> list[Drawn]:
        """Return what there is to tell of tokens chosen from these of a decision's rows; one may be named often."""
        return tell(Rows(decision.model.logits[rows]), Rows(decision.rows.dense[rows]), tokens, self._candidates)

    def add(self, step: Step, memories: Memories) -> Step:
        """Add a token, of one text, that was decided on elsewhere, and what is remembered after it."""
        self._note()
        if step.chain != self.run.chain:
            self.run.switch(step.chain)
        self.run.restore(memories)
        self._append(step.drawn)
        return step

    def _add(self, drawn: list[Drawn], decision: "Decision", uniforms: list[float]) -> Step:
        position = self.tokens.shape[1]
        for row, each in enumerate(drawn):
            self.run.after(row, each.id)
        self._append(drawn)
        accounts = tuple(decision.account(row, each) for row, each in enumerate(drawn)) if decision.accounts else ()
        return Step(drawn, position, uniforms, self.run.chain, accounts, decision.faults)

    def _append(self, drawn: list[Drawn]) -> None:
        length = self.tokens.shape[1]
        if length == self._room.shape[1]:
            self._make_room()
        ids = [each.id for each in drawn]
        if self._numbers is not None:
            self._numbers[:, length] = ids
        else:
            self._room[:, length] = torch.tensor(ids, device=self._room.device)
        self.tokens = self._room[:, : length + 1]
        if len(drawn) == 1:
            self.past.tokens.append(drawn[0].id)

    def _make_room(self) -> None:
        """Have room for as many tokens again."""
        self._room = torch.cat([self.tokens, torch.empty_like(self.tokens)], dim=1)
        # numpy writes a number ten times as quickly as torch
        self._numbers = self._room.numpy() if self._room.device.type == "cpu" else None

    def _note(self) -> None:
        """Note what is remembered before the next token."""
        if len(self.past.memories) <= self.tokens.shape[1] - self.past.prompt_length:
            self.past.memories.append(self.run.memories)

    def close(self) -> None:
        """Note what is remembered at the end, and let go of what the stages ran on."""
        self._note()
        self.run.close()


@dataclass(frozen=True)
class Decision:
    """What a chain made of the model's logits."""

    model: Rows
    """(B, V): the model's, finite."""
    chosen: Rows | Plan
    """(B, V): what is left of them, or will be."""
    accounts: tuple[tuple[StageAccount, ...], ...] = ()
    faults: tuple[str, ...] = ()
    left: tuple[Rows, ...] = ()
    """(B, V): what each stage that has an account left."""

    @property
    def rows(self) -> Rows:
        """(B, V): what is left of them."""
        return self.chosen.decided

    def account(self, row: int, drawn: Drawn) -> tuple[StageAccount, ...]:
        """Return the account of a row, with what became of the candidates that are told of a token drawn from it."""
        ids = [token for token, *_ in drawn.candidates]
        accounts, alive = [], set(ids)
        for account, left in zip(self.accounts[row], self.left, strict=True):
            total, logits = left.log_total[row].item(), left.dense[row, ids].tolist()
            shares = tuple(float(f"{math.exp(min(value - total, 0.0)):.4g}") for value in logits)
            gone = {token for token, value in zip(ids, logits, strict=True) if value == -math.inf}
            accounts.append(account._replace(cut=tuple(token for token in ids if token in gone & alive), shares=shares))
            alive -= gone
        return tuple(accounts)
