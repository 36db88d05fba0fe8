"""Speculation: the text is plain decoding's to the token, whatever was guessed, and costs fewer passes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from decoder_models import WRAPS, Fresh, Remembering, fond_of, ids_of, loud_model, request
from torch import Tensor

from gpt_model.checkpoint import save_checkpoint
from gpt_model.decoders.draft import Draft
from gpt_model.decoders.lookup import Lookup, _Index
from gpt_model.decoding import Decoder, parse_decoder
from gpt_model.errors import GenerationError
from gpt_model.generation import Engine
from gpt_model.language_model import LanguageModel
from gpt_model.model import GPT
from gpt_model.token_record import Finished, Token
from gpt_model.tokenizer import Tokenizer
from samplers import Chain
from samplers.greedy import Greedy
from samplers.temperature import Temperature

CHAINS = {
    "greedy": Chain((Greedy(),)),
    "drawn": Chain((Temperature(0.7),)),
    "remembering": Chain((Remembering(), Temperature(0.5))),
    "fresh": Chain((Fresh(), Greedy())),
}


class Counting:
    """A model that counts how often it is asked, and for how many tokens."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self.asked: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, ids: Tensor, cache: Any = None) -> Tensor:
        self.asked.append(ids.shape[1])
        return self._model(ids, cache)

    def next_logits(self, ids: Tensor, cache: Any = None) -> Tensor:
        self.asked.append(ids.shape[1])
        return self._model.next_logits(ids, cache)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model() -> GPT:
    return loud_model(block_size=40)


