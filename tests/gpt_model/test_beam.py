"""Beam search: transformers' texts, the best text of all where all are tried, and tokens told as soon as certain."""

import itertools
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from decoder_models import WRAPS, Fresh, Remembering, fond_of, ids_of, loud_model, request
from test_graphs import Recorder
from transformers import GPT2LMHeadModel

from gpt_model.checkpoint import save_checkpoint
from gpt_model.decoders.beam import Beam
from gpt_model.errors import GenerationError
from gpt_model.generation import Engine
from gpt_model.graphs import GraphedGPT
from gpt_model.model import GPT
from gpt_model.token_record import Finished, Token
from gpt_model.tokenizer import Tokenizer
from samplers import Chain, ChainRun
from samplers.temperature import Temperature

END = 256


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def texts_of(engine: Engine, decoder: Beam, prompt: tuple[int, ...], count: int, **what: Any) -> list[list[int]]:
    samples = what.setdefault("samples", decoder.width)
    events = list(engine.generate(request(prompt, count, decoder, **what)))
    return [ids_of(iter(events), sample) for sample in range(samples)]


@pytest.mark.parametrize("fondness", [None, 4.0, 10.0], ids=["never ends", "ends", "ends soon"])
@pytest.mark.parametrize("width", [2, 3, 7])
def test_texts_are_transformers_texts(
    width: int, fondness: float | None, byte_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = loud_model(block_size=64)
    if fondness is not None:
        fond_of(model, END, fondness)
    save_checkpoint(tmp_path / "c", model, byte_tokenizer)
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path / "c").eval()
    engine = Engine(WRAPS["compiled"](model), byte_tokenizer)
    ended = 0
    for prompt, count, penalty in itertools.product(((65,), tuple(b"ROMEO")), (1, 2, 20), (1.0, 0.0, -1.5, 3.0)):
        found = theirs.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), num_beams=width, do_sample=False,
            length_penalty=penalty, max_new_tokens=count, num_return_sequences=width,
            eos_token_id=None if fondness is None else END, pad_token_id=END,
        )  # fmt: skip
        expected = [each[: each.index(END) + 1] if END in each else each for each in found[:, len(prompt) :].tolist()]
        if fondness is None:
            expected = found[:, len(prompt) :].tolist()
        ours = texts_of(engine, Beam(width, penalty), prompt, count, ignore_end_of_text=fondness is None)
        assert ours == expected, (prompt, count, penalty)
        ended += sum(END in each and len(each) < count for each in ours)
    assert bool(ended) == (fondness is not None)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_beam_as_wide_as_all_texts_finds_the_best_of_all(penalty: float, byte_tokenizer: Tokenizer) -> None:
    vocab_size, count, prompt = 4, 3, [1, 2]
    model = loud_model(vocab_size=vocab_size)
    likelihoods = {}
    for text in itertools.product(range(vocab_size), repeat=count):
        rows = model(torch.tensor([[*prompt, *text]]))[0].double().log_softmax(-1)
        likelihoods[text] = sum(float(rows[len(prompt) - 1 + place, token]) for place, token in enumerate(text))
    best = sorted(likelihoods, key=lambda text: -likelihoods[text])
    for wrap in ("torch", "compiled"):
        engine = Engine(WRAPS[wrap](model), None)
        found = texts_of(engine, Beam(vocab_size**count, penalty), tuple(prompt), count, samples=9)
        assert [tuple(each) for each in found] == best[:9]


@pytest.mark.parametrize("wrap", WRAPS)
def test_a_width_of_one_is_greedy_also_past_the_contexts_end(wrap: str, byte_tokenizer: Tokenizer) -> None:
    model = WRAPS[wrap](loud_model())
    prompt = tuple(b"ROMEO")
    for ignore in (True, False):
        plain = Engine(model, byte_tokenizer).generate(request(prompt, 70, None, "greedy", ignore_end_of_text=ignore))
        beam = Engine(model, byte_tokenizer).generate(request(prompt, 70, Beam(1), ignore_end_of_text=ignore))
        assert ids_of(beam) == ids_of(plain)


def test_the_greedy_chain_leaves_one_beam_and_its_text_is_every_samples(byte_tokenizer: Tokenizer) -> None:
    engine = Engine(WRAPS["compiled"](loud_model()), byte_tokenizer)
    plain = ids_of(engine.generate(request((65,), 30, None, "greedy")))
    assert texts_of(engine, Beam(3), (65,), 30, chain="greedy") == [plain] * 3


