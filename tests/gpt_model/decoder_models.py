"""Models and requests that the tests of decoders share."""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gpt_model.compiled.model import CompiledGPT
from gpt_model.compiled.packing import pack
from gpt_model.config import ModelConfig
from gpt_model.decoding import Decoder, Plain
from gpt_model.generation import Request
from gpt_model.language_model import LanguageModel
from gpt_model.model import GPT
from gpt_model.token_record import Finished, Token
from samplers import Chain, Context

Wrap = Callable[[GPT], LanguageModel]
WRAPS: dict[str, Wrap] = {
    "torch": lambda model: model,
    "compiled": lambda model: CompiledGPT(pack(model.config, model.state_dict(), "float32"), 1),
    "int8": lambda model: CompiledGPT(pack(model.config, model.state_dict(), "int8"), 1),
}


def loud_model(seed: int = 3, block_size: int = 24, vocab_size: int = 257, loudness: float = 8.0) -> GPT:
    """A model far from uniform, so that its texts do not repeat one token."""
    torch.manual_seed(seed)
    model = GPT(ModelConfig(n_layer=2, n_head=2, n_embd=16, block_size=block_size, vocab_size=vocab_size))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(loudness if parameter.ndim > 1 else 1)
    return model.eval().requires_grad_(False)


def fond_of(model: GPT, token: int, by: float = 1.0) -> GPT:
    """The model, with a token that is likelier than before after every text."""
    model.ln_f.bias += by * model.wte.weight[token] / model.wte.weight[token].norm()
    return model


def request(
    prompt: str | tuple[int, ...], count: int, decoder: Decoder | None = None, chain: Chain | str = "", seed: int = 3,
    ignore_end_of_text: bool = True, samples: int = 1, stop: tuple[str, ...] = (), use_cache: bool = True,
) -> Request:  # fmt: skip
    return Request(
        prompt, Chain.parse(chain) if isinstance(chain, str) else chain, seed, samples, count, stop,
        ignore_end_of_text, decoder=decoder or Plain(), use_cache=use_cache,
    )  # fmt: skip


def ids_of(events: Iterator[Token | Finished], sample: int = 0) -> list[int]:
    return [event.id for event in events if isinstance(event, Token) and event.sample == sample]


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


@dataclass(frozen=True)
class Fresh:
    """Takes 3 from every token that the output holds, and all from token 0 while more than 4 tokens may come."""

    name: ClassVar[str] = "fresh"

    def __call__(self, logits: Tensor, context: Context) -> Tensor:
        changed = logits.clone()
        for row, tokens in enumerate(context.tokens[:, context.prompt_length :].tolist()):
            changed[row, list(set(tokens))] -= 3
        if context.remaining is not None and context.remaining > 4:
            changed[:, 0] = -math.inf
        return changed
