"""Plugins of others: listed without import, broken ones named, clashes resolved."""

from collections.abc import Iterator
from importlib.metadata import EntryPoint

import pytest

from samplers import ChainError, discovery, load_stage, stage_entries, stage_names


class Distribution:
    def __init__(self, name: str) -> None:
        self.name, self.version = name, "1.0"


class Point(EntryPoint):
    dist = Distribution("someone-else")  # type: ignore[assignment]


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EntryPoint]]:
    points: list[EntryPoint] = list(discovery.entry_points(group=discovery.GROUP))
    monkeypatch.setattr(discovery, "entry_points", lambda group: points)
    discovery.entries.cache_clear(), discovery.load.cache_clear()
    yield points
    discovery.entries.cache_clear(), discovery.load.cache_clear()


def test_the_built_in_stages_come_through_entry_points() -> None:
    assert {"greedy", "temperature", "top_k", "top_p", "min_p"} <= set(stage_names())
    assert stage_entries()["top_k"].distribution == "gpt-tui"


def test_a_plugin_that_cannot_be_imported_is_listed_and_harms_nothing(announced: list[EntryPoint]) -> None:
    announced.append(Point("absent", "no_such_module:Stage", discovery.GROUP))
    assert "absent" in stage_names()
    with pytest.raises(ChainError, match=r"'absent' of someone-else 1.0 .* cannot be imported: ModuleNotFoundError"):
        load_stage("absent")
    assert load_stage("top_k").__name__ == "TopK"


def test_a_plugin_that_breaks_the_contract_is_told(announced: list[EntryPoint]) -> None:
    announced.append(Point("counter", "collections:Counter", discovery.GROUP))
    announced.append(Point("function", "json:dumps", discovery.GROUP))
    with pytest.raises(ChainError, match="not a class whose instances can be called"):
        load_stage("counter")
    with pytest.raises(ChainError, match="not a class"):
        load_stage("function")


def test_where_two_claim_a_name_ours_keeps_it(announced: list[EntryPoint]) -> None:
    announced.insert(0, Point("top_k", "their_module:TopK", discovery.GROUP))
    assert stage_entries()["top_k"].target == "samplers.top_k:TopK"
    assert stage_entries()["top_k@someone-else"].target == "their_module:TopK"
