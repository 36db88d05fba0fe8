"""Splits: which parts of a corpus are trained on and which are kept for validation. Knows no tokenizer.

Both ways stream: a corpus of any size is split in constant memory.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from gpt_model.corpus import Document

BLOCK_BYTES = 16 * 1024
"""Bytes of a block; of a document under a megabyte a 64th, but not less than the fewest."""
_FEWEST_BYTES = 256
_OVERHANG = 4096
"""Bytes beyond its size in which a block may look for the end of a line."""
_HASHES = 2**64


@dataclass(frozen=True)
class Part:
    """A piece of a document, and on which side of the split it is."""

    document: int
    """Which of the corpus's documents it is of, from 0."""
    text: Document
    is_validation: bool


@dataclass(frozen=True)
class Split:
    """How a corpus is split."""

    kind: Literal["blocks", "tail"]
    fraction: float
    """The share of the text that is kept for validation, at least 0 and below 1."""

    def parts(self, documents: Sequence[Document]) -> Iterator[Part]:
        """Yield a corpus in order, in the longest parts that are on one side.

        Raises:
            DataError: a document cannot be read.
        """
        if not self.fraction:
            return (Part(number, each, False) for number, each in enumerate(documents))
        return self._by_blocks(documents) if self.kind == "blocks" else self._by_tail(documents)

    def _by_tail(self, documents: Sequence[Document]) -> Iterator[Part]:
        """Keep the last bytes of the whole text, cut where nanoGPT cuts: int(n * 0.9)."""
        left = int(sum(document.size for document in documents) * (1 - self.fraction))
        for number, document in enumerate(documents):
            before, after = document.split(document.start + min(max(left, 0), document.size))
            left -= document.size
            if before.size:
                yield Part(number, before, False)
            if after.size:
                yield Part(number, after, True)

    def _by_blocks(self, documents: Sequence[Document]) -> Iterator[Part]:
        """Keep the blocks whose hash is below the fraction: the same ones whatever else the corpus holds.

        And a block that stands twice in it is twice on one side.
        """
        limit = self._limit(documents)
        for number, document in enumerate(documents):
            begin = end = document.start
            side = False
            for end_of_block, digest in blocks(document):
                if (digest < limit) != side and end > begin:
                    yield Part(number, replace(document, start=begin, end=end), side)
                    begin = end
                side, end = digest < limit, end_of_block
            if end > begin:
                yield Part(number, replace(document, start=begin, end=end), side)

    def _limit(self, documents: Sequence[Document]) -> int:
        """Return the hash below which a block is kept, so that neither side of two blocks or more is empty."""
        limit = math.ceil(self.fraction * _HASHES)
        lowest, highest, count = _HASHES, 0, 0
        for document in documents:
            for _, digest in blocks(document):
                lowest, highest, count = min(lowest, digest), max(highest, digest), count + 1
                if lowest < limit <= highest:
                    return limit
        if lowest == highest or not count:  # one block, or many times the same
            return 0
        return lowest + 1 if lowest >= limit else highest


def blocks(document: Document) -> Iterator[tuple[int, int]]:
    """Yield where each block of a document ends, and its hash, a number of 64 bits.

    A block ends with a line, or else with a word, or else with a character.

    Raises:
        DataError: the document cannot be read.
    """
    size = min(BLOCK_BYTES, max(document.size // 64, _FEWEST_BYTES))
    position, buffer = document.start, b""
    for data in document.read(BLOCK_BYTES + _OVERHANG):
        buffer += data
        while len(buffer) >= size + _OVERHANG:
            end = _end_of_block(buffer, size)
            position += end
            yield position, _hash(buffer[:end])
            buffer = buffer[end:]
    while buffer:
        end = _end_of_block(buffer, size)
        position += end
        yield position, _hash(buffer[:end])
        buffer = buffer[end:]


def _end_of_block(buffer: bytes, size: int) -> int:
    if len(buffer) <= size:
        return len(buffer)
    for space in (b"\n", b" "):
        found = buffer.find(space, size - 1, size + _OVERHANG)
        if found >= 0:
            return found + 1
    while size < len(buffer) and 0x80 <= buffer[size] < 0xC0:  # inside a character
        size += 1
    return size


def _hash(block: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(block, digest_size=8).digest(), "big")
