"""DRY: don't repeat yourself."""

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from samplers.escapes import unescaped
from samplers.history import check_scope, seen
from samplers.same import Same
from samplers.stage import Context, Param

if TYPE_CHECKING:
    from torch import Tensor

_HIGHEST = 1e30
"""No penalty is larger: it must stay a number in float32."""


@dataclass(frozen=True)
class Dry:
    """Make a token less likely the longer a run of the text it would repeat: z' = z - m · b^(L - a) where L ≥ a.

    L is the length of the longest run that ends the text and stood before this token once already. A run does not
    reach over a token with a breaker in it, and such tokens are not penalised. p-e-w 2024, text-generation-webui pull
    request 5677. The prompt counts too, as it does there, unless scope is output.
    """

    name: ClassVar[str] = "dry"
    multiplier: Annotated[float, Param(0.0, 10.0, 0.05, off=0.0, help="m, the penalty at L = a; 0 is off")] = 0.8
    base: Annotated[float, Param(1.0, 10.0, 0.05, help="b, by which it grows with each token more")] = 1.75
    allowed_length: Annotated[int, Param(1, 1000, 1, help="a, the run from which on it acts")] = 2
    scope: Annotated[str, Param(0, 0, help="which tokens count: output, or all with the prompt")] = "all"
    window: Annotated[int, Param(0, 1_000_000, 1, log=True, help="the last so many of them; 0 is all")] = 0
    breakers: Annotated[str, Param(0, 0, help=r"characters that end a run; \n is a newline, \\ a backslash")] = r'\n:"*'

    def __post_init__(self) -> None:
        check_scope(self.name, self.scope)

    def __call__(self, logits: "Tensor", context: Context) -> "Tensor":
        if self.multiplier <= 0.0:
            return logits
        breakers = (
            _breaking(Same(context.vocabulary), self.breakers) if context.vocabulary is not None else frozenset[int]()
        )
        most = math.log(_HIGHEST / self.multiplier) / math.log(self.base) if self.base > 1.0 else math.inf
        result = logits
        for row, tokens in enumerate(seen(context, self.scope, self.window).tolist()):
            lengths = self._lengths(tokens, breakers)
            if lengths:
                if result is logits:
                    result = logits.clone()
                exponents = [min(length - self.allowed_length, most) for length in lengths.values()]
                penalties = [self.multiplier * self.base**exponent for exponent in exponents]
                result[row, list(lengths)] -= result.new_tensor(penalties)
        return result

    def _lengths(self, tokens: list[int], breakers: frozenset[int]) -> dict[int, int]:
        """Return the tokens that would repeat a run of `allowed_length` or more, with the longest run's length."""
        reverse = tokens[::-1]
        reach = next((at for at, token in enumerate(reverse) if token in breakers), len(reverse))
        if reach < self.allowed_length:
            return {}
        found: dict[int, int] = {}
        for place, length in enumerate(_common_beginnings(reverse)):
            length = min(length, reach)
            if place and length >= self.allowed_length:
                token = reverse[place - 1]
                if length > found.get(token, 0) and token not in breakers:
                    found[token] = length
        return found


@functools.lru_cache(maxsize=8)
def _breaking(key: Same, breakers: str) -> frozenset[int]:
    """Return the tokens in whose bytes one of the characters is."""
    characters = [each.encode() for each in unescaped(breakers)]
    pieces = map(key.vocabulary.token_bytes, range(key.vocabulary.vocab_size))
    return frozenset(token for token, piece in enumerate(pieces) if any(each in piece for each in characters))


def _common_beginnings(tokens: list[int]) -> list[int]:
    """Return for each place how many tokens from there on are those at the beginning: the Z-algorithm, in one pass.

    Gusfield 1997, "Algorithms on Strings, Trees and Sequences", section 1.4.
    """
    count = len(tokens)
    found = [0] * count
    left = right = 0  # the stretch known to equal the beginning that reaches farthest
    for place in range(1, count):
        length = min(found[place - left], right - place) if place < right else 0
        while place + length < count and tokens[length] == tokens[place + length]:
            length += 1
        found[place] = length
        if place + length > right:
            left, right = place, place + length
    return found
