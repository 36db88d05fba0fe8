"""The state behind the completion page, and the commands typed into the prompt."""

import pytest

from gpt_model.errors import ConfigError
from gpt_model.token_record import Finished, Token
from gpt_tui.completion import Completion
from gpt_tui.slash_commands import SlashCommand, parse_command
from samplers import Chain, ChainError


def completion() -> Completion:
    return Completion(Chain.parse("top_k=40,temperature=0.8"))


def stream(state: Completion, request: int, texts: str) -> None:
    assert state.accepts(request)
    state.prompt_read((1, 2))
    for index, text in enumerate(texts):
        state.token_arrived(Token(0, index, 2 + index, 50 + index, text, 0.5, 0.5, 0, 1.0, 0.1, 1.0))
    state.finish(Finished(0, "length", "", len(texts), 3, 0.0, 2.0))


def test_a_completion_goes_on_and_is_written_again_with_the_seed_one_asks_for() -> None:
    state = completion()
    first = state.start("ab")
    assert (first.prompt, first.tokens, first.chain) == ("ab", (), "top_k=40,temperature=0.8")
    stream(state, first.request, "xyz")
    assert (state.document.text, state.rate, state.context) == ("abxyz", 1.5, 5)
    on = state.start("")
    assert (on.prompt, on.tokens) == ("", (1, 2, 50, 51, 52))
    stream(state, on.request, "!")
    seed = state.seed
    again = state.regenerate(same_seed=True)
    assert again is not None
    assert (again.seed, again.tokens, state.document.text) == (seed, (1, 2, 50, 51, 52)[: len(again.tokens)], "abxyz")
    stream(state, again.request, "?")
    other = state.regenerate(same_seed=False)
    assert other is not None
    assert other.seed != seed
    assert not state.accepts(again.request)


def test_an_empty_document_has_nothing_to_write_again() -> None:
    assert completion().regenerate(same_seed=False) is None


@pytest.mark.parametrize("text", ["plain", "//slash", "/two\nlines", ""])
def test_what_is_text_is_no_command(text: str) -> None:
    assert parse_command(text) is None


def test_commands_are_parsed_and_unknown_ones_told() -> None:
    assert parse_command("/seed 7") == SlashCommand("seed", "7")
    assert parse_command("/top_k 5") == SlashCommand("top_k", "5")
    with pytest.raises(ConfigError, match="Did you mean 'tokens'"):
        parse_command("/token 5")


def test_commands_set_what_they_say_and_tell_what_to_keep() -> None:
    state = completion()
    assert state.carry_out(SlashCommand("top_k", "5")) == {"chain": "top_k=5,temperature=0.8"}
    assert state.carry_out(SlashCommand("min_p", "0.1")) == {"chain": "top_k=5,temperature=0.8,min_p=0.1"}
    assert state.carry_out(SlashCommand("chain", "greedy")) == {"chain": "greedy"}
    assert state.carry_out(SlashCommand("tokens", "50")) == {"max_new_tokens": 50}
    assert state.carry_out(SlashCommand("seed", "7")) == {}
    assert state.start("a").seed == 7
    assert state.carry_out(SlashCommand("seed", "")) == {}
    assert state.fixed_seed is None
    state.carry_out(SlashCommand("stop", "END"))
    assert state.stop == ("END",)
    with pytest.raises(ChainError, match="between"):
        state.carry_out(SlashCommand("temperature", "99"))
    with pytest.raises(ConfigError, match="at least 1"):
        state.carry_out(SlashCommand("tokens", "0"))


def test_presets_stand_where_a_chain_does_and_keep_their_name() -> None:
    state = Completion(Chain.parse("greedy"), presets={"calm": "top_p=0.8", "default": "top_k=3"})
    assert state.preset == "greedy"
    assert state.carry_out(SlashCommand("chain", "calm")) == {"chain": "calm"}
    assert (str(state.chain), state.preset) == ("top_p=0.8", "calm")
    assert state.carry_out(SlashCommand("preset", "default")) == {"chain": "default"}
    assert state.start("a").chain == "top_k=3"
    state.carry_out(SlashCommand("top_k", "4"))
    assert state.preset == ""
    with pytest.raises(ChainError, match=r"no preset 'clam'\. Did you mean 'calm'"):
        state.carry_out(SlashCommand("preset", "clam"))
    with pytest.raises(ChainError, match="Did you mean 'calm'"):
        state.carry_out(SlashCommand("chain", "clam"))


def test_a_decoder_is_checked_by_its_name_and_sent_along() -> None:
    state = completion()
    assert state.start("a").decoder == ""
    assert state.carry_out(SlashCommand("decoder", "beam:width=4")) == {"decoder": "beam:width=4"}
    assert state.start("a").decoder == "beam:width=4"
    with pytest.raises(ConfigError, match="Did you mean 'beam'"):
        state.carry_out(SlashCommand("decoder", "baem=4"))
    assert state.carry_out(SlashCommand("decoder", "plain")) == {"decoder": ""}
