"""The compiled pass against the torch model: the same logits, and the same bits however a text is read."""

import gc
import threading

import pytest
import torch

from gpt_model.compiled.layout import PACKED_DTYPES, PackedDtype
from gpt_model.compiled.model import CompiledGPT
from gpt_model.compiled.packing import pack, unpack
from gpt_model.config import ModelConfig
from gpt_model.errors import GenerationError
from gpt_model.generation import Engine, Request
from gpt_model.model import GPT
from gpt_model.token_record import Token
from gpt_model.tokenizer import Tokenizer
from samplers import Chain, NotFiniteError, Rows

SHAPES = {
    "odd": ModelConfig(n_layer=2, n_head=7, n_embd=84, block_size=40, vocab_size=101),
    "even": ModelConfig(n_layer=2, n_head=2, n_embd=128, block_size=64, vocab_size=257),
    "inner": ModelConfig(1, 3, 48, block_size=33, vocab_size=7, n_inner=100, layer_norm_epsilon=1e-3),
    "one": ModelConfig(n_layer=1, n_head=1, n_embd=1, block_size=1, vocab_size=1),
    "long": ModelConfig(n_layer=2, n_head=4, n_embd=64, block_size=600, vocab_size=300),
}  # fmt: skip


def model_of(config: ModelConfig) -> GPT:
    """A model in which every number counts: no bias is zero, no gain one."""
    torch.manual_seed(1)
    model = GPT(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter += torch.randn_like(parameter) * (0.1 if "bias" in name or "ln" in name else 0.05)
    return model


def compiled(model: GPT, dtype: PackedDtype = "float32", threads: int = 1) -> CompiledGPT:
    return CompiledGPT(pack(model.config, model.state_dict(), dtype), threads)


def ids_for(config: ModelConfig, rows: int, length: int) -> torch.Tensor:
    return torch.randint(config.vocab_size, (rows, length), generator=torch.Generator().manual_seed(2))


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp(min=1e-30))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", PACKED_DTYPES)
def test_logits_are_the_torch_models_in_every_precision_and_shape(shape: str, dtype: PackedDtype) -> None:
    model = model_of(SHAPES[shape])
    packed = pack(model.config, model.state_dict(), dtype)
    ids = ids_for(model.config, 2, min(model.config.block_size, 37))
    ours = CompiledGPT(packed, 2)(ids)
    meant = 1e-5 if packed.scales is None else 1e-4  # whole numbers meet columns of 16 bits
    assert distance(ours, unpack(packed)(ids)) < meant
    limit = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2, "int8": 5e-2, "int4": 0.6}[dtype]
    assert distance(ours, model(ids)) < limit


def test_packing_float32_changes_nothing() -> None:
    model = model_of(SHAPES["odd"])
    again = unpack(pack(model.config, model.state_dict(), "float32")).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("shape", ["odd", "inner", "long"])
def test_without_the_matrix_unit_the_bits_are_the_same(
    shape: str, dtype: PackedDtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU that has none, both are read by vectors."""
    model = model_of(SHAPES[shape])
    ids = ids_for(model.config, 2, model.config.block_size)
    with_unit = compiled(model, dtype, threads=2)(ids)
    monkeypatch.setattr("gpt_model.compiled.model.may_use_matrix_unit", lambda: False)
    assert torch.equal(compiled(model, dtype, threads=2)(ids), with_unit)


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_the_matrix_unit_takes_any_number_of_columns(dtype: PackedDtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slabs of 16 go alone or in pairs, and the last one may be nearly empty."""
    model = model_of(SHAPES["long"])
    with_unit, without = compiled(model, dtype), compiled(model, dtype)
    for columns in (2, 15, 16, 17, 31, 32, 33, 47, 48, 49, 64, 65):
        ids = ids_for(model.config, 1, columns)
        found = with_unit(ids)
        with monkeypatch.context() as patch:
            patch.setattr("gpt_model.compiled.model.may_use_matrix_unit", lambda: False)
            assert torch.equal(found, without(ids)), columns


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_a_broken_weight_shows(dtype: PackedDtype) -> None:
    model = model_of(SHAPES["odd"])
    model.h[0].ln_1.bias[5] = torch.nan
    logits = compiled(model, dtype)(ids_for(model.config, 1, 5))
    assert logits.isnan().all()


@pytest.mark.parametrize("dtype", ["float32", "int8", "int4"])
@pytest.mark.parametrize("shape", ["odd", "even", "long"])
def test_the_bits_are_the_same_however_a_text_is_read(shape: str, dtype: PackedDtype) -> None:
    """At once, in parts, token by token, alone, among others, behind a shared beginning, on one thread or three."""
    model = model_of(SHAPES[shape])
    one, three = compiled(model, dtype), compiled(model, dtype, threads=3)
    length = model.config.block_size
    ids = ids_for(model.config, 3, length)
    whole = one(ids)
    assert torch.equal(whole, three(ids))
    assert torch.equal(whole[1:2], one(ids[1:2]))
    cache = three.new_cache()
    steps = [three.next_logits(ids[:1, t : t + 1], cache) for t in range(length)]
    assert torch.equal(torch.stack(steps, dim=1), whole[:1])
    cache = one.new_cache()
    for begin, end in ((0, 3), (3, 5), (5, 18), (18, length)):
        part = one.next_logits(ids[:1, begin:end], cache)
        assert torch.equal(part, whole[:1, end - 1])
    for shared in (5, 18):
        texts = torch.cat([ids[:1, :shared].expand(3, -1), ids[:, shared:]], dim=1)
        cache = one.new_cache()
        one.next_logits(texts[:1, :shared], cache)
        wide = cache.expand(3)
        for t in range(shared, length):
            logits = one.next_logits(texts[:, t : t + 1], wide)
        assert torch.equal(logits, one(texts)[:, -1])
        cache.length = 3  # and the narrow one is still its own: gone back, it reads on
        assert torch.equal(one.next_logits(ids[:1, 3:9], cache), whole[:1, 8])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [1, 3])
