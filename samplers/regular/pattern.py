"""Pattern: a regular expression, read by Python's own parser, as the nodes of Thompson's automaton over characters."""

import importlib
import re
import warnings
from dataclasses import dataclass, field
from typing import Any, Literal

from samplers.errors import ChainError
from samplers.regular.characters import Ranges, matching, without

LIMIT = 20_000
"""Nodes that a pattern may have once its repeats are written out."""

Kind = Literal["accept", "split", "characters", "at start", "at last line's end", "at end"]

_CATEGORIES = {"DIGIT": r"\d", "NOT_DIGIT": r"\D", "SPACE": r"\s", "NOT_SPACE": r"\S", "WORD": r"\w", "NOT_WORD": r"\W"}
_ANCHORS: dict[str, Kind] = {
    "AT_BEGINNING": "at start",
    "AT_BEGINNING_STRING": "at start",
    "AT_END": "at last line's end",
    "AT_END_STRING": "at end",
}
_REFUSED = {
    "GROUPREF": "a back-reference",
    "GROUPREF_EXISTS": "a conditional group (?(…)…)",
    "ATOMIC_GROUP": "an atomic group (?>…)",
    "POSSESSIVE_REPEAT": "a possessive repeat such as a++",
    "FAILURE": "a look-ahead (?!)",
}
_TYPE_FLAGS = re.ASCII | re.LOCALE | re.UNICODE


@dataclass
class Node:
    """A place between two characters of a pattern."""

    kind: Kind
    targets: list[int] = field(default_factory=list)
    """The nodes that follow: behind one character for "characters", else at once, where the kind says so."""
    ranges: Ranges = ()
    """Of "characters": which."""


class Pattern:
    """The nodes of a pattern; node 0 accepts, and `first` is where a text begins."""

    def __init__(self, pattern: str) -> None:
        """Read a pattern.

        Raises:
            ChainError: it is no regular expression, has what an automaton here does not follow, or is too large.
        """
        self.text = pattern
        self.nodes = [Node("accept")]
        try:
            with warnings.catch_warnings():  # of syntax that may change one day: there is nobody here to be warned
                warnings.simplefilter("ignore")
                parsed = importlib.import_module("re._parser").parse(pattern)
            self.first = self._sequence(parsed, parsed.state.flags, 0)
        except (re.error, OverflowError) as error:
            raise ChainError(f"regex: the pattern '{pattern}' is no regular expression: {error}.") from error
        except RecursionError as error:
            raise ChainError(f"regex: the pattern '{pattern:.80}' is nested too deeply.") from error

    def _add(self, kind: Kind, targets: list[int], ranges: Ranges = ()) -> int:
        if len(self.nodes) >= LIMIT:
            raise ChainError(
                f"regex: the pattern '{self.text:.80}' is too large: with its repeats written out it has more than "
                f"{LIMIT:,} parts. Lower the bounds of its repeats, or write * or + for them."
            )
        self.nodes.append(Node(kind, targets, ranges))
        return len(self.nodes) - 1

    def _sequence(self, parsed: Any, flags: int, after: int) -> int:
        """Return the node at which what was parsed begins, when it goes on at the node `after`."""
        for operation, argument in reversed(list(parsed)):
            after = self._part(operation.name, argument, flags, after)
        return after

    def _part(self, operation: str, argument: Any, flags: int, after: int) -> int:
        match operation:
            case "LITERAL" | "NOT_LITERAL" | "IN" | "ANY":
                return self._add("characters", [after], _characters(operation, argument, flags))
            case "BRANCH":
                return self._add("split", [self._sequence(each, flags, after) for each in argument[1]])
            case "SUBPATTERN":
                _, added, removed, parsed = argument
                kept = flags & ~_TYPE_FLAGS if added & _TYPE_FLAGS else flags
                return self._sequence(parsed, (kept | added) & ~removed, after)
            case "MAX_REPEAT" | "MIN_REPEAT":
                least, most, parsed = argument
                return self._repeat(least, most, parsed, flags, after)
            case "AT" if argument.name in _ANCHORS:
                if flags & re.MULTILINE and argument.name in ("AT_BEGINNING", "AT_END"):
                    raise self._refusal("^ or $ under the flag m")
                return self._add(_ANCHORS[argument.name], [after])
            case "AT":
                raise self._refusal("a word boundary \\b or \\B")
            case "ASSERT" | "ASSERT_NOT":
                raise self._refusal("a look-ahead" if argument[0] > 0 else "a look-behind")
        raise self._refusal(_REFUSED.get(operation, f"'{operation.lower()}'"))

    def _repeat(self, least: int, most: Any, parsed: Any, flags: int, after: int) -> int:
        """Greedy or not, the same texts match."""
        entry = after
        if str(most) == "MAXREPEAT":
            entry = self._add("split", [])
            body = self._sequence(parsed, flags, entry)
            self.nodes[entry].targets = [body, after]
            if least:
                entry, least = body, least - 1
        else:
            for _ in range(most - least):
                entry = self._add("split", [self._sequence(parsed, flags, entry), after])
        for _ in range(least):
            # with a node of its own, for a repeat of nothing must reach the limit too
            entry = self._add("split", [self._sequence(parsed, flags, entry)])
        return entry

    def _refusal(self, construct: str) -> ChainError:
        return ChainError(
            f"regex: the pattern '{self.text}' has {construct}, which this stage cannot follow token by token. "
            "Write it without."
        )


def _characters(operation: str, argument: Any, flags: int) -> Ranges:
    """Return the characters that a part of a pattern for one character matches."""
    if operation == "ANY":
        return without(()) if flags & re.DOTALL else without(((10, 10),))
    if operation != "IN":
        argument = [("LITERAL", argument)] if operation == "LITERAL" else [("NEGATE", None), ("LITERAL", argument)]
    items = [(str(kind), value) for kind, value in argument]
    if flags & re.IGNORECASE or any(kind == "CATEGORY" for kind, _ in items):
        letters = ("a" if flags & re.ASCII else "") + ("i" if flags & re.IGNORECASE else "")
        return matching(f"(?{letters}:[{''.join(_spelt(*item) for item in items)}])")
    negated = items[0][0] == "NEGATE"
    ranges = tuple((value, value) if kind == "LITERAL" else value for kind, value in items[negated:])
    return without(ranges) if negated else ranges


def _spelt(kind: str, value: Any) -> str:
    """Return an item of a set as a pattern spells it."""
    match kind:
        case "NEGATE":
            return "^"
        case "CATEGORY":
            return _CATEGORIES[value.name.removeprefix("CATEGORY_")]
        case "RANGE":
            return f"\\U{value[0]:08x}-\\U{value[1]:08x}"
    return f"\\U{value:08x}"
