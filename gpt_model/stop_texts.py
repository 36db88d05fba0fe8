"""StopTexts: finds stop texts in a stream and holds back what may be the beginning of one. Knows no tokens."""

from collections.abc import Sequence


class StopTexts:
    """Watches one stream of text for the first of several stop texts."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Return the text that is certain now, and whether a stop text was found right behind it."""
        self._held += text
        found = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if found:
            certain, self._held = self._held[: min(found)], ""
            return certain, True
        keep = max((self._overlap(stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        certain, self._held = self._held[:cut], self._held[cut:]
        return certain, False

    def finish(self) -> str:
        """Return what was held back and turned out to be no stop text."""
        held, self._held = self._held, ""
        return held

    def _overlap(self, stop: str) -> int:
        """Return how many characters at the end of what is held may begin this stop text."""
        longest = min(len(stop) - 1, len(self._held))
        return next((size for size in range(longest, 0, -1) if self._held.endswith(stop[:size])), 0)
