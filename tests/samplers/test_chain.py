"""The chain's two forms, its edits, and the sentences for what cannot be."""

import pytest

from samplers import Chain, ChainError, format_stage, nudged, parameters
from samplers.top_k import TopK

SPEC = "top_k=40,min_p=0.05,temperature=0.8"


@pytest.mark.parametrize("text", ["", SPEC, "greedy", "top_p=0.9,top_p=0.5", "temperature=2", "top_k=1"])
def test_text_and_toml_read_back_to_the_same_chain(text: str) -> None:
    chain = Chain.parse(text)
    assert str(chain) == text
    assert Chain.parse(str(chain)) == chain
    assert Chain.from_toml(chain.to_toml()) == chain


def test_named_parameters_and_spaces_are_read() -> None:
    assert Chain.parse(" top_k : k = 7 , temperature=.5 ") == Chain.parse("top_k=7,temperature=0.5")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("topk=4", "Did you mean 'top_k'"),
        ("top_k:kk=4", "Did you mean 'k'"),
        ("top_k=-1", "must be between 0 and"),
        ("top_k=2.5", "must be a whole number"),
        ("temperature=hot", "must be a number"),
        ("temperature=nan", "must be a number"),
        ("min_p=1.5", "must be between 0 and 1"),
        ("greedy=1", "has no parameters"),
        ("top_k=1:k=2", "given twice"),
        ("top_k:40", "not of the form"),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ChainError, match=sentence):
        Chain.parse(text)


def test_toml_without_a_stage_is_told() -> None:
    with pytest.raises(ChainError, match="no key 'stage'"):
        Chain.from_toml([{"k": 3}])


def test_edits_return_new_chains() -> None:
    chain = Chain.parse(SPEC)
    assert str(chain.moved(0, 5)) == "min_p=0.05,temperature=0.8,top_k=40"
    assert str(chain.without(1)) == "top_k=40,temperature=0.8"
    assert str(chain.with_stage(0, TopK(5))) == "top_k=5,min_p=0.05,temperature=0.8"
    assert str(chain.added(TopK(1))) == SPEC + ",top_k=1"
    assert str(chain) == SPEC


def test_a_nudge_moves_by_a_step_and_stops_at_the_limits() -> None:
    (temperature,) = Chain.parse("temperature=0.8").stages
    assert format_stage(nudged(temperature, "temperature", 1)) == "temperature=0.85"
    assert format_stage(nudged(temperature, "temperature", -100)) == "temperature=0"
    assert format_stage(nudged(TopK(40), "k", 1)) == "top_k=50"
    assert format_stage(nudged(TopK(1), "k", 1)) == "top_k=2"
    assert format_stage(nudged(TopK(1), "k", -1)) == "top_k=0"
    assert format_stage(nudged(TopK(0), "k", 1)) == "top_k=1"


def test_every_stage_documents_its_parameters() -> None:
    for stage in Chain.parse("greedy,temperature,top_k,top_p,min_p"):
        assert type(stage).__doc__
        assert all(each.param.help for each in parameters(type(stage)))
