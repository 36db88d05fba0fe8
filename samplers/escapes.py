"""Characters that a parameter's text cannot well hold, written with a backslash."""

import re

_PLAIN = {"n": "\n", "t": "\t", "r": "\r"}


def unescaped(text: str) -> str:
    r"""Return a text with \n, \t and \r as Python has them; a backslash before any other character is left out."""
    return re.sub(r"(?s)\\(.)", lambda found: _PLAIN.get(found[1], found[1]), text)
