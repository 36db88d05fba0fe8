"""Prompt lookup: speculation by what the text itself said before."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from gpt_model.decoders.speculation import speculate
from gpt_model.decoding import Session, Step
from samplers import Param


@dataclass(frozen=True)
class Lookup:
    """Guess that what followed the last tokens before follows them again; the text is plain decoding's.

    The longest run of up to `ngram` last tokens that stands earlier in the text, where it stood last, tells what comes
    next; where that reaches the text's end, it begins again. Saxena 2023, "Prompt Lookup Decoding"; speculation.py has
    why no text is changed by it. Worth its while where texts repeat themselves: code, lists, quotations, edits.
    """

    name: ClassVar[str] = "lookup"
    together: ClassVar[bool] = False
    tokens: Annotated[int, Param(1, 64, 1, log=True, help="tokens that are guessed at once, at most")] = 16
    ngram: Annotated[int, Param(1, 16, 1, help="last tokens that are looked up, at most")] = 3

    def decode(self, session: Session) -> Iterator[Step]:
        index = _Index(self.ngram)

        def guess(tokens: list[int], count: int) -> list[int]:
            place = index.find(tokens)
            if place is None:
                return []
            again = tokens[place:]  # what goes in a circle is guessed to go on in it
            return [again[each % len(again)] for each in range(count)]

        return speculate(session, self.tokens, guess)


class _Index:
    """Where each run of tokens stood last; it learns a growing text once."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._after: list[dict[tuple[int, ...], int]] = [{} for _ in range(longest)]
        self._learned = 0

    def find(self, tokens: list[int]) -> int | None:
        """Return the place after the last earlier occurrence of the longest run that ends the text, if there is one."""
        # a run is known only once something follows it: the run at the very end is never its own occurrence
        for end in range(max(self._learned, 1), len(tokens)):
            for length in range(1, min(self._longest, end) + 1):
                self._after[length - 1][tuple(tokens[end - length : end])] = end
        self._learned = len(tokens)
        for length in range(min(self._longest, len(tokens)), 0, -1):
            place = self._after[length - 1].get(tuple(tokens[-length:]))
            if place is not None:
                return place
        return None