@pytest.mark.parametrize("wrap", ["torch", "compiled"])
def test_the_search_past_the_contexts_end_is_the_search_without_a_cache(wrap: str, byte_tokenizer: Tokenizer) -> None:
    engine = Engine(WRAPS[wrap](loud_model()), byte_tokenizer)
    cached = texts_of(engine, Beam(3), tuple(b"ROMEO"), 50)
    assert cached == texts_of(engine, Beam(3), tuple(b"ROMEO"), 50, use_cache=False)
    assert len({tuple(each) for each in cached}) == 3
    assert all(len(each) == 50 for each in cached)


def test_a_search_leaves_what_was_read_in_order(byte_tokenizer: Tokenizer) -> None:
    model = WRAPS["compiled"](loud_model(block_size=40))
    engine = Engine(model, byte_tokenizer)
    prompt = tuple(b"ROMEO")
    for decoder in (Beam(1), Beam(4), None, Beam(2), None, Beam(1), None):
        for count in (3, 11):
            asked = request(prompt, count, decoder, "greedy" if decoder is None else "")
            ids = ids_of(engine.generate(asked))
            assert ids == ids_of(Engine(model, byte_tokenizer).generate(asked))
            prompt = (*prompt, *ids[:5])


def test_graphed_models_are_searched_too(byte_tokenizer: Tokenizer) -> None:
    model, record = loud_model(), Recorder()
    found = texts_of(Engine(GraphedGPT(model, record), byte_tokenizer), Beam(3), (65, 66), 30)
    assert record.recorded <= 3 * 2  # a sample's first step of three rows, and the one after the window moved
    assert found == texts_of(Engine(model, byte_tokenizer), Beam(3), (65, 66), 30)


@pytest.mark.parametrize("chain", [Chain((Remembering(), Temperature(0.5))), Chain((Fresh(),))], ids=str)
def test_the_chain_acts_in_every_beam_and_memories_follow_their_beams(chain: Chain, byte_tokenizer: Tokenizer) -> None:
    """Against a search that reads each beginning alone, from the start, with a run of the chain of its own."""
    model, prompt, count, width = loud_model(block_size=40), (65, 66), 12, 3
    beams: list[tuple[float, list[int]]] = [(0.0, [])]
    for step in range(count):
        grown = []
        for score, text in beams:
            run = ChainRun(chain, [3], byte_tokenizer)
            for place in range(len(text) + 1):
                tokens = torch.tensor([[*prompt, *text[:place]]])
                after = run.process(model.next_logits(tokens), tokens, len(prompt), remaining=count - place).logits
                if place < len(text):
                    run.after(0, text[place])
            run.close()
            grown += [
                (score + nats, [*text, token])
                for token, nats in enumerate(after[0].double().log_softmax(-1).tolist())
                if nats > -math.inf
            ]
        beams = sorted(grown, reverse=True)[:width]
        assert len(beams[0][1]) == step + 1
    ours = texts_of(Engine(WRAPS["compiled"](model), byte_tokenizer), Beam(width), prompt, count, chain=chain)
    assert ours == [text for _, text in beams]
    plain = texts_of(Engine(WRAPS["compiled"](model), byte_tokenizer), Beam(width), prompt, count)
    assert ours != plain


def test_memories_go_on_where_a_text_goes_on(byte_tokenizer: Tokenizer) -> None:
    chain = Chain((Remembering(), Temperature(0.5)))
    engine = Engine(WRAPS["compiled"](loud_model(block_size=60)), byte_tokenizer)
    whole = ids_of(engine.generate(request((65, 66), 30, Beam(1), chain)))
    pieces: tuple[int, ...] = ()
    for count in (7, 1, 22):
        pieces += tuple(ids_of(engine.generate(request((65, 66, *pieces), count, Beam(1), chain))))
    assert list(pieces) == whole
    wide = tuple(ids_of(engine.generate(request((65, 66), 20, Beam(4), chain))))
    asked = request((65, 66, *wide[:9]), 10, None, chain)
    after = ids_of(engine.generate(asked))
    # what is remembered behind nine tokens does not depend on who wrote them
    run = ChainRun(chain, [3], byte_tokenizer)
    run.process(torch.zeros(1, 257), torch.tensor([[65, 66]]), 2)
    for token in wide[:9]:
        run.after(0, token)
    assert engine._past is not None
    assert engine._past.memories[9][0][1] == run.memories[0][1]
    run.close()
    assert after


def test_what_is_told_of_a_token_is_of_its_own_beam(byte_tokenizer: Tokenizer) -> None:
    model = loud_model(block_size=40)
    engine = Engine(WRAPS["compiled"](model), byte_tokenizer)
    chain = Chain.parse("top_k=20,temperature=0.7")
    events = list(engine.generate(request((65, 66), 20, Beam(4), chain, samples=2)))
    for sample in range(2):
        text: list[int] = [65, 66]
        for event in events:
            if isinstance(event, Token) and event.sample == sample:
                row = model(torch.tensor([text]))[0, -1].double()
                cut = torch.where(row >= row.topk(20).values[-1], row, -math.inf) / 0.7
                assert event.p_model == pytest.approx(float(row.softmax(-1)[event.id]), rel=1e-3)
                assert event.p_chain == pytest.approx(float(cut.softmax(-1)[event.id]), rel=1e-3)
                assert event.rank == int((row > row[event.id]).sum())
                assert (event.position, event.index) == (len(text), len(text) - 2)
                text.append(event.id)
        assert len(text) == 22


