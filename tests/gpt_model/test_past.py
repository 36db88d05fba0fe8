"""Going on, undoing and branching: what stages remember is a value by position, and what was written stays output."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import pytest
from torch import Tensor

from gpt_model.generation import Engine, Request
from gpt_model.model import GPT
from gpt_model.token_record import Finished, Token
from gpt_model.tokenizer import Tokenizer
from samplers import Chain, Context
from samplers.temperature import Temperature


@dataclass(frozen=True)
class Remembering:
    """Cuts a tenth of the tokens: which, depends on all that were drawn, and on where the output begins."""

    name: ClassVar[str] = "remembering"

    def start(self) -> str:
        return ""

    def after(self, memory: str, token: int, logits_in: Tensor, logits_out: Tensor) -> str:
        return hashlib.sha256(f"{memory} {token}".encode()).hexdigest()

    def __call__(self, logits: Tensor, context: Context) -> Tensor:
        first = int(hashlib.sha256(f"{context.memory} {context.prompt_length}".encode()).hexdigest(), 16) % 10
        cut = logits.clone()
        cut[:, first::10] = -math.inf
        return cut


CHAIN = Chain((Remembering(), Temperature(1.5)))


def ids_of(events: Iterator[Token | Finished]) -> tuple[int, ...]:
    return tuple(event.id for event in events if isinstance(event, Token))


@pytest.fixture
def engine(tiny_model: GPT, byte_tokenizer: Tokenizer) -> Engine:
    return Engine(tiny_model, byte_tokenizer)


def request(prompt: tuple[int, ...], count: int, seed: int = 3, chain: Chain = CHAIN) -> Request:
    return Request(prompt, chain, seed, max_new_tokens=count, ignore_end_of_text=True)


def test_a_text_in_pieces_is_the_text_in_one(engine: Engine) -> None:
    prompt = tuple(engine.encode("ROMEO"))
    whole = ids_of(engine.generate(request(prompt, 40)))
    pieces: tuple[int, ...] = ()
    for count in (1, 7, 20, 12):
        pieces += ids_of(engine.generate(request(prompt + pieces, count)))
    assert pieces == whole


@pytest.mark.parametrize("undone", [1, 5, 39])
def test_undone_tokens_are_drawn_again_as_they_were(engine: Engine, undone: int) -> None:
    prompt = tuple(engine.encode("ROMEO"))
    whole = ids_of(engine.generate(request(prompt, 40)))
    kept = whole[: 40 - undone]
    assert ids_of(engine.generate(request(prompt + kept, undone))) == whole[40 - undone :]
    # a branch with another seed leaves what stands before it as it is
    branch = ids_of(engine.generate(request(prompt + kept, undone + 3, seed=8)))
    again = ids_of(engine.generate(request(prompt + kept, undone + 3, seed=8)))
    assert branch == again
    assert branch != (*whole[40 - undone :], 0, 0, 0)


def test_another_prompt_starts_anew(engine: Engine, tiny_model: GPT, byte_tokenizer: Tokenizer) -> None:
    prompt = tuple(engine.encode("ROMEO"))
    whole = ids_of(engine.generate(request(prompt, 10)))
    for other in (prompt, tuple(engine.encode("JULIET")), (*prompt, *whole, 65)):
        fresh = Engine(tiny_model, byte_tokenizer)
        assert ids_of(engine.generate(request(other, 10))) == ids_of(fresh.generate(request(other, 10)))


def test_a_text_that_was_cancelled_goes_on_as_if_it_had_not_been(engine: Engine) -> None:
    prompt = tuple(engine.encode("ROMEO"))
    whole = ids_of(engine.generate(request(prompt, 20)))
    stream = engine.generate(request(prompt, 20))
    begun = tuple(next(stream).id for _ in range(6))  # type: ignore[union-attr]
    stream.close()  # type: ignore[attr-defined]
    assert begun + ids_of(engine.generate(request(prompt + begun, 14))) == whole
