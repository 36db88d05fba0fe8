"""Keys that terminals without the kitty protocol send and Textual does not know: Alt+Enter came as Enter."""

from contextlib import suppress
from types import SimpleNamespace

SEQUENCES = {"\x1b\r": "alt+enter"}


def teach_keys() -> None:
    """Let Textual's parser know these keys. Where its table is no longer found, they stay what they were."""
    with suppress(ImportError):
        from textual._ansi_sequences import ANSI_SEQUENCES_KEYS

        for sequence, key in SEQUENCES.items():
            ANSI_SEQUENCES_KEYS.setdefault(sequence, (SimpleNamespace(value=key),))  # type: ignore[attr-defined]
