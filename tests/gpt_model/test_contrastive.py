"""Contrastive search against the paper's formula, written out without a cache in float64."""

import math
from collections.abc import Iterator

import pytest
import torch
from decoder_models import WRAPS, Fresh, Remembering, fond_of, ids_of, loud_model, request
from torch import Tensor

from gpt_model.decoders.contrastive import Contrastive
from gpt_model.errors import GenerationError
from gpt_model.generation import Engine
from gpt_model.graphs import GraphedGPT
from gpt_model.language_model import window_start
from gpt_model.model import GPT
from gpt_model.token_record import Finished, Token
from gpt_model.tokenizer import Tokenizer
from samplers import Chain, ChainRun


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def searched(model: GPT, prompt: tuple[int, ...], count: int, k: int, alpha: float, chain: str = "") -> list[int]:
    """The paper's search, a whole forward pass for each candidate."""
    exact = GPT(model.config).double().eval().requires_grad_(False)
    exact.load_state_dict({name: tensor.double() for name, tensor in model.state_dict().items()})
    block_size, text = model.config.block_size, list(prompt)

    def hidden(tokens: list[int]) -> Tensor:
        return exact.hidden(torch.tensor([tokens[window_start(len(tokens), block_size) :]]))[0]

    for _ in range(count):
        logits = (hidden(text)[-1] @ exact.wte.weight.T)[None].float()
        run = ChainRun(Chain.parse(chain), [0])
        p = run.process(logits, torch.tensor([text]), len(prompt)).logits[0].double().softmax(-1)
        scores = {}
        for token in p.topk(k).indices.tolist():
            if p[token] > 0:
                states = hidden([*text, token])
                lengths = states.norm(dim=-1)
                cosines = states[:-1] @ states[-1] / lengths[:-1] / lengths[-1]
                likeness = float(cosines.max()) if len(cosines) else 0.0
                scores[token] = (1 - alpha) * float(p[token]) - alpha * likeness
        text.append(max(scores, key=lambda token: scores[token]))
    return text[len(prompt) :]


@pytest.mark.parametrize("wrap", ["torch", "compiled"])
@pytest.mark.parametrize(("k", "alpha", "chain"), [
    (4, 0.6, ""), (5, 0.3, "temperature=0.5"), (8, 0.9, "top_k=3"), (40, 1.0, ""), (3, 0.0, ""),
])  # fmt: skip
def test_the_text_is_the_papers_also_past_the_contexts_end(
    wrap: str, k: int, alpha: float, chain: str, byte_tokenizer: Tokenizer
) -> None:
    model = loud_model(block_size=20, loudness=4)
    engine = Engine(WRAPS[wrap](model), byte_tokenizer)
    for prompt in ((65,), tuple(b"ROMEO"), tuple(b"a prompt beyond the window")):
        expected = searched(model, prompt, 32, k, alpha, chain)
        asked = request(prompt, 32, Contrastive(k, alpha), chain)
        assert ids_of(engine.generate(asked)) == expected


def test_without_unlikeness_it_is_greedy(byte_tokenizer: Tokenizer) -> None:
    engine = Engine(WRAPS["compiled"](loud_model()), byte_tokenizer)
    plain = ids_of(engine.generate(request("ROMEO", 60, None, "greedy")))
    assert ids_of(engine.generate(request("ROMEO", 60, Contrastive(4, 0.0)))) == plain
    assert ids_of(engine.generate(request("ROMEO", 60, Contrastive(1, 0.6)))) == plain
    assert ids_of(engine.generate(request("ROMEO", 60, Contrastive(4, 0.6), "greedy"))) == plain


def test_a_text_that_repeats_itself_is_told_not_to(byte_tokenizer: Tokenizer) -> None:
    model = fond_of(loud_model(block_size=100), 65, by=3)
    engine = Engine(model, byte_tokenizer)
    plain = ids_of(engine.generate(request((66, 67), 60, None, "greedy")))
    ours = ids_of(engine.generate(request((66, 67), 60, Contrastive())))
    assert len(set(ours)) > len(set(plain))


