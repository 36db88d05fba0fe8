"""Automaton: where a text may stand in a pattern, byte by byte. A state is the set of all the places at once.

Thompson 1968, "Regular Expression Search Algorithm", over the bytes of UTF-8: a character is followed through its
ByteClass, so that one of two hundred thousand letters costs a pattern one node.
"""

import functools
import heapq

from samplers.errors import ChainError
from samplers.regular.characters import ALL_BYTES, ByteClass, byte_class
from samplers.regular.pattern import Node, Pattern

State = frozenset[int]
"""Numbers of items; an item is a place inside or before a character of the pattern, or its end."""

DEAD: State = frozenset()
FAR = 1 << 30
"""A distance that no text covers."""
_ACCEPT = 0
_FREE, _LAST_LINE, _END = 0, 1, 2
"""What may follow: anything; one "\\n" or nothing, for a $ was passed; nothing, for a \\Z was."""


class Automaton:
    """A pattern at work. States from which no text comes to match are DEAD already."""

    def __init__(self, pattern: str, alphabet: bytes = ALL_BYTES) -> None:
        """Read a pattern whose texts are spelt with the bytes of an alphabet.

        Raises:
            ChainError: as Pattern.
        """
        read = Pattern(pattern)
        self._nodes = read.nodes
        self._classes = [byte_class(node.ranges, alphabet) for node in read.nodes]
        self._left = self._distances()
        self._items: list[tuple[int, int, int]] = [(0, 0, 0)]  # node, place in its character, what may follow
        self._distance_of = [0]
        self._numbers: dict[tuple[int, int, int], int] = {}
        self._moves: dict[int, list[State]] = {_ACCEPT: [DEAD] * 256}
        self._closures: dict[tuple[int, int], State] = {}
        self.start = self._closure(read.first, _FREE, at_start=True)

    def row(self, state: State) -> list[State]:
        """Return where each byte leads."""
        known: dict[tuple[State, ...], State] = {}
        row = []
        for targets in zip(*map(self._moves_of, state), strict=True):
            if targets not in known:
                known[targets] = DEAD.union(*targets)
            row.append(known[targets])
        return row or [DEAD] * 256

    def distance(self, state: State) -> int:
        """Return how many bytes more the shortest text needs; 0 if it matches as it is, FAR if none does."""
        return min((self._distance_of[item] for item in state), default=FAR)

    def _moves_of(self, item: int) -> list[State]:
        if item not in self._moves:
            number, place, free = self._items[item]
            node = self._nodes[number]
            if free == _LAST_LINE:
                moves = [DEAD] * 256
                moves[0x0A] = self._closure(node.targets[0], _END)
            else:
                whole = self._closure(node.targets[0], free)
                inside = {
                    step: self._alive(number, step, free) for step in set(self._classes[number].steps[place]) - {0}
                }
                moves = [inside.get(step, whole) for step in self._classes[number].steps[place]]
            self._moves[item] = moves
        return self._moves[item]

    def _alive(self, number: int, place: int, free: int) -> State:
        """Return the state of one item; DEAD where it leads nowhere."""
        if place < 0:
            return DEAD
        key = (number, place, free)
        if key not in self._numbers:
            after = self._left[self._nodes[number].targets[0] * 3 + (_END if free == _LAST_LINE else free)]
            distance = self._classes[number].left[place] + after
            if distance >= FAR or not _passes(self._classes[number], free):
                return DEAD
            self._numbers[key] = len(self._items)
            self._items.append(key)
            self._distance_of.append(distance if free == _FREE else 1)
        return frozenset((self._numbers[key],))

    def _closure(self, first: int, free: int, at_start: bool = False) -> State:
        """Return the items that are reached from a node without a byte."""
        if not at_start and (first, free) in self._closures:
            return self._closures[first, free]
        found: set[int] = set()
        seen, stack = {(first, free)}, [(first, free)]
        while stack:
            number, now = stack.pop()
            node = self._nodes[number]
            if node.kind == "accept":
                found.add(_ACCEPT)
            elif node.kind == "characters":
                found |= self._alive(number, 0, now)
            elif node.kind != "at start" or at_start:
                new = {(target, _behind(node, now)) for target in node.targets} - seen
                seen |= new
                stack.extend(new)
        closure = frozenset(found)
        if not at_start:
            self._closures[first, free] = closure
        return closure

    def _distances(self) -> list[int]:
        """Return of each node, thrice for what may follow, the fewest bytes to the end (Dijkstra, backwards)."""
        towards: dict[int, list[tuple[int, int]]] = {}
        anchored = any(node.kind in ("at end", "at last line's end") for node in self._nodes)
        for number, node in enumerate(self._nodes):
            for free in (_FREE, _LAST_LINE, _END) if anchored else (_FREE,):
                step, behind = 0, _behind(node, free)
                if node.kind == "characters":
                    if not _passes(self._classes[number], free):
                        continue
                    step, behind = (self._classes[number].left[0], free) if free == _FREE else (1, _END)
                elif node.kind == "at start":  # passed in the first closure only
                    continue
                for target in node.targets:
                    towards.setdefault(target * 3 + behind, []).append((number * 3 + free, step))
        left = [FAR] * (3 * len(self._nodes))
        queue = [(0, free) for free in (_FREE, _LAST_LINE, _END)]  # node 0 accepts
        left[:3] = [0, 0, 0]
        while queue:
            distance, place = heapq.heappop(queue)
            if distance == left[place]:
                for before, step in towards.get(place, ()):
                    if distance + step < left[before]:
                        left[before] = distance + step
                        heapq.heappush(queue, (distance + step, before))
        return left


@functools.lru_cache(maxsize=32)
def automaton_of(pattern: str) -> Automaton:
    """Return the automaton of a pattern that all bytes may spell.

    Raises:
        ChainError: as Automaton, or no text matches the pattern.
    """
    automaton = Automaton(pattern)
    if automaton.start == DEAD:
        raise ChainError(f"regex: no text matches the pattern '{pattern}'.")
    return automaton


def _behind(node: Node, free: int) -> int:
    """Return what may follow behind a node that takes no byte."""
    if node.kind == "at end":
        return _END
    return max(free, _LAST_LINE) if node.kind == "at last line's end" else free


def _passes(characters: ByteClass, free: int) -> bool:
    """Return whether a character of a class may come."""
    return characters.left[0] > 0 if free == _FREE else free == _LAST_LINE and characters.newline
