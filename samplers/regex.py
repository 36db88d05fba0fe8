"""Regex: the text that is written matches a pattern."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Optional

from samplers.errors import ChainError
from samplers.regular.automaton import State, automaton_of
from samplers.regular.token_masks import TokenMasks, token_masks
from samplers.rows import on_cpu
from samplers.stage import Context, Param

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Regex:
    """Allow only tokens with which the whole output can still match a pattern, as Python's `re.fullmatch` would.

    z' = z where the text, its bytes and those of the token, is the beginning of a match, else -inf; the end of text
    is allowed where the text matches, and forced where nothing else can follow (Willard and Louf 2023, arXiv
    2307.09702, section 3). When few tokens may still come, only those stay after which the shortest rest of a match
    has a token for each byte, so that no text is cut before it matches; where even the shortest is too long, those
    that come nearest. What is allowed but out already, all of it, comes back with equal logits: the pattern wins over
    the stages before it, so put it first and let the others choose among what it allows.

    The pattern begins at the first token that the stage sees. Back-references, look-around, word boundaries, atomic
    and conditional groups, possessive repeats and the anchors ^ and $ under the flag m are refused. After the end of
    text everything is allowed.
    """

    name: ClassVar[str] = "regex"
    knows_tokens: ClassVar[bool] = True
    revives: ClassVar[bool] = True
    pattern: Annotated[str, Param(0, 0, help="what the whole output matches, in the syntax of Python's re")] = "(?s).*"

    def __post_init__(self) -> None:
        automaton_of(self.pattern)  # raises where it cannot be

    def start(self) -> "Written":
        return Written(self.pattern)

    def after(self, memory: "Written", token: int, logits_in: "Tensor", logits_out: "Tensor") -> "Written":
        return Written(self.pattern, self._own(memory), token)

    def __call__(self, logits: "Tensor", context: Context) -> "Tensor":
        if context.vocabulary is None:
            raise ChainError("regex needs to know what the tokens spell, and this model has no tokenizer")
        masks = token_masks(self.pattern, context.vocabulary)
        state = self._own(context.memory).state(masks)
        if state is None:
            return logits
        banned = masks.banned(state, context.remaining, logits)  # (V,)
        kept = logits.masked_fill(banned, -math.inf)
        best = kept.amax(dim=-1, keepdim=True)
        if on_cpu(logits) and bool((best > -math.inf).all()):
            return kept
        return kept.masked_fill((best == -math.inf) & ~banned, 0.0)

    def _own(self, memory: Optional["Written"]) -> "Written":
        """Return the memory, or one of nothing where another pattern was in force: this one begins here."""
        return memory if memory is not None and memory.pattern == self.pattern else Written(self.pattern)


class Written:
    """What was written since a pattern began, as a value: a token, and what was written before it.

    Where it leads is noted when it is first asked for, as stages are told a token without being told the vocabulary.
    """

    __slots__ = ("_found", "before", "pattern", "token")

    def __init__(self, pattern: str, before: Optional["Written"] = None, token: int = -1) -> None:
        self.pattern = pattern
        self.before = before
        self.token = token
        self._found: tuple[TokenMasks, State | None] | None = None

    def state(self, masks: TokenMasks) -> State | None:
        """Return where the text stands in the pattern; None behind its end."""
        pending, last = [], self
        while last.before is not None and (last._found is None or last._found[0] is not masks):
            pending.append(last)
            last = last.before
        state = last._found[1] if last._found is not None and last._found[0] is masks else masks.start
        for each in reversed(pending):
            if each.token == masks.spellings.end_of_text:
                state = None
            elif state is not None:
                state = masks.after(state, each.token)
            each._found = (masks, state)
        return state

    def __iter__(self) -> Iterator[int]:
        """Yield the tokens, the last one first."""
        each = self
        while each.before is not None:
            yield each.token
            each = each.before

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Written) and self.pattern == other.pattern and list(self) == list(other)

    def __hash__(self) -> int:
        return hash((self.pattern, self.token))

    def __reduce__(self) -> tuple[Any, ...]:
        return _written, (self.pattern, list(self)[::-1])


def _written(pattern: str, tokens: list[int]) -> Written:
    """Return what was written from its tokens."""
    written = Written(pattern)
    for token in tokens:
        written = Written(pattern, written, token)
    return written
