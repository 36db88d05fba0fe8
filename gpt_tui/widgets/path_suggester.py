"""PathSuggester: completes the last path of an input from the file system, as a shell does."""

import asyncio
from pathlib import Path

from textual.suggester import Suggester


class PathSuggester(Suggester):
    """Suggests the first file or directory, in order of name, that begins like the last path typed."""

    def __init__(self) -> None:
        super().__init__(use_cache=False, case_sensitive=True)

    async def get_suggestion(self, value: str) -> str | None:
        """Return the whole line with its last path completed, or None."""
        return await asyncio.to_thread(self._complete, value)

    @staticmethod
    def _complete(value: str) -> str | None:
        head, space, last = value.rpartition(" ")
        if not last:
            return None
        typed = Path(last).expanduser()
        folder, stem = (typed, "") if last.endswith("/") else (typed.parent, typed.name)
        try:
            names = sorted(each.name + "/" * each.is_dir() for each in folder.iterdir())
        except OSError:
            return None
        found = next(
            (name for name in names if name.startswith(stem) and not (name.startswith(".") and not stem)), None
        )
        return head + space + last + found[len(stem) :] if found else None
