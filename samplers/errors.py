"""The one error of this storey, and its way of naming what was probably meant."""

import difflib
from collections.abc import Iterable

_LISTED = 12


class ChainError(ValueError):
    """A chain that cannot be: the message is a sentence that says what and where."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the nearest of `known`, or a list of them when nothing is near."""
    names = sorted(known)
    if not names:
        return " There are none."
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if near:
        return f" Did you mean '{near[0]}'?"
    rest = f" and {len(names) - _LISTED} others" if len(names) > _LISTED else ""
    return f" Known: {', '.join(names[:_LISTED])}{rest}."


class NotFiniteError(ArithmeticError):
    """Logits hold NaN or +inf, or no finite number: what was told of them is no number."""