def test_tokens_come_as_soon_as_all_beams_share_them(byte_tokenizer: Tokenizer) -> None:
    read: list[int] = []
    model = loud_model(block_size=80)

    class Watched:
        config, device, new_cache = model.config, model.device, model.new_cache

        def next_logits(self, ids: torch.Tensor, cache: Any = None) -> torch.Tensor:
            read.append(ids.shape[0])
            return model.next_logits(ids, cache)

    engine = Engine(Watched(), byte_tokenizer)  # type: ignore[arg-type]
    came = [
        len(read) for event in engine.generate(request((65,), 50, Beam(3))) if isinstance(event, Token)
    ]  # passes before each token
    assert read == [1] + [3] * 49
    assert came[0] < 25
    assert sum(passes < 50 for passes in came) > 20
    assert all(passes > place for place, passes in enumerate(came))


def test_cancelling_keeps_what_is_settled(byte_tokenizer: Tokenizer) -> None:
    model = loud_model(block_size=80)
    whole = ids_of(Engine(model, byte_tokenizer).generate(request((65,), 60, Beam(3))))
    cancel, passes = threading.Event(), []

    def live() -> Chain:
        passes.append(1)
        if len(passes) == 30:
            cancel.set()
        return Chain()

    engine = Engine(model, byte_tokenizer)
    events = list(engine.generate(request((65,), 60, Beam(3)), live, cancel))
    end = events[-1]
    assert isinstance(end, Finished)
    assert end.finish_reason == "cancel"
    assert 0 < end.tokens < 31
    assert ids_of(iter(events)) == whole[: end.tokens]
    assert len(passes) < 33
    text = (65, *whole[: end.tokens])
    plain = Engine(model, byte_tokenizer).generate(request(text, 10, None, "greedy"))
    assert ids_of(engine.generate(request(text, 10, None, "greedy"))) == ids_of(plain)


def test_a_switched_chain_acts_in_the_search(byte_tokenizer: Tokenizer) -> None:
    model, passes = loud_model(block_size=80), []

    def live() -> Chain:
        passes.append(1)
        return Chain.parse("temperature=0.5") if len(passes) < 20 else Chain.parse("top_k=1")

    events = list(Engine(model, byte_tokenizer).generate(request((65,), 40, Beam(3)), live))
    tokens = [event for event in events if isinstance(event, Token)]
    assert [(token.index, token.chain) for token in tokens if token.chain] == [
        (0, "temperature=0.5"), (tokens[19].index if len(passes) < 20 else 18, "top_k=1"),
    ]  # fmt: skip
    assert all(token.rank == 0 for token in tokens[19:])


def test_more_texts_than_the_search_finds_are_refused(byte_tokenizer: Tokenizer) -> None:
    engine = Engine(loud_model(), byte_tokenizer)
    with pytest.raises(GenerationError, match="width 2 finds no more than 2 texts, and 3 samples are asked for"):
        next(engine.generate(request((65,), 5, Beam(2), samples=3)))


def test_accounts_and_stop_texts_are_those_of_the_text(byte_tokenizer: Tokenizer) -> None:
    import dataclasses

    engine = Engine(loud_model(), byte_tokenizer)
    asked = dataclasses.replace(request((65,), 20, Beam(3), "top_k=5,temperature=0.8"), account=True)
    tokens = [event for event in engine.generate(asked) if isinstance(event, Token)]
    assert all([each.stage for each in token.accounts] == ["top_k=5", "temperature=0.8"] for token in tokens)
    assert all(token.accounts[0].kept == 5 for token in tokens)
    text = "".join(token.text for token in tokens)
    stop = text[4:6]
    events = list(engine.generate(dataclasses.replace(asked, stop=(stop,))))
    end = events[-1]
    assert isinstance(end, Finished)
    assert end.finish_reason == "stop"
    assert "".join(event.text for event in events) == text[: text.index(stop)]


def test_a_broken_model_is_named(byte_tokenizer: Tokenizer) -> None:
    broken: GPT = loud_model()
    broken.ln_f.weight.fill_(math.nan)
    with pytest.raises(GenerationError, match="no finite number"):
        list(Engine(broken, byte_tokenizer).generate(request((65,), 5, Beam(2))))
