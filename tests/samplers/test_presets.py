"""Presets: what ours are, and how a name is told from a chain."""

import pytest

from gpt_tui.settings import Settings
from samplers import PRESETS, Chain, ChainError, check_preset, is_off, named_chain, preset_of


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_chain_in_its_shortest_form_and_is_found_by_its_name(name: str) -> None:
    assert str(Chain.parse(PRESETS[name])) == PRESETS[name]
    assert named_chain(f" {name} ") == Chain.parse(PRESETS[name])
    assert preset_of(named_chain(name)) == name


@pytest.mark.parametrize(
    ("name", "acting"),
    [
        ("default", Settings().chain),
        ("model", ""),
        ("llama.cpp", "top_k=40,top_p=0.95,min_p=0.05,temperature=0.8"),
        ("transformers", "top_k=50"),
        ("vllm", ""),
    ],
)
def test_what_acts_in_a_preset_is_what_its_engine_does_by_default(name: str, acting: str) -> None:
    stages = tuple(stage for stage in named_chain(name) if not is_off(stage))
    assert str(Chain(stages)) == acting


def test_ones_own_go_before_ours_and_a_stages_name_is_the_stage() -> None:
    own = {"default": "top_k=3", "calm": "top_p=0.5"}
    assert str(named_chain("default", own)) == "top_k=3"
    assert str(named_chain("top_k", own)) == "top_k=40"
    assert preset_of(Chain.parse("top_p=0.5"), own) == "calm"
    assert preset_of(Chain.parse(PRESETS["default"]), own) == ""
    assert str(named_chain("", own)) == ""
    with pytest.raises(ChainError, match=r"no stage and no preset 'clam'\. Did you mean 'calm'"):
        named_chain("clam", own)


@pytest.mark.parametrize("name", ["", " a", "a,b", "a=b", "a:b", 'a"', "top_k"])
def test_a_name_that_would_be_read_as_a_chain_is_refused(name: str) -> None:
    with pytest.raises(ChainError, match="cannot be called"):
        check_preset(name, "greedy")
