"""Byte-pair encoding learned from a text: which merges a vocabulary is made of. Knows no tiktoken and no files."""

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

from gpt_model.errors import TokenizerError

PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
"""How GPT-2 parts a text before merging: no merge crosses one of these pieces."""

Pair = tuple[int, int]


def learn_ranks(
    texts: Iterable[str], size: int, on_progress: Callable[[float], None] = lambda share: None
) -> dict[bytes, int]:
    """Return up to `size` ranks: the 256 bytes, then the most frequent pair again and again.

    Sennrich, Haddow and Birch 2016, "Neural Machine Translation of Rare Words with Subword Units", arXiv 1508.07909,
    section 3.2, on bytes as in GPT-2. Of equally frequent pairs the one with the lower ids is merged first, so that a
    text always gives the same vocabulary. Pair counts are kept and corrected around each merge, never recounted.

    Raises:
        TokenizerError: the texts are empty.
    """
    words = _count_words(texts, on_progress)
    if not words:
        raise TokenizerError("The corpus is empty, so no vocabulary can be trained on it.")
    ranks = {bytes([byte]): byte for byte in range(256)}
    pieces = list(ranks)
    spellings = [list(word) for word in words]
    counts = list(words.values())
    totals: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[int]] = defaultdict(set)
    for index, spelling in enumerate(spellings):
        for pair in pairwise(spelling):
            totals[pair] += counts[index]
            where[pair].add(index)
    heap = [(-total, pair) for pair, total in totals.items()]
    heapq.heapify(heap)

    while len(pieces) < size and heap:
        on_progress(len(pieces) / size)
        negative, pair = heapq.heappop(heap)
        if totals[pair] != -negative:  # an entry that a later merge has made stale
            continue
        if -negative < 2:  # a pair seen once teaches nothing
            break
        piece = pieces[pair[0]] + pieces[pair[1]]
        merged = ranks.setdefault(piece, len(pieces))  # "ab"+"c" may spell what "a"+"bc" has become before
        if merged == len(pieces):
            pieces.append(piece)
        changed: Counter[Pair] = Counter()
        for index in where.pop(pair):
            old = spellings[index]
            new = list(_merge(old, pair, merged))
            for each in pairwise(old):
                changed[each] -= counts[index]
            for each in pairwise(new):
                changed[each] += counts[index]
                where[each].add(index)
            spellings[index] = new
        for each, difference in changed.items():
            if difference:
                totals[each] += difference
                if totals[each] > 0:
                    heapq.heappush(heap, (-totals[each], each))
    return ranks


def merges_of(ranks: dict[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the pair that each token beyond the bytes was merged from, in order of rank.

    The pair is what lower-ranked merges leave of the token when they are applied to its bytes.
    """
    for piece, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(piece) == 1:
            continue
        parts = [bytes([byte]) for byte in piece]
        while len(parts) > 2:
            joined = [ranks.get(a + b, rank) for a, b in pairwise(parts)]
            lowest = min(joined)
            if lowest >= rank:
                break
            at = joined.index(lowest)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2:
            yield parts[0], parts[1]


def unicode_of_bytes() -> dict[int, str]:
    """Return the printable character that GPT-2's `vocab.json` writes for each byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + place) for place, byte in enumerate(others)}


def _count_words(texts: Iterable[str], on_progress: Callable[[float], None]) -> Counter[bytes]:
    import regex  # the engine behind PATTERN's \p classes; tiktoken depends on it

    pieces = regex.compile(PATTERN)
    words: Counter[bytes] = Counter()
    for text in texts:
        on_progress(0.0)
        words.update(match.group().encode("utf-8", errors="replace") for match in pieces.finditer(text))
    return words


def _merge(spelling: list[int], pair: Pair, merged: int) -> Iterator[int]:
    position, last = 0, len(spelling) - 1
    while position <= last:
        if position < last and (spelling[position], spelling[position + 1]) == pair:
            yield merged
            position += 2
        else:
            yield spelling[position]
            position += 1
