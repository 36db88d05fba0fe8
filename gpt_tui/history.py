"""History: the prompts of former days, one JSON string a line. Knows no screen."""

import contextlib
import json
from pathlib import Path

KEPT = 1000


class History:
    """A file of prompts, oldest first."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self) -> list[str]:
        """Return the newest prompts, oldest first; a damaged line is skipped."""
        prompts: list[str] = []
        with contextlib.suppress(OSError):
            for line in self._file.read_text(encoding="utf-8", errors="replace").splitlines()[-KEPT:]:
                with contextlib.suppress(ValueError):
                    if isinstance(prompt := json.loads(line), str):
                        prompts.append(prompt)
        return prompts

    def add(self, prompt: str) -> None:
        """Keep a prompt. A disk that refuses costs the history, not the work."""
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(prompt) + "\n")
