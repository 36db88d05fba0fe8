"""Sets of characters: as ranges of code points, and as ByteClass, a tiny automaton over the bytes of UTF-8."""

import functools
import re
from array import array
from dataclasses import dataclass

Ranges = tuple[tuple[int, int], ...]
"""First and last code points of the runs of a set, in order."""

ALL_BYTES = bytes(range(256))
_CODE_POINTS = 0x110000
_LEADS = ((0xC0, 32, 1), (0xE0, 16, 2), (0xF0, 5, 3))
"""Of characters of two, three and four bytes: the lowest first byte, how many there are, how many bytes follow."""


@dataclass(frozen=True, eq=False)
class ByteClass:
    """The UTF-8 of a set of characters, byte by byte. Places are between bytes; 0 is before the first."""

    steps: tuple[tuple[int, ...], ...]
    """steps[place][byte]: the next place; 0 when the character is whole; -1 when no character of the set goes so."""
    left: tuple[int, ...]
    """How many bytes are left at each place at the least; 0 at the first place of a set without characters."""

    @property
    def newline(self) -> bool:
        """Whether "\\n" is in the set."""
        return self.steps[0][0x0A] == 0


@functools.lru_cache(maxsize=256)
def matching(pattern: str) -> Ranges:
    """Return the characters that a pattern for one character matches: `re` itself is asked about every code point."""
    return tuple((run.start(), run.end() - 1) for run in re.finditer(f"(?:{pattern})+", _every_character()))


def without(ranges: Ranges) -> Ranges:
    """Return all the code points that are not in the ranges, which may overlap and be in any order."""
    kept, first = [], 0
    for low, high in sorted(ranges):
        if low > first:
            kept.append((first, low - 1))
        first = max(first, high + 1)
    return (*kept, (first, _CODE_POINTS - 1)) if first < _CODE_POINTS else tuple(kept)


@functools.lru_cache(maxsize=256)
def byte_class(ranges: Ranges, alphabet: bytes = ALL_BYTES) -> ByteClass:
    """Return the automaton of a set of characters, of those that the bytes of an alphabet can spell."""
    member = bytearray(5 * 64**3)  # as many code points as five first bytes of four-byte characters span
    for low, high in ranges:
        member[low : high + 1] = b"\x01" * (high + 1 - low)
    member[0xD800:0xE000] = bytes(0x800)  # surrogates have no UTF-8
    steps: list[list[int]] = [[-1] * 256]
    left = [0]
    known: dict[bytes, int] = {}

    def place_of(block: bytes, following: int) -> int:
        """Return the place from which `following` bytes choose one of a block of code points; -1 if it is empty."""
        if block in known:
            return known[block]
        row = [-1] * 256
        size = len(block) // 64
        for number in range(64):
            part = block[number * size : (number + 1) * size]
            if 0x80 + number in alphabet and any(part):
                row[0x80 + number] = 0 if following == 1 else place_of(part, following - 1)
        if max(row) >= 0:
            known[block] = len(steps)
            steps.append(row)
            left.append(following)
        else:
            known[block] = -1
        return known[block]

    lengths = []
    for byte in range(0x80):
        if member[byte] and byte in alphabet:
            steps[0][byte] = 0
            lengths.append(1)
    member[:0x80] = bytes(0x80)
    for lowest, count, following in _LEADS:
        size = 64**following
        for number in range(count):
            first, behind = number * size, (number + 1) * size
            if lowest + number in alphabet and member.find(1, first, behind) >= 0:
                steps[0][lowest + number] = place_of(bytes(member[first:behind]), following)
                if steps[0][lowest + number] >= 0:
                    lengths.append(1 + following)
        member[: count * size] = bytes(count * size)  # what fewer bytes can spell is spelt so
    left[0] = min(lengths, default=0)
    return ByteClass(tuple(map(tuple, steps)), tuple(left))


@functools.cache
def _every_character() -> str:
    return array("I", range(_CODE_POINTS)).tobytes().decode("utf-32", "surrogatepass")