def test_a_look_finds_the_largest_the_head_and_the_sums(shape: str, rows: int) -> None:
    model = compiled(model_of(SHAPES[shape]), threads=2)
    logits = model.next_logits(ids_for(model.config, rows, 1)) * 9  # so that some are out of the head's reach
    found = model.finite(logits)
    assert torch.equal(found.best, logits.amax(-1, keepdim=True))
    for row in range(rows):
        head, moments, there = found.head(row), found.moments(row), Rows(logits).head(row)
        assert head.ids.tolist() == there.ids.tolist()
        assert head.values.tolist() == there.values.tolist()
        assert moments is not None
        exact = torch.distributions.Categorical(logits=logits[row].double())
        assert moments.entropy == pytest.approx(float(exact.entropy()), abs=1e-5)
        assert moments.log_total == pytest.approx(float(logits[row].double().logsumexp(-1)), abs=1e-5)


def test_a_broken_row_is_seen_and_the_others_go_on(byte_tokenizer: Tokenizer) -> None:
    torch_model = model_of(SHAPES["even"])
    torch_model.wpe.weight[0] = torch.nan
    model = compiled(torch_model, threads=2)
    cache = model.new_cache(2)
    cache.length = 1
    whole = model.next_logits(ids_for(model.config, 2, 1), cache)
    assert model.finite(whole).best.isfinite().all()
    with pytest.raises(NotFiniteError):
        _ = model.finite(model.next_logits(ids_for(model.config, 2, 1))).best
    for chain in ("", "top_k=5,temperature=0.7", "typical=0.9", "dry:multiplier=1"):
        with pytest.raises(GenerationError, match="no finite number"):
            list(Engine(model, byte_tokenizer).generate(Request("A", Chain.parse(chain), max_new_tokens=1)))


def test_text_that_does_not_fit_is_refused() -> None:
    model = compiled(model_of(SHAPES["odd"]))
    with pytest.raises(GenerationError, match="41 tokens do not fit: this model has 40 positions"):
        model.next_logits(torch.zeros(1, 41, dtype=torch.long))


def test_the_engine_writes_the_same_tokens_by_torch_and_compiled(byte_tokenizer: Tokenizer) -> None:
    model = model_of(SHAPES["even"])
    texts: dict[object, list[list[int]]] = {}
    for computing in (model, compiled(model), compiled(model, threads=2)):
        engine = Engine(computing, byte_tokenizer)
        for seed, chain in enumerate(["greedy", "top_k=40,temperature=0.8", "temperature=1.3", "top_p=0.9"]):
            request = Request("ROMEO", Chain.parse(chain), seed, 2, 100, ignore_end_of_text=True)
            events = [event for event in engine.generate(request) if isinstance(event, Token)]
            ids = [[event.id for event in events if event.sample == sample] for sample in (0, 1)]
            texts.setdefault(chain, []).append([*ids[0], *ids[1]])
    for chain, written in texts.items():
        assert written[0] == written[1] == written[2], chain


def test_a_sample_among_others_is_the_sample_alone_to_the_bit(byte_tokenizer: Tokenizer) -> None:
    engine = Engine(compiled(model_of(SHAPES["long"]), "int8", 2), byte_tokenizer)
    chain = Chain.parse("temperature=1.0")
    events = list(engine.generate(Request("A", chain, 5, 4, 60, ignore_end_of_text=True)))
    for number in range(4):
        alone = list(engine.generate(Request("A", chain, 5 + number, 1, 60, ignore_end_of_text=True)))
        together = [event for event in events if isinstance(event, Token) and event.sample == number]
        assert [(e.id, e.p_model) for e in together] == [(e.id, e.p_model) for e in alone if isinstance(e, Token)]


def test_threads_end_with_their_model() -> None:
    before = set(threading.enumerate())  # themselves, not how many there are: other models' threads may end meanwhile
    model = compiled(model_of(SHAPES["one"]), threads=4)
    ours = set(threading.enumerate()) - before
    assert sorted(thread.name for thread in ours) == ["decode-1", "decode-2", "decode-3"]
    del model
    gc.collect()
    for thread in ours:
        thread.join(5)
        assert not thread.is_alive()
