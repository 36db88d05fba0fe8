"""The web page over a fake engine: the page itself, a streamed completion, bad requests, other sites, a dead engine."""

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestClient, TestServer

from gpt_tui.locations import Locations
from gpt_tui.settings import Settings
from gpt_tui.web import WebPage

FAKE = [sys.executable, str(Path(__file__).with_name("fake_engine.py"))]
Client = TestClient[Any, Any]


@pytest.fixture
async def client(home: Locations) -> AsyncIterator[Client]:
    page = WebPage(Settings(chain="greedy", max_new_tokens=5), home.state / "web.log", FAKE)
    async with TestClient(TestServer(page.application())) as each:
        yield each


async def ask(client: Client, **body: object) -> list[dict[str, Any]]:
    async with client.post("/complete", json=body) as answer:
        assert answer.status == 200
        return [json.loads(line) for line in (await answer.text()).splitlines()]


async def test_the_page_and_what_its_fields_start_from(client: Client) -> None:
    async with client.get("/") as answer:
        assert "<title>gpt-tui</title>" in await answer.text()
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    async with client.get("/defaults") as answer:
        defaults = await answer.json()
    assert (defaults["chain"], defaults["max_new_tokens"], defaults["seed"]) == ("greedy", 5, None)
    assert "top_k" in defaults["stages"]


async def test_a_completion_is_streamed_as_the_wires_events(client: Client) -> None:
    events = await ask(client, prompt="hi", seed=7)
    assert [event["kind"] for event in events] == ["PromptRead", *["TokenArrived"] * 5, "GenerationFinished"]
    assert "".join(event["token"]["text"] for event in events if event["kind"] == "TokenArrived") == "ABCDE"
    assert events[-1]["finished"]["seed"] == 7
    other = await ask(client, prompt="hi", chain="top_k=3", max_new_tokens=2)
    assert "".join(event["token"]["text"] for event in other if event["kind"] == "TokenArrived") == "ab"


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"chain": "topk=3"}, "Did you mean 'top_k'"),
        ({"max_new_tokens": 0}, "at least 1"),
        ({"max_new_tokens": 10**9}, "at most"),
        ({"seed": "x"}, "whole number"),
        ({"prompt": 5}, "must be a text"),
        ([1], "Not a request"),
    ],
)
async def test_a_bad_request_is_told(client: Client, body: object, sentence: str) -> None:
    async with client.post("/complete", json=body) as answer:
        assert answer.status == 400
        assert sentence in (await answer.json())["error"]


async def test_another_sites_page_is_refused(client: Client) -> None:
    async with client.post("/complete", json={}, headers={"Origin": "https://elsewhere.example"}) as answer:
        assert answer.status == 403
    async with client.get("/", headers={"Origin": f"http://{client.host}:{client.port}"}) as answer:
        assert answer.status == 200


async def test_a_page_that_is_closed_frees_the_engine_for_the_next(home: Locations) -> None:
    page = WebPage(Settings(chain="greedy", max_new_tokens=100_000), home.state / "web.log", [*FAKE, "0.005"])
    async with TestClient(TestServer(page.application())) as client:
        async with ClientSession() as other, other.post(client.make_url("/complete"), json={"prompt": "a"}) as answer:
            await answer.content.readline()
        events = await ask(client, prompt="b", max_new_tokens=3)
        assert [event["kind"] for event in events][-1] == "GenerationFinished"
        assert len(events) == 5


async def test_an_engine_that_dies_is_told_and_started_again(client: Client, home: Locations) -> None:
    page = WebPage(Settings(), home.state / "web.log", [sys.executable, "-c", "import sys; sys.stdin.readline()"])
    async with TestClient(TestServer(page.application())) as other:
        events = await ask(other, prompt="a")
        assert [event["kind"] for event in events] == ["EngineFailed"]
        assert "starts it again" in events[0]["message"]
