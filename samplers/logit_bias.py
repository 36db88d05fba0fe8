"""Logit bias."""

import functools
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from samplers.errors import ChainError
from samplers.escapes import unescaped
from samplers.history import never_empty
from samplers.stage import Context, Param

if TYPE_CHECKING:
    from torch import Tensor

_ITEM = re.compile(r"\s*(?:(\d+)|'((?:[^']|'')*)')=([+-]?(?:inf|(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?))(?=\s|$)")
_LARGEST = 10_000


@dataclass(frozen=True)
class LogitBias:
    """Make some tokens likelier or less likely: z' = z + b; -inf takes a token out.

    OpenAI's API reference. Tokens by id, or by their text between single quotes (a quote in it doubled, \\n a newline,
    \\\\ a backslash), apart from each other by spaces: `logit_bias="13=-5 ' the'=2 198=-inf"`. Where nothing would be
    left, the best token is.
    """

    name: ClassVar[str] = "logit_bias"
    bias: Annotated[str, Param(0, 0, help="token=number, several apart by spaces; empty is off")] = ""

    def __post_init__(self) -> None:
        _items(self.bias)

    def __call__(self, logits: "Tensor", context: Context) -> "Tensor":
        biases: dict[int, float] = {}
        for token, number in _items(self.bias):
            place = token if isinstance(token, int) else _token_of(token, context)
            if place >= logits.shape[-1]:
                raise ChainError(f"there is no token {place} in a vocabulary of {logits.shape[-1]:,}")
            biases[place] = biases.get(place, 0.0) + number
        if not biases:
            return logits
        biased = logits.clone()
        biased[:, list(biases)] += logits.new_tensor(list(biases.values()))
        return never_empty(biased, logits) if -math.inf in biases.values() else biased


@functools.lru_cache(maxsize=64)
def _items(text: str) -> tuple[tuple[int | str, float], ...]:
    found: list[tuple[int | str, float]] = []
    place = 0
    while text[place:].strip():
        item = _ITEM.match(text, place)
        if item is None:
            raise ChainError(
                f"logit_bias: '{text[place:].strip()}' does not begin with token=number, the token being an id or a "
                "text between single quotes."
            )
        number = float(item[3])
        if number != -math.inf and abs(number) > _LARGEST:
            raise ChainError(f"logit_bias: {item[3]}: must be between {-_LARGEST:,} and {_LARGEST:,}, or -inf.")
        found.append((int(item[1]) if item[1] else unescaped(item[2].replace("''", "'")), number))
        place = item.end()
    return tuple(found)


def _token_of(text: str, context: Context) -> int:
    if context.vocabulary is None:
        raise ChainError(f"'{text}' needs a tokenizer, and this model has none: name the token by its id")
    ids = context.vocabulary.encode(text)
    if len(ids) != 1:
        raise ChainError(f"'{text}' is {len(ids)} tokens, not one: name them by their ids {ids}, or use banned_words")
    return ids[0]