@pytest.mark.parametrize("block_size", [1, 2, 3])
def test_the_smallest_contexts_are_searched_too(block_size: int, byte_tokenizer: Tokenizer) -> None:
    model = loud_model(block_size=block_size)
    for wrap in ("torch", "compiled"):
        engine = Engine(WRAPS[wrap](model), byte_tokenizer)
        assert ids_of(engine.generate(request((65, 66), 9, Contrastive()))) == searched(model, (65, 66), 9, 4, 0.6)


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("chain", ["plain", "fresh", "remembering"])
def test_pieces_other_requests_and_no_cache_change_nothing(wrap: str, chain: str, byte_tokenizer: Tokenizer) -> None:
    stages = {"plain": Chain(), "fresh": Chain((Fresh(),)), "remembering": Chain((Remembering(),))}[chain]
    model = WRAPS[wrap](loud_model())
    whole = ids_of(Engine(model, byte_tokenizer).generate(request("ROMEO", 50, Contrastive(), stages)))
    engine = Engine(model, byte_tokenizer)
    text = tuple(engine.encode("ROMEO"))
    if chain != "fresh":  # that one looks at how many tokens remain
        for count in (4, 1, 30, 15):
            text = (*text, *ids_of(engine.generate(request(text, count, Contrastive(), stages))))
        assert list(text[5:]) == whole
    asked = request("ROMEO", 50, Contrastive(), stages, use_cache=False)
    assert ids_of(Engine(model, byte_tokenizer).generate(asked)) == whole
    plain = Engine(model, byte_tokenizer).generate(request("ROMEO", 9, None, "greedy"))
    assert ids_of(engine.generate(request("ROMEO", 9, None, "greedy"))) == ids_of(plain)


def test_what_is_told_of_a_token_is_the_models_and_the_chains(byte_tokenizer: Tokenizer) -> None:
    model = loud_model(block_size=40, loudness=4)
    text = [65, 66]
    events = list(
        Engine(WRAPS["compiled"](model), byte_tokenizer).generate(
            request((65, 66), 20, Contrastive(), "top_k=20,temperature=0.7", samples=2)
        )
    )
    assert ids_of(iter(events), 0) == ids_of(iter(events), 1)
    for event in events:
        if isinstance(event, Token) and event.sample == 0:
            row = model(torch.tensor([text]))[0, -1].double()
            cut = torch.where(row >= row.topk(20).values[-1], row, -math.inf) / 0.7
            assert event.p_model == pytest.approx(float(row.softmax(-1)[event.id]), rel=1e-3)
            assert event.p_chain == pytest.approx(float(cut.softmax(-1)[event.id]), rel=1e-3)
            text.append(event.id)


def test_ends_switches_and_graphs_are_those_of_any_decoder(byte_tokenizer: Tokenizer) -> None:
    fond = fond_of(loud_model(), 256, by=6)
    events = list(Engine(fond, byte_tokenizer).generate(request("a", 60, Contrastive(), ignore_end_of_text=False)))
    end = events[-1]
    assert isinstance(end, Finished)
    assert end.finish_reason == "end_of_text"

    model, asked = loud_model(), []

    def live() -> Chain:
        asked.append(1)
        return Chain.parse("temperature=3" if len(asked) < 12 else "greedy")

    tokens = list(Engine(model, byte_tokenizer).generate(request("a", 30, Contrastive()), live))
    assert any(e.rank > 0 for e in tokens[:11] if isinstance(e, Token))
    assert all(e.rank == 0 for e in tokens[12:] if isinstance(e, Token))
    graphed = GraphedGPT(model)
    ours = ids_of(Engine(graphed, byte_tokenizer).generate(request("a", 30, Contrastive())))
    assert ours == ids_of(Engine(model, byte_tokenizer).generate(request("a", 30, Contrastive())))


def test_a_broken_model_is_named(byte_tokenizer: Tokenizer) -> None:
    broken = loud_model()
    broken.ln_f.weight.fill_(math.nan)
    with pytest.raises(GenerationError, match="no finite number"):
        list(Engine(broken, byte_tokenizer).generate(request((65,), 5, Contrastive())))
