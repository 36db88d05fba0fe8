"""Permutation: the numbers below n in an order that a key decides, one at a time and without a table.

A Feistel network on the smallest domain of 4ᵏ numbers that holds n, walked in cycles until it hits a number below n
(Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains", section 3). Ten billion windows take as much memory
as ten. Not for secrets: the rounds are Stafford's mixing of 64 bits, chosen for speed.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 6
Words = np.ndarray[Any, np.dtype[np.uint64]]


class Permutation:
    """A permutation of range(size), the same for the same key."""

    def __init__(self, size: int, key: tuple[int, ...]) -> None:
        """Take how many numbers there are (at least 1) and what decides their order (integers of at least 0)."""
        self.size = size
        half = (max(size - 1, 1).bit_length() + 1) // 2
        self._half = np.uint64(half)
        self._mask = np.uint64((1 << half) - 1)
        self._keys = np.random.SeedSequence(key).generate_state(_ROUNDS, np.uint64).astype(np.uint64)

    def __call__(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers (N,) that stand at places (N,), each at least 0 and below the size."""
        numbers = self._encipher(places.astype(np.uint64))
        while (outside := np.flatnonzero(numbers >= np.uint64(self.size))).size:  # at most three in four, every time
            numbers[outside] = self._encipher(numbers[outside])
        return numbers.astype(np.int64)

    def _encipher(self, numbers: Words) -> Words:
        left, right = numbers >> self._half, numbers & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & self._mask)
        return (left << self._half) | right


def _mix(words: Words) -> Words:
    """Return words in which every bit depends on all bits (Stafford's mix 13, as in SplitMix64)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