@pytest.fixture(scope="module")
def drafts(model: GPT, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Checkpoints: one that knows nothing of the model, with a shorter context, and the model itself."""
    directory: Path = tmp_path_factory.mktemp("drafts")
    save_checkpoint(directory / "stranger", loud_model(seed=9, block_size=16), None)
    save_checkpoint(directory / "itself", model, None)
    return {name: str(directory / name) for name in ("stranger", "itself")}


def decoders(drafts: dict[str, str]) -> list[Decoder]:
    return [Lookup(), Lookup(tokens=3, ngram=1), Draft(drafts["stranger"]), Draft(drafts["itself"], tokens=5)]


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("wrap", WRAPS)
def test_the_text_is_plain_decodings_also_past_the_contexts_end(
    wrap: str, chain: str, model: GPT, drafts: dict[str, str], byte_tokenizer: Tokenizer
) -> None:
    computing = WRAPS[wrap](model)
    prompt = tuple(b"abcabcab")
    for seed in (3, 4):
        plain = ids_of(Engine(computing, byte_tokenizer).generate(request(prompt, 90, chain=CHAINS[chain], seed=seed)))
        for decoder in decoders(drafts):
            asked = request(prompt, 90, decoder, CHAINS[chain], seed)
            assert ids_of(Engine(computing, byte_tokenizer).generate(asked)) == plain, decoder


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("wrap", ["torch", "compiled"])
def test_requests_that_follow_find_what_was_read_in_order(
    wrap: str, chain: str, model: GPT, drafts: dict[str, str], byte_tokenizer: Tokenizer
) -> None:
    """Going on, stopping in the middle of guesses, undoing, and branching say what plain decoding says."""
    computing = WRAPS[wrap](model)
    prompt = tuple(b"abcabcab")
    for decoder in decoders(drafts):
        one, other = Engine(computing, byte_tokenizer), Engine(computing, byte_tokenizer)
        text: tuple[int, ...] = prompt
        for count, kept in ((7, 7), (1, 1), (13, 4), (20, 20), (2, 2), (30, 11), (9, 0), (30, 30)):
            parts = []
            for engine, how in ((one, decoder), (other, None)):
                stream = engine.generate(request(text, 200, how, CHAINS[chain]))
                parts.append([next(stream).id for _ in range(count)])  # type: ignore[union-attr]
                stream.close()  # type: ignore[attr-defined]
            assert parts[0] == parts[1], (decoder, len(text))
            text = (*text, *parts[0][:kept])
        # and an engine that knows nothing agrees, where no stage remembers
        if chain in ("greedy", "drawn"):
            fresh = ids_of(Engine(computing, byte_tokenizer).generate(request(text, 12, None, CHAINS[chain])))
            assert ids_of(one.generate(request(text, 12, decoder, CHAINS[chain]))) == fresh


def test_all_guesses_of_the_model_itself_come_true(
    model: GPT, drafts: dict[str, str], byte_tokenizer: Tokenizer
) -> None:
    for chain in (CHAINS["greedy"], CHAINS["drawn"], CHAINS["remembering"]):
        counting = Counting(WRAPS["compiled"](model))
        engine = Engine(counting, byte_tokenizer)
        # 1 token from the prompt, then passes of 1 + 4 and 1 + 8 tokens
        assert len(ids_of(engine.generate(request((1, 2, 3), 1 + 5 + 9 + 9, Draft(drafts["itself"]), chain)))) == 24
        assert counting.asked == [3, 5, 9, 9]


def test_a_text_that_repeats_itself_is_looked_up(model: GPT, byte_tokenizer: Tokenizer) -> None:
    """Past some tokens the greedy text of this model goes in a circle."""
    fond = fond_of(loud_model(block_size=200), 65, by=60)
    counting = Counting(WRAPS["compiled"](fond))
    ids = ids_of(Engine(counting, byte_tokenizer).generate(request((65, 66), 100, Lookup(), "greedy")))
    assert ids == [65] * 100
    assert len(counting.asked) < 15
    assert sum(counting.asked) < 110


def test_the_longest_run_that_stood_last_is_found() -> None:
    index = _Index(3)
    assert index.find([]) is None
    assert index.find([1]) is None
    assert index.find([1, 1]) == 1
    text = [1, 2, 3, 4, 9, 2, 3, 5, 2, 3]
    assert _Index(3).find(text) == 7
    assert _Index(1).find(text) == 7
    assert _Index(3).find([*text, 4, 2, 3]) == 10
    assert _Index(3).find([1, 2, 3, 4, 2, 3, 5, 1, 2, 3]) == 3  # three tokens, though two stood there later
    assert _Index(2).find([1, 2, 3, 4, 2, 3, 5, 1, 2, 3]) == 6
    growing = _Index(2)
    for end in range(1, len(text) + 1):
        assert growing.find(text[:end]) == _Index(2).find(text[:end])


def test_ends_and_stop_texts_are_plain_decodings(model: GPT, drafts: dict[str, str], byte_tokenizer: Tokenizer) -> None:
    def ended(engine: Engine, decoder: Decoder | None, **what: Any) -> list[tuple[object, ...]]:
        events = list(engine.generate(request("abab", 60, decoder, "temperature=0.8", **what)))
        ends = [(end.finish_reason, end.text, end.tokens) for end in events if isinstance(end, Finished)]
        return [*ends, *[(event.id, event.text) for event in events if isinstance(event, Token)]]

    whole = "".join(chr(each) for each in ids_of(Engine(model, byte_tokenizer).generate(request("abab", 60))))
    fond = fond_of(loud_model(block_size=40), 256, by=4)
    for decoder in decoders(drafts):
        engine = Engine(WRAPS["compiled"](model), byte_tokenizer)
        for stop in (whole[20:22], "q", chr(100)):
            assert ended(engine, decoder, stop=(stop,)) == ended(engine, None, stop=(stop,))
        ending = Engine(WRAPS["compiled"](fond), byte_tokenizer)
        for seed in range(4):
            found = ended(ending, decoder, ignore_end_of_text=False, seed=seed)
            assert found == ended(ending, None, ignore_end_of_text=False, seed=seed)
            assert found[0][0] == "end_of_text"


def test_samples_are_plain_decodings_samples(model: GPT, drafts: dict[str, str], byte_tokenizer: Tokenizer) -> None:
    computing = WRAPS["compiled"](model)
    plain = list(Engine(computing, byte_tokenizer).generate(request("abab", 30, samples=3)))
    for decoder in decoders(drafts):
        events = list(Engine(computing, byte_tokenizer).generate(request("abab", 30, decoder, samples=3)))
        for sample in range(3):
            assert ids_of(iter(events), sample) == ids_of(iter(plain), sample)


def test_a_switched_chain_is_obeyed_at_once(model: GPT, drafts: dict[str, str], byte_tokenizer: Tokenizer) -> None:
    def switched(decoder: Decoder | None) -> list[int]:
        live, ids = [Chain.parse("greedy")], []
        asked = request("abab", 30, decoder, live[0])
        for event in Engine(WRAPS["compiled"](model), byte_tokenizer).generate(asked, lambda: live[0]):
            if isinstance(event, Token):
                ids.append(event.id)
                if event.index == 10:
                    live[0] = CHAINS["drawn"]
        return ids

    for decoder in decoders(drafts):
        assert switched(decoder) == switched(None)


def test_without_a_cache_nothing_is_guessed_and_the_text_is_the_same(model: GPT, byte_tokenizer: Tokenizer) -> None:
    engine = Engine(model, byte_tokenizer)
    plain = ids_of(engine.generate(request("abab", 50, None, "greedy")))
    assert ids_of(engine.generate(request("abab", 50, Lookup(), "greedy", use_cache=False))) == plain


def test_a_draft_that_cannot_be_is_refused_in_a_sentence(model: GPT, byte_tokenizer: Tokenizer, tmp_path: Path) -> None:
    engine = Engine(model, byte_tokenizer)
    with pytest.raises(GenerationError, match="needs a model: draft:model=CHECKPOINT"):
        list(engine.generate(request("a", 3, Draft())))
    save_checkpoint(tmp_path / "small", loud_model(vocab_size=100), None)
    with pytest.raises(GenerationError, match="its vocabulary has 100 tokens, the model's 257"):
        list(engine.generate(request("a", 3, Draft(str(tmp_path / "small")))))


def test_decoders_are_parsed_as_stages_are() -> None:
    assert parse_decoder("lookup:tokens=8") == Lookup(8)
    assert parse_decoder('draft:model="a,b":tokens=2') == Draft("a,b", 2)
