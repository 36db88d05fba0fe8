"""How text that nobody vetted is shown: no character commands the terminal, and none that matters is invisible."""

import unicodedata

# Joiners and variation selectors: they shape the character before them and have no look of their own.
_SILENT = {0x200C, 0x200D, *range(0xFE00, 0xFE10)}
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r", " ": "␣"}


def picture(character: str) -> str | None:
    """Return what stands for a character that cannot be shown as itself, such as ␛ or <202e>; None for all others."""
    code = ord(character)
    if code < 32:
        return chr(0x2400 + code)
    if code < 127:
        return None
    if code == 127:
        return "␡"
    if code in _SILENT:
        return ""
    return f"<{code:02x}>" if unicodedata.category(character) in _UNSEEN else None


def token_label(text: str) -> str:
    """Return a token's text for a list: on one line, its spaces and newlines visible."""
    if not text:
        return "⋯"  # half of a character, or text that is still held back
    shown = (_ESCAPES.get(each) or picture(each) for each in text)
    return "".join(each if picked is None else picked for each, picked in zip(text, shown, strict=True))
