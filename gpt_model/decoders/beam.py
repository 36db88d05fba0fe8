"""Beam search."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Optional

import torch

from gpt_model.decoding import Session, Step
from gpt_model.errors import GenerationError
from gpt_model.language_model import TextRows
from samplers import ChainRun, Memories, Param


@dataclass(frozen=True)
class Beam:
    """Look for the likeliest text: follow the `width` likeliest beginnings, each with all its next tokens.

    A text's score is Σ ln p / n^length_penalty over its n tokens, p after the chain. One that ends with the end-of-text
    token, or at the length that was asked for, is done; when `width` are, and the best beginning left has no better
    score as it stands than the worst of them, the search is over. That is transformers' search with its default
    early_stopping = False. Sample n is the n-th best text. A token is told as soon as all that is left begins with it.
    The stages' memories follow the beams. Nothing is drawn.
    """

    name: ClassVar[str] = "beam"
    together: ClassVar[bool] = False
    width: Annotated[int, Param(1, 256, 1, log=True, help="beginnings that are followed")] = 4
    length_penalty: Annotated[float, Param(-5, 5, 0.1, help="above 0 favours long texts, below 0 short ones")] = 1.0

    def decode(self, session: Session) -> Iterator[Step]:
        if session.samples > self.width:
            raise GenerationError(
                f"A beam search of width {self.width} finds no more than {self.width} texts, and {session.samples} "
                f"samples are asked for: set beam:width={session.samples}, or ask for fewer."
            )
        search = _Search(self, session)
        try:
            while search.goes_on:
                if session.cancelled():
                    return
                search.step()
                for link in search.settled():
                    yield session.add(link.step, link.memories)
            for link in search.rest(session.number):
                yield session.add(link.step, link.memories)
        finally:
            search.run.close()


@dataclass(eq=False)
class _Link:
    """A token, in a tree of those that may come; the root stands for the last one that is certain."""

    step: Step
    memories: Memories
    """What is remembered after it, of this one text."""
    before: Optional["_Link"] = None
    after: list["_Link"] = field(default_factory=list)
    last: bool = False
    """Whether a beginning or a text that is done ends here."""


class _Search:
    """The beginnings that are followed, which stand in the rows of `tokens` (W, T), best first, and what is done."""

    def __init__(self, beam: Beam, session: Session) -> None:
        self._beam, self._session = beam, session
        self.run = ChainRun(session.run.chain, session.seeds, session.vocabulary)
        self.run.restore(session.run.memories)
        self.goes_on = True
        self._tokens = session.tokens
        self._texts: TextRows | None = None
        self._root = _Link(Step([], 0, [], self.run.chain), ())
        self._heads, self._scores = [self._root], [0.0]
        self._done: list[tuple[float, _Link]] = []
        self._length = 0

    def step(self) -> None:
        """Read a token more of each beginning."""
        session, width = self._session, self._beam.width
        logits = self._texts.next_logits(self._tokens) if self._texts else session.read_prompt()
        decision = session.decide(logits, self.run, self._tokens)
        best = decision.rows.dense.topk(min(2 * width, logits.shape[1]), dim=-1)  # each ends in one way at most
        likelihood = (best.values - decision.rows.log_total).tolist()
        found = sorted(
            (-self._scores[row] - nats, row, token)
            for row, tokens in enumerate(best.indices.tolist())
            for token, nats in zip(tokens, likelihood[row], strict=True)
            if nats > -float("inf")
        )[: 2 * width]
        self._length += 1
        at_end = self._length == session.max_new_tokens
        ends = [at_end or token == session.end_of_text for *_, token in found]
        done = [each for each, end in zip(found[:width], ends, strict=False) if end]
        going = [each for each, end in zip(found, ends, strict=True) if not end][:width]

        chosen = [(row, token) for _, row, token in done + going]
        rows = [row for row, _ in chosen]
        drawn = session.tell(decision, rows, [token for _, token in chosen])
        self.run.select(rows)
        links = []
        for place, (row, token) in enumerate(chosen):
            self.run.after(place, token)
            accounts = (decision.account(row, drawn[place]),) if decision.accounts else ()
            told = Step([drawn[place]], self._tokens.shape[1], [0.0], self.run.chain, accounts, decision.faults)
            links.append(_Link(told, (), self._heads[row], last=True))
            self._heads[row].after.append(links[-1])
        for place, link in enumerate(links):
            link.memories = tuple((kind, (each[place],)) for kind, each in self.run.memories)

        self._finish([-score for score, *_ in done], links[: len(done)])
        self._go_on([-score for score, *_ in going], links[len(done) :], rows[len(done) :], len(done))

    def _finish(self, scores: list[float], links: list[_Link]) -> None:
        """Keep the best of the texts that are done."""
        share = self._length**self._beam.length_penalty
        self._done += [(score / share, link) for score, link in zip(scores, links, strict=True)]
        self._done.sort(key=lambda each: -each[0])  # stable: of equals, the earlier
        for _, link in self._done[self._beam.width :]:
            _drop(link)
        del self._done[self._beam.width :]

    def _go_on(self, scores: list[float], links: list[_Link], rows: list[int], first: int) -> None:
        """Follow these beginnings, which continue the ones in `rows`."""
        for head in self._heads:
            _drop(head)
        self._heads, self._scores = links, scores
        full = len(self._done) == self._beam.width
        self.goes_on = bool(links) and not (
            full and scores[0] / self._length**self._beam.length_penalty <= self._done[-1][0]
        )
        if not self.goes_on:
            return
        self.run.select(range(first, first + len(links)))
        new = torch.tensor([[link.step.drawn[0].id] for link in links], device=self._tokens.device)
        if self._texts is None or not self._session.use_cache:
            self._texts = self._session.fork(len(links))
        elif rows != list(range(len(self._tokens))):
            self._texts.select(rows)
        self._tokens = torch.cat([self._tokens[rows], new], dim=1)

    def settled(self) -> Iterator[_Link]:
        """Yield the tokens with which all that is left begins."""
        while len(self._root.after) == 1 and not self._root.last:
            self._root = self._root.after[0]
            self._root.before = None
            yield self._root

    def rest(self, number: int) -> Iterator[_Link]:
        """Yield what is not yet settled of the n-th best text; where a chain leaves fewer, of the last."""
        link: _Link | None = self._done[min(number, len(self._done) - 1)][1]
        path = []
        while link is not None and link is not self._root:
            path.append(link)
            link = link.before
        return reversed(path)


def _drop(link: _Link) -> None:
    """Note that nothing ends at a link any more, and take away what then leads nowhere."""
    link.last = False
    while not link.after and not link.last and link.before is not None:
        link.before.after.remove(link)
        link = link.before
