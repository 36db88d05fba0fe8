"""Speculation by a draft model."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, ClassVar

import torch

from gpt_model.backend import open_model
from gpt_model.decoders.speculation import speculate
from gpt_model.decoding import Session, Step
from gpt_model.drawing import cleaned, draw
from gpt_model.errors import GenerationError
from gpt_model.language_model import LanguageModel, Reader
from samplers import ChainRun, Param, keyed_uniform


@dataclass(frozen=True)
class Draft:
    """Let a small model of the same vocabulary guess, and the model check; the text is plain decoding's.

    The draft's guesses go through the same chain and are drawn by the same numbers as the model's tokens, so that both
    share their luck and agree as often as they can. Leviathan et al. 2023, arXiv 2211.17192; speculation.py has why no
    text is changed by it. Worth its while where the model costs many times what its draft does.
    """

    name: ClassVar[str] = "draft"
    together: ClassVar[bool] = False
    model: Annotated[str, Param(0, 0, help="the draft model's checkpoint")] = ""
    tokens: Annotated[int, Param(1, 64, 1, log=True, help="tokens that are guessed at once, at most")] = 8

    def decode(self, session: Session) -> Iterator[Step]:
        if not self.model:
            raise GenerationError("The decoder 'draft' needs a model: draft:model=CHECKPOINT.")
        draft = _open(self.model)
        mine, its = session.model.config.vocab_size, draft.config.vocab_size
        if mine != its:
            raise GenerationError(
                f"{self.model} cannot draft: its vocabulary has {its:,} tokens, the model's {mine:,}."
            )
        return speculate(session, self.tokens, _Guesser(draft, session).guess)


class _Guesser:
    """A draft model at work on one text."""

    def __init__(self, model: LanguageModel, session: Session) -> None:
        self._reader, self._session, self._device = Reader(model), session, model.device
        self._draw = getattr(model, "draw", draw)

    def guess(self, tokens: list[int], count: int) -> list[int]:
        """Return the `count` tokens that the draft would write."""
        session, text = self._session, list(tokens)
        run = ChainRun(session.run.chain, session.seeds, session.vocabulary)
        run.restore(session.run.memories)
        try:
            for place in range(count):
                rows = cleaned(self._reader.read_prompt(text))
                so_far = torch.tensor([text], device=self._device)
                remaining = session.remaining - place
                chosen = run.process(rows, so_far, session.past.prompt_length, remaining=remaining).chosen
                (drawn,) = self._draw(rows, chosen, [keyed_uniform(session.seeds[0], len(text))], 1)
                run.after(0, drawn.id)
                text.append(drawn.id)
        finally:
            run.close()
        return text[len(tokens) :]


@lru_cache(maxsize=1)
def _open(path: str) -> LanguageModel:
    return open_model(Path(path)).model
