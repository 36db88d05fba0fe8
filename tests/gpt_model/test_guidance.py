"""Classifier-free guidance against transformers' own, and against its formula."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from decoder_models import WRAPS, Remembering, ids_of, loud_model, request
from transformers import GPT2LMHeadModel
from transformers.generation import UnbatchedClassifierFreeGuidanceLogitsProcessor

from gpt_model.checkpoint import save_checkpoint
from gpt_model.decoders.guidance import Guidance
from gpt_model.errors import GenerationError
from gpt_model.generation import Engine
from gpt_model.model import GPT
from gpt_model.token_record import Token
from gpt_model.tokenizer import Tokenizer
from samplers import Chain
from samplers.temperature import Temperature

GREEDY = "greedy"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model() -> GPT:
    return loud_model(block_size=48)


@pytest.fixture(scope="module")
def theirs(model: GPT, byte_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> GPT2LMHeadModel:
    path: Path = tmp_path_factory.mktemp("guidance") / "c"
    save_checkpoint(path, model, byte_tokenizer)
    return GPT2LMHeadModel.from_pretrained(path).eval()


@pytest.mark.parametrize("negative", ["", "JULIET"])
@pytest.mark.parametrize("scale", [1.2, 2.0, 4.0])
def test_logits_and_greedy_tokens_are_transformers(
    scale: float, negative: str, model: GPT, theirs: GPT2LMHeadModel, byte_tokenizer: Tokenizer
) -> None:
    prompt = tuple(b"ROMEO")
    unwanted = torch.tensor([byte_tokenizer.encode(negative)]) if negative else None
    engines = [Engine(WRAPS[wrap](model), byte_tokenizer) for wrap in ("torch", "compiled")]
    found = [ids_of(engine.generate(request(prompt, 40, Guidance(scale, negative), GREEDY))) for engine in engines]
    with torch.inference_mode():
        expected = theirs.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, 5), do_sample=False, max_new_tokens=40,
            eos_token_id=None, pad_token_id=0, guidance_scale=scale, negative_prompt_ids=unwanted,
        )  # fmt: skip
        processor = UnbatchedClassifierFreeGuidanceLogitsProcessor(scale, theirs, unwanted)
        text = list(prompt)
        before = byte_tokenizer.encode(negative) if negative else text[-1:]
        for token in expected[0, 5:].tolist():
            ids = torch.tensor([text])
            meant = processor(ids, theirs(ids).logits[:, -1])
            against = model.next_logits(torch.tensor([[*before, *text[5:]]]))
            ours = Guidance(scale, negative).guided(model.next_logits(ids), against)
            assert float((ours - meant).abs().max()) < 1e-4
            text.append(token)
    assert found[0] == found[1] == text[5:]
    plain = ids_of(engines[0].generate(request(prompt, 40, None, GREEDY)))
    assert plain != found[0]


@pytest.mark.parametrize("chain", [GREEDY, "temperature=0.8"])
def test_a_scale_of_one_is_plain_decoding(chain: str, model: GPT, byte_tokenizer: Tokenizer) -> None:
    engine = Engine(WRAPS["compiled"](model), byte_tokenizer)
    plain = ids_of(engine.generate(request("ROMEO", 80, None, chain)))
    assert ids_of(engine.generate(request("ROMEO", 80, Guidance(1.0, "JULIET"), chain))) == plain


def test_the_negative_prompt_is_left_behind(model: GPT, byte_tokenizer: Tokenizer) -> None:
    """The prompt as its own negative changes nothing, whatever the scale."""
    engine = Engine(WRAPS["compiled"](model), byte_tokenizer)
    plain = ids_of(engine.generate(request("ROMEO", 100, None, GREEDY)))
    assert ids_of(engine.generate(request("ROMEO", 100, Guidance(3.0, "ROMEO"), GREEDY))) == plain


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("negative", ["", "a negative prompt that is longer than the prompt"])
def test_pieces_samples_and_no_cache_change_nothing(
    wrap: str, negative: str, model: GPT, byte_tokenizer: Tokenizer
) -> None:
    """Also past the end of either context."""
    computing, decoder = WRAPS[wrap](model), Guidance(1.5, negative)
    chain = Chain((Remembering(), Temperature(0.8)))
    events = list(Engine(computing, byte_tokenizer).generate(request("ROMEO", 70, decoder, chain, samples=2)))
    whole = ids_of(iter(events))
    engine = Engine(computing, byte_tokenizer)
    text = tuple(engine.encode("ROMEO"))
    for count in (4, 1, 30, 35):
        text = (*text, *ids_of(engine.generate(request(text, count, decoder, chain))))
    assert list(text[5:]) == whole
    alone = Engine(computing, byte_tokenizer).generate(request("ROMEO", 70, decoder, chain, seed=4))
    assert ids_of(iter(events), 1) == ids_of(alone)
    again = Engine(computing, byte_tokenizer).generate(request("ROMEO", 70, decoder, chain, use_cache=False))
    assert ids_of(again) == whole
    plain = Engine(computing, byte_tokenizer).generate(request("ROMEO", 9, None, GREEDY))
    assert ids_of(engine.generate(request("ROMEO", 9, None, GREEDY))) == ids_of(plain)


def test_what_is_told_of_the_model_is_the_models_own(model: GPT, byte_tokenizer: Tokenizer) -> None:
    text = list(b"ROMEO")
    decoder = Guidance(2.0, "JULIET")
    for event in Engine(WRAPS["compiled"](model), byte_tokenizer).generate(request("ROMEO", 20, decoder)):
        if isinstance(event, Token):
            own = model.next_logits(torch.tensor([text]))
            unwanted = model.next_logits(torch.tensor([[*b"JULIET", *text[5:]]]))
            guided = decoder.guided(own, unwanted)[0].double().softmax(-1)
            assert event.p_model == pytest.approx(float(own[0].double().softmax(-1)[event.id]), rel=1e-3)
            assert event.p_chain == pytest.approx(float(guided[event.id]), rel=1e-3)
            assert event.rank == int((own[0] > own[0, event.id]).sum())
            text.append(event.id)
    assert len(text) == 25


def test_a_negative_prompt_that_cannot_be_read_is_named(model: GPT, byte_tokenizer: Tokenizer) -> None:
    with pytest.raises(GenerationError, match="no tokenizer, so it cannot read the text of a negative prompt"):
        list(Engine(model, None).generate(request((65,), 3, Guidance(2.0, "a"))))
    small = loud_model(vocab_size=100)
    with pytest.raises(GenerationError, match="Token id 122 of the negative prompt is outside"):
        list(Engine(small, byte_tokenizer).generate(request((65,), 3, Guidance(2.0, "z"))))
    assert len(ids_of(Engine(model, None).generate(request((65,), 3, Guidance(2.0))))) == 3


def test_tokens_without_a_number_are_out(model: GPT) -> None:
    logits = torch.tensor([[1.0, math.nan, -math.inf, 2.0, 0.5]])
    against = torch.tensor([[0.0, 1.0, -math.inf, -math.inf, 1.0]])
    guided = Guidance(2.0).guided(logits, against)
    assert guided[0].isfinite().tolist() == [True, False, False, False, True]
