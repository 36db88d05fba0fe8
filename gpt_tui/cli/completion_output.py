"""What `complete` writes to standard output: text as it comes, or JSON. One writer a form; all take tokens and ends."""

from typing import Any, Protocol, TextIO

from gpt_model.token_record import Finished, Token
from gpt_tui.cli.json_text import to_json
from gpt_tui.widgets.visible_text import picture


class Writer(Protocol):
    """Takes what a generation yields, in its order."""

    def token(self, token: Token) -> None:
        """Take a token of any sample."""

    def finished(self, finished: Finished) -> None:
        """Take the end of a sample."""

    def close(self) -> None:
        """Take the end of everything."""


class TextWriter:
    """The text and nothing else. Samples stand one after the other; the first unfinished one streams.

    A terminal gets control characters as pictures and a newline at the end; a pipe gets every byte as it is.
    """

    def __init__(self, out: TextIO, samples: int, prompt: str = "", null: bool = False) -> None:
        self._out = out
        self._terminal = out.isatty()
        self._held = [prompt] * samples
        self._finished = [False] * samples
        self._between, self._behind = ("\0", "\0") if null else ("\n---\n", "")
        self._current = 0
        self._last = "\n"
        self._drain()

    def token(self, token: Token) -> None:
        """Write the token's text, or hold it until its sample's turn."""
        self._held[token.sample] += token.text
        self._drain()

    def finished(self, finished: Finished) -> None:
        """Write what was held back; the next sample's turn comes."""
        self._held[finished.sample] += finished.text
        self._finished[finished.sample] = True
        self._drain()

    def close(self) -> None:
        """End the line, where a person is reading."""
        if self._terminal and self._last != "\n":
            self._put("\n")

    def _drain(self) -> None:
        while self._current < len(self._held):
            text, self._held[self._current] = self._held[self._current], ""
            self._put("".join(map(_shown, text)) if self._terminal else text)
            if not self._finished[self._current]:
                return
            self._current += 1
            self._put(self._between if self._current < len(self._held) else self._behind)

    def _put(self, text: str) -> None:
        if text:
            self._out.write(text)
            self._out.flush()
            self._last = text[-1]


def _shown(character: str) -> str:
    shown = None if character in "\n\t" else picture(character)
    return character if shown is None else shown


class JsonLinesWriter:
    """A line a token, as it comes, and a line for the end of each sample."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def token(self, token: Token) -> None:
        """Write the token's record."""
        self._put({"event": "token"} | token.to_dict())

    def finished(self, finished: Finished) -> None:
        """Write the sample's end."""
        self._put({"event": "done"} | finished.to_dict())

    def close(self) -> None:
        """Nothing is held."""

    def _put(self, record: dict[str, Any]) -> None:
        self._out.write(to_json(record) + "\n")
        self._out.flush()


class JsonWriter:
    """One object at the end: the request as it was carried out, and every sample."""

    def __init__(self, out: TextIO, samples: int, head: dict[str, Any]) -> None:
        self._out = out
        self._head = head
        self._samples: list[dict[str, Any]] = [{"text": "", "token_ids": []} for _ in range(samples)]

    def token(self, token: Token) -> None:
        """Keep the token."""
        self._samples[token.sample]["text"] += token.text
        self._samples[token.sample]["token_ids"].append(token.id)

    def finished(self, finished: Finished) -> None:
        """Keep the sample's end."""
        sample = self._samples[finished.sample]
        sample["text"] += finished.text
        sample |= {"finish_reason": finished.finish_reason, "seed": finished.seed}

    def close(self) -> None:
        """Write the object."""
        self._out.write(to_json({"schema": 1} | self._head | {"samples": self._samples}) + "\n")
        self._out.flush()
