"""A document as the spans that TokenView shows: whose text it is, and thin marks where the chain changed."""

from collections.abc import Iterator

from gpt_tui.document import Document
from gpt_tui.widgets.token_view import Span


def document_spans(document: Document) -> Iterator[Span]:
    """Yield the spans of a document, in order."""
    for piece in document.pieces:
        if piece.author == "person":
            yield Span(piece.text, "prompt", None)
            continue
        chain: str | None = None
        for token in piece.tokens:
            if token.chain is not None:
                if chain is not None:
                    yield Span(mark_text(token.chain, chain), "mark", None)
                chain = token.chain
            yield Span(token.text, "model", token)
        if piece.text:
            yield Span(piece.text, "model", None)


def mark_text(chain: str, before: str) -> str:
    """Return the mark of a switch: the stages that are new in it, or what is left when some were only removed."""
    old = before.split(",")
    new = [stage for stage in chain.split(",") if stage not in old]
    return f"│{' '.join(new) or chain or 'no chain'}│"
