"""Copying a text off the machine: through tmux's own buffer, or OSC 52; and to a file in any case."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

_OSC52_LIMIT = 74_000
"""Bytes of base64 that terminals commonly take."""


def copy_text(text: str, file: Path, osc52: Callable[[str], None]) -> str:
    """Copy a text and return a sentence that says which way it went.

    tmux drops a program's OSC 52 in its default configuration; its own `load-buffer -w` reaches the terminal. The
    file is written always, because no terminal answers whether it took the text.
    """
    where = []
    if os.environ.get("TMUX"):
        done = subprocess.run(["tmux", "load-buffer", "-w", "-"], input=text.encode(), capture_output=True, timeout=5)
        where += ["tmux's buffer"] if done.returncode == 0 else []
    elif len(text.encode()) * 4 // 3 < _OSC52_LIMIT:
        osc52(text)
        where.append("the terminal's clipboard (OSC 52)")
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.write_text(text, encoding="utf-8")
        where.append(str(file))
    except OSError as error:
        if not where:
            return f"Nothing was copied: {error}."
    return f"Copied {len(text):,} characters to {' and '.join(where)}."
