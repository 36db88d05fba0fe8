"""The wire and both its sides: a real engine process, asked, switched, cancelled, killed and started again."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from gpt_model.errors import GenerationError
from gpt_model.token_record import Account, Candidate, Finished, Token
from gpt_tui import wire
from gpt_tui.engine_client import EngineClient, EngineDied
from gpt_tui.locations import Locations

Kind = TypeVar("Kind")
TOKEN = Token(
    0, 1, 9, 65, "é\x1b", 0.5, 0.25, 3, 1.5, 0.1, 2.0, (Candidate(65, "A", 0.5, 0.25, "x"),),
    (Account("x", 1, 0.5, 1, 0.1, -2.5, False, (65,), (0.0,)), Account("y", 1, 0.5, 1, off=True)), "c",
)  # fmt: skip


@pytest.mark.parametrize(
    "message",
    [
        wire.Load("a", "cpu", 2, None),
        wire.Generate(1, "text\n\u2028", (1, 2), "top_k=1", 7, 10, ("END",), decoder="beam=2"),
        wire.SwitchChain(""),
        wire.Cancel(),
        wire.EngineStarted(1),
        wire.PromptRead(1, (1, 2, 3)),
        wire.TokenArrived(1, TOKEN),
        wire.GenerationFinished(1, Finished(0, "stop", "rest", 3, 7, 0.1, 0.2)),
        wire.EngineFailed("why", 3),
    ],
    ids=lambda message: type(message).__name__,
)
def test_every_message_passes_the_wire_as_one_line(message: wire.Request | wire.Event) -> None:
    line = wire.to_line(message)
    assert "\n" not in line
    assert wire.from_line(line) == message


@pytest.mark.parametrize("line", ["", "{}", "nonsense", '{"kind":"Load"}', '{"kind":"Os"}', "[1]", b"\xff"])
def test_what_is_no_message_is_told(line: str | bytes) -> None:
    with pytest.raises(GenerationError, match="Not a message"):
        wire.from_line(line)


class Talk:
    """A conversation with a real engine process."""

    def __init__(self, log: Path) -> None:
        self.events: list[wire.Event | EngineDied] = []
        self._more = asyncio.Event()
        self.client = EngineClient(self._receive, log)

    def _receive(self, event: wire.Event | EngineDied) -> None:
        self.events.append(event)
        self._more.set()

    async def until(self, found: Callable[[wire.Event | EngineDied], bool]) -> wire.Event | EngineDied:
        async with asyncio.timeout(60):
            while not any(map(found, self.events)):
                self._more.clear()
                await self._more.wait()
        return next(filter(found, self.events))

    async def until_kind(self, kind: type[Kind]) -> Kind:
        event = await self.until(lambda event: isinstance(event, kind))
        assert isinstance(event, kind)
        return event

    def tokens(self, request: int) -> list[Token]:
        return [e.token for e in self.events if isinstance(e, wire.TokenArrived) and e.request == request]


async def test_an_engine_answers_switches_stops_dies_and_comes_back(home: Locations, tiny_checkpoint: Path) -> None:
    talk = Talk(home.state / "engine.log")
    await talk.client.start()
    talk.client.send(wire.Generate(1, "too early"))
    assert "No checkpoint is open" in (await talk.until_kind(wire.EngineFailed)).message
    talk.client.send(wire.Load("no-such-model"))
    await talk.until(lambda e: isinstance(e, wire.EngineFailed) and "no checkpoint 'no-such-model'" in e.message)
    talk.client.send(wire.Load(str(tiny_checkpoint)))
    loaded = await talk.until_kind(wire.CheckpointLoaded)
    assert (loaded.label, loaded.block_size, loaded.tokenizer) == ("tiny", 64, "bytes")

    talk.client.send(wire.Generate(2, "AB", chain="greedy", max_new_tokens=5))
    finished = await talk.until(lambda e: isinstance(e, wire.GenerationFinished) and e.request == 2)
    assert isinstance(finished, wire.GenerationFinished)
    assert (finished.finished.finish_reason, len(talk.tokens(2))) == ("length", 5)
    read = await talk.until_kind(wire.PromptRead)
    assert read.tokens == (65, 66)

    # a decoder is the engine's to read, and a draft's checkpoint has a name; what is wrong with it is told
    talk.client.send(wire.Generate(4, "AB", chain="greedy", max_new_tokens=5, decoder=f"draft:model={tiny_checkpoint}"))
    await talk.until(lambda e: isinstance(e, wire.GenerationFinished) and e.request == 4)
    assert [each.id for each in talk.tokens(4)] == [each.id for each in talk.tokens(2)]
    for request, decoder, said in ((5, "beam=0", "between 1"), (6, "draft:model=absent", "no checkpoint 'absent'")):
        talk.client.send(wire.Generate(request, "AB", decoder=decoder))
        failed = await talk.until(lambda e, which=request: isinstance(e, wire.EngineFailed) and e.request == which)
        assert said in failed.message

    # what is switched while it streams is obeyed by a later token, and told; a cancel keeps what came
    talk.client.send(wire.Generate(3, "AB", chain="greedy", max_new_tokens=1_000_000, account=False))
    await talk.until(lambda e: isinstance(e, wire.TokenArrived) and e.request == 3)
    talk.client.send(wire.SwitchChain("temperature=2"))
    await talk.until(lambda e: isinstance(e, wire.TokenArrived) and e.token.chain == "temperature=2")
    talk.client.send(wire.Cancel())
    ended = await talk.until(lambda e: isinstance(e, wire.GenerationFinished) and e.request == 3)
    assert isinstance(ended, wire.GenerationFinished)
    assert ended.finished.finish_reason in ("cancel", "end_of_text")
    assert ended.finished.tokens == len(talk.tokens(3))

    started = await talk.until_kind(wire.EngineStarted)
    os.kill(started.pid, signal.SIGKILL)
    assert "signal 9" in (await talk.until_kind(EngineDied)).message
    assert not talk.client.alive
    talk.events.clear()
    await talk.client.start()
    talk.client.send(wire.Load(str(tiny_checkpoint)))
    await talk.until_kind(wire.CheckpointLoaded)
    await talk.client.stop()
    assert not any(isinstance(event, EngineDied) for event in talk.events)


async def test_an_engine_that_cannot_be_started_is_told(home: Locations) -> None:
    events: list[object] = []
    client = EngineClient(events.append, home.state / "engine.log", ["/no/such/program"])
    await client.start()
    assert isinstance(events[0], EngineDied)
    assert "could not be started" in events[0].message
