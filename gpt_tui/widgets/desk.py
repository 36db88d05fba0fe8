"""Desk: the text as it is written, and beside it the chain and why a token was drawn. Given data, knows no page."""

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical

from gpt_model.token_record import Token
from gpt_tui.document import Document
from gpt_tui.widgets.candidates_panel import CandidatesPanel
from gpt_tui.widgets.chain_panel import ChainPanel
from gpt_tui.widgets.document_spans import document_spans, mark_text
from gpt_tui.widgets.token_view import Span, TokenView
from samplers import Chain


class Desk(Horizontal):
    """The three panels that show one document, and what goes between them."""

    HEATS: ClassVar[tuple[str, ...]] = ("off", "probability", "surprisal", "entropy", "rank")

    def __init__(self) -> None:
        super().__init__()
        self._newest: Token | None = None
        self._chain = ""  # the one that drew the newest token

    def compose(self) -> ComposeResult:
        yield TokenView("Type a prompt below; Enter completes it.")
        with Vertical(id="side"):
            yield ChainPanel()
            yield CandidatesPanel()

    def show_document(self, document: Document) -> None:
        """Show a document from its beginning to its end."""
        self._newest = None
        self.query_one(TokenView).set_document(list(document_spans(document)))

    def show_chain(self, chain: Chain, preset: str = "", decoder: str = "") -> None:
        """Show a chain, the preset that it is, and what drives the model where that is not plain."""
        self.query_one(ChainPanel).set_chain(chain)
        self.query_one(ChainPanel).set_names(preset, decoder)

    def add_token(self, token: Token) -> None:
        """Add a token to the text, with a mark before it if another chain drew it."""
        view = self.query_one(TokenView)
        if token.chain is not None and token.index:
            view.append(Span(mark_text(token.chain, self._chain), "mark", None))
        self._chain = token.chain or self._chain
        view.append(Span(token.text, "model", token))
        self._newest = token

    def add_rest(self, text: str) -> None:
        """Add what a completion held back to its end."""
        if text:
            self.query_one(TokenView).append(Span(text, "model", None))

    def show_newest(self) -> None:
        """Show why the newest token was drawn, unless the reader is looking at another one."""
        if self._newest and self.query_one(TokenView).cursor is None:
            self.query_one(CandidatesPanel).show(self._newest)

    def next_heat(self) -> str:
        """Go to the next way of colouring the tokens, and return its name."""
        view = self.query_one(TokenView)
        view.heat = self.HEATS[(self.HEATS.index(view.heat) + 1) % len(self.HEATS)]
        return view.heat

    @on(TokenView.TokenHighlighted)
    def _show_why(self, event: TokenView.TokenHighlighted) -> None:
        self.query_one(CandidatesPanel).show(event.token)
