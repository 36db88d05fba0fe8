"""Document: prompt and completion as one text that is gone on with. Timeline: its versions. No screen in here."""

from dataclasses import dataclass, field
from typing import Literal

from gpt_model.token_record import Finished, Token


@dataclass
class Piece:
    """A stretch of the document by one author."""

    author: Literal["person", "model"]
    text: str = ""
    """A person's text; for the model's, what it held back at the end."""
    tokens: list[Token] = field(default_factory=list)
    """The model's."""
    finished: Finished | None = None

    @property
    def whole_text(self) -> str:
        """The piece's text."""
        return "".join(token.text for token in self.tokens) + self.text


@dataclass
class Document:
    """The pieces in order, and the ids behind them."""

    pieces: list[Piece] = field(default_factory=list)
    ids: tuple[int, ...] | None = ()
    """Ids of everything but a person's last piece; None when the text has to be tokenized anew."""

    @property
    def text(self) -> str:
        """Everything, exactly."""
        return "".join(piece.whole_text for piece in self.pieces)

    def copy(self) -> "Document":
        """Return a version that can grow without changing this one."""
        pieces = [Piece(piece.author, piece.text, list(piece.tokens), piece.finished) for piece in self.pieces]
        return Document(pieces, self.ids)

    def write(self, text: str) -> None:
        """Add a person's text."""
        if text:
            self.pieces.append(Piece("person", text))

    def request_parts(self) -> tuple[str, tuple[int, ...]]:
        """Return what to send for a continuation: text to tokenize, and the ids that stand before it.

        What the model wrote is sent as the ids that it drew; its text, tokenized anew, could be other ids.
        """
        if self.ids is None:
            return self.text, ()
        unread = ""
        for piece in reversed(self.pieces):
            if piece.author == "model":
                break
            unread = piece.text + unread
        return unread, self.ids

    def begin_completion(self, prompt_ids: tuple[int, ...]) -> None:
        """Open the model's piece, the prompt having been read as these ids."""
        self.pieces.append(Piece("model"))
        self.ids = prompt_ids

    def add(self, token: Token) -> None:
        """Add a token to the model's piece."""
        if not self.pieces or self.pieces[-1].author != "model":
            self.pieces.append(Piece("model"))
        self.pieces[-1].tokens.append(token)

    def end_completion(self, finished: Finished | None) -> None:
        """Close the model's piece; None stands for an engine that died on the way."""
        if not self.pieces or self.pieces[-1].author != "model":
            return
        piece = self.pieces[-1]
        piece.finished = finished
        if finished:
            piece.text = finished.text
        # After a stop text the ids say more than the text does: the stop text itself.
        stopped = finished is not None and finished.finish_reason == "stop"
        if self.ids is not None:
            self.ids = None if stopped else self.ids + tuple(token.id for token in piece.tokens)

    def drop_completion(self) -> bool:
        """Take the model's last piece away, to write it again; return whether there was one."""
        if not self.pieces or self.pieces[-1].author != "model":
            return False
        piece = self.pieces.pop()
        if self.ids is not None:
            self.ids = self.ids[: len(self.ids) - len(piece.tokens)]
        before = [each for each in self.pieces if each.author == "model"]
        if not before:  # the person's own text is read again, which costs nothing and is always right
            self.ids = ()
        else:
            # The ids end where the model's piece before ended; a person's text in between is read again.
            last = before[-1].tokens[-1] if before[-1].tokens else None
            self.ids = self.ids[: last.position + 1] if last and self.ids is not None else None
        return True


class Timeline:
    """The versions of a document, oldest first; going back never throws a later one away."""

    def __init__(self) -> None:
        self._versions = [Document()]
        self._place = 0

    @property
    def current(self) -> Document:
        """The version on screen."""
        return self._versions[self._place]

    @property
    def place(self) -> tuple[int, int]:
        """Which version is on screen, from 1, and how many there are."""
        return self._place + 1, len(self._versions)

    def branch(self, document: Document | None = None) -> Document:
        """Add a version (a copy of the current one, when none is given), go to it and return it."""
        self._versions.append(self.current.copy() if document is None else document)
        self._place = len(self._versions) - 1
        return self.current

    def back(self) -> bool:
        """Go to the version before; return whether there was one."""
        self._place -= (moved := self._place > 0)
        return moved

    def forward(self) -> bool:
        """Go to the version after; return whether there was one."""
        self._place += (moved := self._place < len(self._versions) - 1)
        return moved
