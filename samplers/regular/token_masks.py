"""TokenMasks: which tokens of a vocabulary may follow in a text that is to match a pattern.

Willard and Louf 2023, "Efficient Guided Generation for Large Language Models", arXiv 2307.09702: the tokens of a state
are found once and kept. Here all tokens walk side by side, a byte a step, when a state is first met.
"""

import functools
import threading
from typing import TYPE_CHECKING, Any

from samplers.errors import ChainError
from samplers.regular.automaton import DEAD, FAR, Automaton, State, automaton_of
from samplers.regular.characters import ALL_BYTES
from samplers.regular.dfa import Dfa
from samplers.same import Same
from samplers.stage import Vocabulary

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Array = np.ndarray[tuple[int, ...], np.dtype[Any]]

_STATES = 50_000
"""A Dfa that has grown beyond so many states is begun anew."""
_LOOKED_AT = 16
"""Of so many states, when few tokens may still come, the way to a match is counted in tokens instead of bytes."""


class Spellings:
    """The bytes of a vocabulary's tokens, longest tokens first: column d holds byte d of those that have one.

    The end of text and tokens without bytes are not among them.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        import numpy as np

        self.vocab_size, self.end_of_text = vocabulary.vocab_size, vocabulary.end_of_text
        self.pieces = [vocabulary.token_bytes(token) for token in range(self.vocab_size)]
        if 0 <= self.end_of_text < self.vocab_size:
            self.pieces[self.end_of_text] = b""
        order = sorted(range(self.vocab_size), key=lambda token: -len(self.pieces[token]))
        longest = [self.pieces[token] for token in order if self.pieces[token]]
        self.ids: Array = np.array(order[: len(longest)], np.int64)
        spelt = np.frombuffer(b"".join(longest), np.uint8)
        lengths = np.array([len(piece) for piece in longest], np.int64)
        starts = lengths.cumsum() - lengths
        depths = range(int(lengths[0]) if len(longest) else 0)
        self.columns: list[Array] = [spelt[starts[lengths > depth] + depth] for depth in depths]
        self.alphabet = bytes(sorted(set(b"".join(longest))))


class TokenMasks:
    """A pattern and a vocabulary."""

    def __init__(self, pattern: str, spellings: Spellings) -> None:
        self.spellings = spellings
        whole = spellings.alphabet == ALL_BYTES
        self._automaton = automaton_of(pattern) if whole else Automaton(pattern, spellings.alphabet)
        self._dfa = Dfa(self._automaton)
        self._ways: dict[int, int] = {}
        self._lock = threading.RLock()
        self._following = functools.lru_cache(maxsize=16)(self._follow)
        self._farthest = functools.lru_cache(maxsize=4096)(self._find_farthest)
        self._masks = functools.lru_cache(maxsize=256)(self._mask)

    @property
    def start(self) -> State:
        """Where a text begins."""
        return self._automaton.start

    def after(self, state: State, token: int) -> State:
        """Return the state after a token; DEAD after one that spells nothing."""
        piece = self.spellings.pieces[token] if 0 <= token < self.spellings.vocab_size else b""
        with self._lock:
            return self._dfa.states[self._dfa.after(self._dfa.number(state), piece)] if piece else DEAD

    def banned(self, state: State, remaining: int | None, logits: "Tensor") -> "Tensor":
        """Return which tokens may not follow (V,), on the device of logits (…, V).

        Args:
            state: where the text stands.
            remaining: how many tokens may still come; where they are few, only such as leave enough for a match.
            logits: only their width and device matter.

        Raises:
            ChainError: nothing may follow, not even an end of text, for the vocabulary has none.
        """
        with self._lock:
            if len(self._dfa.states) > _STATES:
                self._dfa = Dfa(self._automaton)
                self._ways.clear()
                self._following.cache_clear()
            if remaining is not None and self._farthest(state) < remaining:
                remaining = None
            return self._masks(state, remaining, logits.shape[-1], logits.device)

    def _follow(self, state: State) -> "tuple[Array, Array]":
        """Return the tokens after which a match can still come, and the number of the state after each."""
        import numpy as np

        dfa, spellings = self._dfa, self.spellings
        places = np.full(len(spellings.ids), dfa.number(state), np.int32)
        walking = np.arange(len(places))
        for column in spellings.columns:
            walking = walking[: walking.searchsorted(len(column))]  # the rest is spelt already
            if not len(walking):
                break
            now = places[walking]
            dfa.prepare(now)
            now = dfa.table[now, column[walking]]
            places[walking] = now
            walking = walking[now.nonzero()[0]]
        alive = places.nonzero()[0]
        return spellings.ids[alive], places[alive]

    def _find_farthest(self, state: State) -> int:
        _, places = self._following(state)
        return int(self._dfa.distance[places].max(initial=0))

    def _mask(self, state: State, remaining: int | None, width: int, device: Any) -> "Tensor":
        import numpy as np
        import torch

        tokens, places = self._following(state)
        inside = tokens < width
        tokens, places = tokens[inside], places[inside]
        accepts = self._automaton.distance(state) == 0
        if remaining is not None and len(tokens):
            tokens = tokens[self._in_time(places, remaining - 1, accepts)]
        banned = np.ones(width, np.bool_)
        banned[tokens] = False
        if (accepts or not len(tokens)) and 0 <= self.spellings.end_of_text < width:
            banned[self.spellings.end_of_text] = False
        if banned.all():
            raise ChainError("no token of the vocabulary may follow, and it has no end of text")
        return torch.from_numpy(banned).to(device)

    def _in_time(self, places: "Array", count: int, accepts: bool) -> "Array":
        """Return from which states `count` tokens lead to a match; where from none, those with the fewest bytes to it.

        Where the text matches already, there may be none at all.
        """
        distances = self._dfa.distance[places]
        fewest = int(distances.min())
        kept = distances <= count  # a byte is a token at the worst
        open_places = set(places[~kept & (distances <= count * len(self.spellings.columns))].tolist())
        nearest = sorted(open_places, key=lambda place: (int(self._dfa.distance[place]), place))
        for place in nearest[:_LOOKED_AT]:
            if self._way(place) <= count:
                kept |= places == place
        return kept if accepts or kept.any() else distances == fewest

    def _way(self, number: int) -> int:
        """Return how many tokens lead from a state to a match when each goes as near to it as it can."""
        passed = []
        while number not in self._ways and (distance := int(self._dfa.distance[number])) > 0:
            passed.append(number)
            _, places = self._following(self._dfa.states[number])
            distances = self._dfa.distance[places]
            if not len(places) or int(distances.min()) >= distance:  # the vocabulary lacks bytes
                self._ways[number] = FAR
                break
            number = int(places[distances == distances.min()].min())  # the one that _in_time looks at first
        way = self._ways.get(number, 0)
        for each in reversed(passed):
            way = self._ways[each] = way if each == number else way + 1
        return way


@functools.lru_cache(maxsize=4)
def _spellings(key: Same) -> Spellings:
    return Spellings(key.vocabulary)


@functools.lru_cache(maxsize=8)
def _token_masks(pattern: str, key: Same) -> TokenMasks:
    return TokenMasks(pattern, _spellings(key))


def token_masks(pattern: str, vocabulary: Vocabulary) -> TokenMasks:
    """Return the masks of a pattern and a vocabulary, made once.

    Raises:
        ChainError: as Automaton.
    """
    return _token_masks(pattern, Same(vocabulary))
