"""Generation: the same tokens as transformers, with the cache or without, and a draw that depends on its key alone."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import GPT2LMHeadModel

from gpt_model.checkpoint import save_checkpoint
from gpt_model.drawing import draw, finite
from gpt_model.errors import GenerationError
from gpt_model.generation import Engine, Request
from gpt_model.language_model import window_start
from gpt_model.model import GPT, KVCache
from gpt_model.token_record import Finished, Token
from gpt_model.tokenizer import Tokenizer
from samplers import Chain, Rows, keyed_uniform

CHAIN = Chain.parse("top_k=40,min_p=0.01,temperature=1.2")
GREEDY = Chain.parse("greedy")


@pytest.fixture(scope="module")
def engine(tiny_model: GPT, byte_tokenizer: Tokenizer) -> Engine:
    return Engine(tiny_model, byte_tokenizer)


def ids_of(events: Iterator[Token | Finished], sample: int = 0) -> list[int]:
    return [event.id for event in events if isinstance(event, Token) and event.sample == sample]


def text_of(events: list[Token | Finished], sample: int = 0) -> str:
    return "".join(event.text for event in events if event.sample == sample)


def test_greedy_tokens_are_transformers_tokens_up_to_the_contexts_end(engine: Engine, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", engine.model, engine.tokenizer)
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path / "c").eval()
    prompt = engine.encode("ROMEO")
    expected = theirs.generate(
        torch.tensor([prompt]), max_length=24, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    ours = ids_of(engine.generate(Request(tuple(prompt), GREEDY, max_new_tokens=19, ignore_end_of_text=True)))
    assert ours == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("chain", [GREEDY, CHAIN], ids=str)
def test_the_cache_changes_nothing_also_past_the_contexts_end(engine: Engine, chain: Chain) -> None:
    plain = Request("ROMEO", chain, seed=5, max_new_tokens=90, ignore_end_of_text=True, use_cache=False)
    cached = Request("ROMEO", chain, seed=5, max_new_tokens=90, ignore_end_of_text=True)
    assert ids_of(engine.generate(plain)) == ids_of(engine.generate(cached))


def test_the_window_is_a_pure_function_of_the_length() -> None:
    for block_size in (1, 2, 7, 24):
        for length in range(1, 100):
            start = window_start(length, block_size)
            assert 0 < length - start <= block_size
            assert start == 0 if length <= block_size else length - start > block_size // 2


def test_a_prompt_longer_than_the_context_is_read_by_its_end(engine: Engine) -> None:
    long = "x" * 100 + "ROMEO and Juliet"
    assert len(ids_of(engine.generate(Request(long, GREEDY, max_new_tokens=5, ignore_end_of_text=True)))) == 5


def test_draws_depend_on_seed_and_position_alone(engine: Engine) -> None:
    whole = ids_of(engine.generate(Request("ROMEO", CHAIN, seed=7, max_new_tokens=30, ignore_end_of_text=True)))
    assert whole == ids_of(engine.generate(Request("ROMEO", CHAIN, seed=7, max_new_tokens=30, ignore_end_of_text=True)))
    assert whole != ids_of(engine.generate(Request("ROMEO", CHAIN, seed=8, max_new_tokens=30, ignore_end_of_text=True)))
    # undone to the tenth token and gone on: the same text
    begun = (*engine.encode("ROMEO"), *whole[:10])
    assert whole[10:] == ids_of(
        engine.generate(Request(begun, CHAIN, seed=7, max_new_tokens=20, ignore_end_of_text=True))
    )


def test_a_sample_alone_repeats_by_its_own_seed(engine: Engine) -> None:
    three = list(
        engine.generate(Request("ROMEO", CHAIN, seed=7, samples=3, max_new_tokens=12, ignore_end_of_text=True))
    )
    for sample in range(3):
        alone = Request("ROMEO", CHAIN, seed=7 + sample, max_new_tokens=12, ignore_end_of_text=True)
        assert ids_of(iter(three), sample) == ids_of(engine.generate(alone))
    ends = [event for event in three if isinstance(event, Finished)]
    assert [(end.sample, end.seed, end.finish_reason, end.tokens) for end in ends] == [
        (sample, 7 + sample, "length", 12) for sample in range(3)
    ]


def test_tokens_tell_what_they_were_drawn_from(engine: Engine) -> None:
    events = list(engine.generate(Request("ROMEO", CHAIN, seed=1, max_new_tokens=5, account=True)))
    for event in events:
        if isinstance(event, Token):
            ids = torch.tensor([[*engine.encode("ROMEO"), *ids_of(iter(events))[: event.index]]])
            row = engine.model(ids)[0, -1].softmax(-1)
            assert event.p_model == pytest.approx(row[event.id].item(), rel=1e-3)
            assert event.rank == (row > row[event.id]).sum()
            assert event.entropy == pytest.approx(-(row * row.log()).sum().item(), rel=1e-3)
            assert event.p_chain > 0
            assert [account.stage for account in event.accounts] == ["top_k=40", "min_p=0.01", "temperature=1.2"]
            top_k, min_p, temperature = event.accounts
            assert temperature.shares == pytest.approx([each.p_chain for each in event.candidates], abs=1e-4)
            assert [each.cut_by for each in event.candidates] == [
                next((account.stage for account in event.accounts if each.id in account.cut), "")
                for each in event.candidates
            ]
            assert all((each.p_chain == 0) == bool(each.cut_by) for each in event.candidates)
            assert {*top_k.cut, *min_p.cut}.isdisjoint(temperature.cut)
            assert event.position == 5 + event.index
            assert event.uniform == keyed_uniform(1, event.position)
            assert Token.from_dict(event.to_dict()) == event


def test_a_switched_chain_is_obeyed_by_the_next_token_and_told(engine: Engine) -> None:
    live = [Chain.parse("greedy")]
    seen = []
    request = Request("ROMEO", live[0], seed=2, max_new_tokens=20, ignore_end_of_text=True)
    for event in engine.generate(request, lambda: live[0]):
        if isinstance(event, Token):
            seen.append(event)
            if event.index == 9:
                live[0] = Chain.parse("temperature=3")
    assert all(token.rank == 0 for token in seen[:10])
    assert any(token.rank > 0 for token in seen[10:])
    assert [(token.index, token.chain) for token in seen if token.chain] == [(0, "greedy"), (10, "temperature=3")]


def test_cancelling_ends_before_the_next_token_and_keeps_what_came(engine: Engine) -> None:
    cancel = threading.Event()
    events = []
    for event in engine.generate(Request("ROMEO", CHAIN, max_new_tokens=50, ignore_end_of_text=True), cancel=cancel):
        events.append(event)
        if isinstance(event, Token) and event.index == 3:
            cancel.set()
    assert isinstance(events[-1], Finished)
    assert (events[-1].finish_reason, events[-1].tokens) == ("cancel", 4)


def test_a_stop_text_ends_the_sample_and_is_not_part_of_it(engine: Engine) -> None:
    free = list(engine.generate(Request("ROMEO", CHAIN, seed=3, max_new_tokens=40, ignore_end_of_text=True)))
    text = text_of(free)
    stop = text[10:13]
    stopped = list(
        engine.generate(Request("ROMEO", CHAIN, seed=3, max_new_tokens=40, stop=(stop,), ignore_end_of_text=True))
    )
    assert text_of(stopped) == text[: text.index(stop)]
    assert isinstance(stopped[-1], Finished)
    assert stopped[-1].finish_reason == "stop"
    # what only began like a stop text comes out in the end
    held = list(
        engine.generate(
            Request("ROMEO", CHAIN, seed=3, max_new_tokens=40, stop=(text[-2:] + "☃",), ignore_end_of_text=True)
        )
    )
    assert text_of(held) == text


def test_the_end_of_text_ends_a_sample(byte_tokenizer: Tokenizer, tiny_model: GPT) -> None:
    class Ending(GPT):
        def next_logits(self, ids: torch.Tensor, cache: object = None) -> torch.Tensor:
            logits = torch.zeros(ids.shape[0], 257)
            logits[:, 256 if ids.shape[1] % 2 else 65] = 50
            return logits

    engine = Engine(Ending(tiny_model.config), byte_tokenizer)
    events = list(engine.generate(Request("ab", GREEDY, use_cache=False)))
    assert text_of(events) == "A"
    assert isinstance(events[-1], Finished)
    assert (events[-1].finish_reason, events[-1].tokens) == ("end_of_text", 2)
    on = list(engine.generate(Request("ab", GREEDY, use_cache=False, ignore_end_of_text=True, max_new_tokens=4)))
    assert isinstance(on[-1], Finished)
    assert on[-1].finish_reason == "length"


def test_an_empty_prompt_starts_a_document_and_bad_ones_are_told(engine: Engine) -> None:
    assert engine.encode("") == [256]
    assert len(ids_of(engine.generate(Request("", CHAIN, max_new_tokens=3, ignore_end_of_text=True)))) == 3
    with pytest.raises(GenerationError, match="outside the model's vocabulary"):
        list(engine.generate(Request((257,), CHAIN)))
    with pytest.raises(GenerationError, match="no tokenizer"):
        list(Engine(engine.model, None).generate(Request("a", CHAIN)))
    with pytest.raises(GenerationError, match="samples = 0"):
        Request("a", samples=0)


def test_a_broken_model_is_told_and_a_half_broken_one_goes_on() -> None:
    with pytest.raises(GenerationError, match="no finite number"):
        finite(torch.full((1, 4), float("nan")))
    assert finite(torch.tensor([[float("nan"), 1.0]])).dense.tolist() == [[-float("inf"), 1.0]]


def drawn_from(logits: torch.Tensor, uniform: float) -> int:
    return draw(Rows(logits[None]), Rows(logits[None]), [uniform], 1)[0].id


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([2.0, -float("inf"), 1.0, 0.5, 1.0])
    expected = logits.softmax(-1) * 20_000
    counts = torch.zeros(5)
    for position in range(20_000):
        counts[drawn_from(logits, keyed_uniform(11, position))] += 1
    assert counts[1] == 0
    alive = expected > 0
    assert ((counts - expected)[alive] ** 2 / expected[alive]).sum() < 30.7  # χ² with 3 degrees of freedom: 1e-6


def test_the_head_and_the_whole_row_draw_the_same() -> None:
    flat = torch.randn(5000, generator=torch.Generator().manual_seed(2)) * 0.01  # far more than the head holds
    order = sorted(range(5000), key=lambda token: (-flat[token].item(), token))
    cumulative = flat.double().softmax(-1)[torch.tensor(order)].cumsum(0)
    for uniform in (0.0, 0.1, 0.2, 0.5, 0.9, 0.999999):
        assert drawn_from(flat, uniform) == order[int(torch.searchsorted(cumulative, uniform, right=True))]
    assert drawn_from(torch.tensor([0.0, 5.0]), 1 - 2**-53) == 0


def test_equals_are_drawn_in_the_order_of_their_ids_wherever_they_stand() -> None:
    logits = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0, -1.0])
    steps = [drawn_from(logits, step / 1000) for step in range(1000)]
    assert list(dict.fromkeys(steps)) == [1, 3, 4, 0, 2, 5]
    level = torch.zeros(5000)  # the head's equals go on behind it
    assert [drawn_from(level, (token + 0.5) / 5000) for token in (0, 63, 64, 4999)] == [0, 63, 64, 4999]


def test_what_is_told_of_a_draw_is_what_the_formulas_say() -> None:
    raw = torch.randn(3, 300, generator=torch.Generator().manual_seed(1)) * 3
    processed = torch.where(raw < 1, -torch.inf, raw / 0.7)
    for row, drawn in enumerate(draw(Rows(raw), Rows(processed), [0.1, 0.6, 0.999], 5)):
        p, q = raw[row].double().softmax(-1), processed[row].double().softmax(-1)
        assert drawn.p_model == pytest.approx(float(p[drawn.id]), rel=1e-4)
        assert drawn.p_chain == pytest.approx(float(q[drawn.id]), rel=1e-4)
        assert drawn.entropy == pytest.approx(float(-(p * p.log()).sum()), rel=1e-4)
        assert drawn.rank == int((raw[row] > raw[row, drawn.id]).sum())
        assert [each[0] for each in drawn.candidates] == raw[row].topk(5).indices.tolist()


def test_what_was_read_is_not_read_again(byte_tokenizer: Tokenizer, tiny_model: GPT) -> None:
    """Going on, writing again and branching read only what is new, and say the same as an engine that knows nothing."""
    read: list[int] = []

    class Counting:
        config, device, new_cache = tiny_model.config, tiny_model.device, tiny_model.new_cache

        def __call__(self, ids: torch.Tensor) -> torch.Tensor:
            raise AssertionError("the engine asks for the last token's logits only")

        def next_logits(self, ids: torch.Tensor, cache: KVCache) -> torch.Tensor:
            read.append(ids.shape[1])
            return tiny_model.next_logits(ids, cache)

    engine = Engine(Counting(), byte_tokenizer)

    def run(prompt: tuple[int, ...], count: int = 3, samples: int = 1) -> list[int]:
        read.clear()
        request = Request(prompt, CHAIN, 7, samples, max_new_tokens=count, ignore_end_of_text=True)
        fresh = ids_of(Engine(tiny_model, byte_tokenizer).generate(request))
        ids = ids_of(engine.generate(request))
        assert ids == fresh
        return ids

    prompt = tuple(range(60, 70))
    first = run(prompt)
    assert read == [10, 1, 1]
    run(prompt)  # written again
    assert read == [1, 1, 1]
    run((*prompt, *first))  # gone on
    assert read[0] == 1
    run((*prompt[:6], 1, 2, 3))  # branched
    assert read[0] == 3
    run(prompt, samples=2)
    assert read == [4, 1, 1]
    run(prompt, count=30)  # past the context's end
    assert read[0] == 1
    run(prompt)
    assert read[0] == 10
