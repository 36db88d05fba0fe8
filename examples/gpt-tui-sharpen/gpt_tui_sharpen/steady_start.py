"""SteadyStart: a decoder drives the model; what a session offers is in gpt_model/decoding.py."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from gpt_model.decoding import Session, Step
from samplers import Param


@dataclass(frozen=True)
class SteadyStart:
    """Begin with the likeliest tokens, then draw: the first `tokens` are what the chain leaves as best."""

    name: ClassVar[str] = "steady_start"
    together: ClassVar[bool] = False
    tokens: Annotated[int, Param(0, 1000, 1, off=0, help="how many are not drawn")] = 4

    def decode(self, session: Session) -> Iterator[Step]:
        logits = session.read_prompt()
        for _ in range(self.tokens):
            decision = session.decide(logits)
            yield session.take([int(decision.rows.dense[0].argmax())], decision)
            logits = session.read_last()
        while True:
            yield session.step(logits)
            logits = session.read_last()
