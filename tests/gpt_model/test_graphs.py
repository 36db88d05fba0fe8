"""Recorded steps: the same logits as the model's own, replayed from a recording that knows no Python number.

What records here is make_fx, which like a GPU's graph keeps operations and memory, and nothing else.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from gpt_model.generation import Engine, Request
from gpt_model.graphs import GraphedGPT
from gpt_model.model import GPT
from gpt_model.token_record import Finished, Token
from gpt_model.tokenizer import Tokenizer
from samplers import Chain

CHAIN = Chain.parse("top_k=40,temperature=1.2")


class Recorder:
    """Records what a function does to tensors, and counts."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Any, Tensor]:
        self.recorded += 1
        steps = make_fx(lambda _: run())(torch.zeros(1))
        logits = run().clone()
        recorder = self

        class Graph:
            def replay(self) -> None:
                recorder.replayed += 1
                logits.copy_(steps(torch.zeros(1)))

        return Graph(), logits


def ids_of(events: Iterator[Token | Finished]) -> list[tuple[int, int]]:
    return [(event.sample, event.id) for event in events if isinstance(event, Token)]


@pytest.fixture(params=["gpt2", "modern"])
def long_model(request: pytest.FixtureRequest) -> GPT:
    from gpt_model.architectures import build_model
    from gpt_model.config import ModelConfig

    torch.manual_seed(0)
    shape = ModelConfig(vocab_size=256, block_size=300, n_layer=2, n_head=3, n_embd=24, arch=request.param)
    return build_model(shape).eval()


@torch.inference_mode()
def test_a_recorded_step_has_the_models_logits_through_all_spans(long_model: GPT) -> None:
    record = Recorder()
    graphed = GraphedGPT(long_model, record)
    ids = torch.randint(256, (1, 300), generator=torch.Generator().manual_seed(1))
    cache, plain = graphed.new_cache(), long_model.new_cache()
    graphed.next_logits(ids[:, :5], cache), long_model.next_logits(ids[:, :5], plain)
    for place in range(5, 300):
        ours, theirs = (
            graphed.next_logits(ids[:, place : place + 1], cache),
            long_model.next_logits(ids[:, place : place + 1], plain),
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert (record.recorded, record.replayed) == (3, 295)  # spans of 128, 256, 300


@pytest.mark.parametrize("samples", [1, 3])
def test_texts_are_the_same_with_recorded_steps(long_model: GPT, byte_tokenizer: Tokenizer, samples: int) -> None:
    engines = [Engine(each, byte_tokenizer) for each in (long_model, GraphedGPT(long_model, Recorder()))]
    for prompt in ("ROMEO", "ROMEO:\n", "ROM", "x" * 290):  # gone on with, taken back, and past the context's end
        request = Request(prompt, CHAIN, seed=4, samples=samples, max_new_tokens=30, ignore_end_of_text=True)
        plain, recorded = (ids_of(engine.generate(request)) for engine in engines)
        assert plain == recorded


def test_where_nothing_can_be_recorded_the_model_steps_itself_and_says_so(
    long_model: GPT, byte_tokenizer: Tokenizer
) -> None:
    def refuse(run: Callable[[], Tensor]) -> tuple[Any, Tensor]:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    graphed = GraphedGPT(long_model, refuse)
    request = Request("ROMEO", CHAIN, max_new_tokens=5, ignore_end_of_text=True)
    with pytest.warns(UserWarning, match="not permitted"):
        tried = ids_of(Engine(graphed, byte_tokenizer).generate(request))
    assert tried == ids_of(Engine(long_model, byte_tokenizer).generate(request))
    assert "not permitted" in graphed.note
    assert "\n" not in graphed.note
