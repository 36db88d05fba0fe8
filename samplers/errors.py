"""The one error of this storey, and its way of naming what was probably meant."""

import difflib
from collections.abc import Iterable


class ChainError(ValueError):
    """A chain that cannot be: the message is a sentence that says what and where."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the nearest of `known`, or all of them when nothing is near."""
    names = sorted(known)
    if not names:
        return " It has none."
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else f" Known: {', '.join(names)}."
