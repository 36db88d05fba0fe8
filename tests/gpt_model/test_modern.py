"""The modern architecture: its formula, its cache, its files, and everything that a GPT's place asks of it."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from run_facts import weights_hash
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2LMHeadModel
from transformers.utils import logging

from gpt_model.architectures import build_model
from gpt_model.backend import open_model, open_scorer
from gpt_model.checkpoint import export_pth, load_checkpoint, save_checkpoint
from gpt_model.config import ModelConfig, RunConfig, TrainConfig
from gpt_model.decoders.lookup import Lookup
from gpt_model.errors import CheckpointError, ConfigError, GenerationError
from gpt_model.generation import Engine, Request
from gpt_model.model import GPT
from gpt_model.modern import ModernGPT, rotate, rotation_of
from gpt_model.runs import Run, Status
from gpt_model.token_record import Token
from gpt_model.tokenizer import Tokenizer
from samplers import Chain

pytest_plugins = ["tiny_runs"]
logging.set_verbosity_error()
logging.disable_progress_bar()

SHAPE = ModelConfig(n_layer=2, n_head=3, n_embd=24, block_size=40, vocab_size=257, arch="modern")
MakeRun = Callable[..., Run]
TrainHere = Callable[..., Status]


def loud(config: ModelConfig = SHAPE) -> GPT:
    """A model far from uniform."""
    torch.manual_seed(5)
    model = build_model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)
    return model.eval().requires_grad_(False)


@pytest.fixture
def model() -> GPT:
    return loud()


def formula(model: GPT, ids: Tensor) -> Tensor:
    """The architecture in float64, one position, head and layer after another, positions as complex rotations."""
    config, weights = model.config, {name: tensor.double() for name, tensor in model.state_dict().items()}
    D = config.n_embd // config.n_head

    def norm(vector: Tensor) -> Tensor:
        centred = vector - vector.mean()
        return centred / (centred.square().mean() + config.layer_norm_epsilon).sqrt()

    def turn(vector: Tensor, position: int) -> Tensor:
        turned = torch.empty_like(vector)
        for pair in range(D // 2):
            number = complex(float(vector[pair]), float(vector[pair + D // 2]))
            angle = position * 10_000.0 ** (-2 * pair / D)
            number *= complex(math.cos(angle), math.sin(angle))
            turned[pair], turned[pair + D // 2] = number.real, number.imag
        return turned

    stream = [weights["wte.weight"][token] for token in ids.tolist()]
    for layer in range(config.n_layer):
        read = [weights[f"h.{layer}.attn.c_attn.weight"] @ norm(vector) for vector in stream]
        for place in reversed(range(len(stream))):
            heads = []
            for head in range(config.n_head):
                query, key, value = (slice(part * config.n_embd + head * D, None) for part in range(3))
                mine = turn(norm(read[place][query][:D]), place)
                keys = torch.stack([turn(norm(read[other][key][:D]), other) for other in range(place + 1)])
                values = torch.stack([read[other][value][:D] for other in range(place + 1)])
                heads.append((keys @ mine / math.sqrt(D)).softmax(0) @ values)
            stream[place] = stream[place] + weights[f"h.{layer}.attn.c_proj.weight"] @ torch.cat(heads)
        for place, vector in enumerate(stream):
            inner = (weights[f"h.{layer}.mlp.c_fc.weight"] @ norm(vector)).clamp(min=0) ** 2
            stream[place] = vector + weights[f"h.{layer}.mlp.c_proj.weight"] @ inner
    logits = torch.stack([weights["lm_head.weight"] @ norm(vector) for vector in stream])
    cap = config.logit_softcap
    return cap * torch.tanh(logits / cap) if cap else logits


@pytest.mark.parametrize("cap", [0.0, 3.0])
def test_the_logits_are_those_of_the_formula(cap: float) -> None:
    model = loud(dataclasses.replace(SHAPE, logit_softcap=cap))
    ids = torch.randint(257, (1, 7), generator=torch.Generator().manual_seed(1))
    expected = formula(model, ids[0])
    torch.testing.assert_close(model(ids)[0].double(), expected, rtol=1e-4, atol=1e-4)
    assert expected.abs().max() > 1.0
    if cap:
        assert model(ids).abs().max() <= cap


def test_the_parameters_are_as_many_as_the_configuration_says() -> None:
    for config in (SHAPE, dataclasses.replace(SHAPE, n_inner=50, vocab_size=31), dataclasses.replace(SHAPE, n_layer=1)):
        assert sum(parameter.numel() for parameter in build_model(config).parameters()) == config.parameter_count


def test_only_the_distance_of_two_positions_matters_to_a_query_and_a_key() -> None:
    query, key = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(2))

    def product(at: int, other: int) -> float:
        return float((rotate(query, rotation_of(torch.tensor([at]), 8))
                      * rotate(key, rotation_of(torch.tensor([other]), 8))).sum())  # fmt: skip

    assert product(3, 1) == pytest.approx(product(30, 28), abs=1e-5)
    assert abs(product(3, 1) - product(3, 2)) > 0.01


@torch.inference_mode()
def test_reading_in_parts_is_reading_at_once(model: GPT) -> None:
    ids = torch.randint(257, (3, 40), generator=torch.Generator().manual_seed(1))
    whole, cache = model(ids), model.new_cache(3)
    parts = [model(ids[:, first:last], cache) for first, last in ((0, 9), (9, 10), (10, 31), (31, 40))]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.next_logits(ids), whole[:, -1], rtol=1e-4, atol=1e-4)
    hidden, logits = model.read(ids)
    torch.testing.assert_close(model.logits(hidden)[:, -1], logits)
    with pytest.raises(GenerationError, match="41 tokens do not fit"):
        model(ids[:, :1], cache)


def test_the_loss_is_the_cross_entropy_and_the_z_loss_comes_on_top() -> None:
    model = loud(dataclasses.replace(SHAPE, logit_softcap=10.0))
    ids, targets = torch.randint(257, (2, 2, 20), generator=torch.Generator().manual_seed(1))
    logits = model(ids).double()
    normaliser = logits.logsumexp(-1)
    nats = (normaliser - logits.gather(-1, targets[..., None])[..., 0]).mean()
    assert float(model.loss(ids, targets)) == pytest.approx(float(nats), rel=1e-5)
    assert isinstance(model, ModernGPT)
    expected = nats + 0.01 * normaliser.square().mean()
    assert float(model.loss(ids, targets, z_loss=0.01)) == pytest.approx(float(expected), rel=1e-5)


def test_in_bfloat16_the_loss_is_nearly_the_same_and_everything_learns() -> None:
    model = loud().train().requires_grad_(True)
    ids, targets = torch.randint(257, (2, 2, 20), generator=torch.Generator().manual_seed(1))
    exact = float(model.loss(ids, targets).detach())
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(ids, targets)
    assert float(loss.detach()) == pytest.approx(exact, rel=0.02)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("changes", "match"),
    [({"n_head": 8, "n_embd": 24}, "must be even"), ({"logit_softcap": -1.0}, "negative"), ({"arch": "bert"}, "arch")],
)
def test_shapes_that_cannot_be_are_refused(changes: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        dataclasses.replace(SHAPE, **changes)  # type: ignore[arg-type]


def test_a_gpt2_has_neither_softcap_nor_z_loss() -> None:
    with pytest.raises(ConfigError, match="set arch to modern"):
        ModelConfig(logit_softcap=15.0)
    with pytest.raises(ConfigError, match="set arch to modern"):
        RunConfig(ModelConfig(), TrainConfig(z_loss=1e-4))
    assert RunConfig(SHAPE, TrainConfig(z_loss=1e-4)).train.z_loss == 1e-4


# --- files


@pytest.fixture
def saved(model: GPT, byte_tokenizer: Tokenizer, tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "modern", model, byte_tokenizer)
    return tmp_path / "modern"


def test_a_checkpoint_reads_back_exactly(saved: Path, model: GPT) -> None:
    loaded, tokenizer = load_checkpoint(saved)
    assert isinstance(loaded, ModernGPT)
    assert loaded.config == model.config
    assert tokenizer is not None
    assert tokenizer.name == "bytes"
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name


def test_transformers_refuses_it_even_when_told_that_it_is_a_gpt2(saved: Path) -> None:
    assert json.loads((saved / "config.json").read_text())["model_type"] == "gpt_tui_modern"
    with pytest.raises(ValueError, match="gpt_tui_modern"):
        AutoModelForCausalLM.from_pretrained(saved)
    with pytest.raises(RuntimeError, match="mismatched_sizes"):
        GPT2LMHeadModel.from_pretrained(saved)


def test_it_is_not_written_in_nanogpts_format(model: GPT, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"modern model, not a GPT-2, so nanoGPT cannot open it"):
        export_pth(tmp_path / "modern.pth", model)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_lacks_a_matrix_or_says_nonsense_is_refused(saved: Path) -> None:
    (saved / "MANIFEST.json").unlink()
    told = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(told | {"n_layer": 3}))
    with pytest.raises(CheckpointError, match="not a whole modern model"):
        load_checkpoint(saved)
    (saved / "config.json").write_text(json.dumps(told | {"n_head": 5}))
    with pytest.raises(CheckpointError, match="describes no possible model"):
        load_checkpoint(saved)


# --- generating


def test_torch_computes_it_and_says_so(saved: Path) -> None:
    opened = open_model(saved, "cpu", threads=1)
    assert (opened.backend.name, opened.backend.dtype) == ("torch", "float32")
    assert "knows GPT-2 alone" in opened.backend.note
    assert "so torch computes" in opened.backend.note
    exact = open_scorer(saved, "cpu", threads=1).model.next_logits(torch.tensor([[65, 66]]))
    for dtype in ("bfloat16", "float16"):
        half = open_model(saved, "cpu", dtype, threads=1)
        assert half.backend.dtype == dtype
        off = (half.model.next_logits(torch.tensor([[65, 66]])) - exact).abs().max() / exact.abs().max()
        assert 0 < off < 0.05
    assert open_scorer(saved, "cpu", threads=1).backend.name == "torch"
    with pytest.raises(ConfigError, match="a modern model has none"):
        open_model(saved, "cpu", "int8", threads=1)


def test_texts_are_the_same_with_speculation_and_without_cache(model: GPT, byte_tokenizer: Tokenizer) -> None:
    def text(**how: object) -> list[int]:
        chain = Chain.parse("top_k=5,temperature=0.7")
        asked = Request("once upon once upon", chain, 3, 1, 60, ignore_end_of_text=True, **how)  # type: ignore[arg-type]
        return [event.id for event in Engine(model, byte_tokenizer).generate(asked) if isinstance(event, Token)]

    plain = text()
    assert len(plain) == 60  # past the context's end
    assert text(decoder=Lookup()) == plain
    assert text(use_cache=False) == plain


# --- training


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_learns_and_resumes_bit_for_bit(make_run: MakeRun, train_here: TrainHere, optimizer: str) -> None:
    settings = {
        "arch": "modern", "logit_softcap": 15.0, "z_loss": 1e-4, "optimizer": optimizer, "max_steps": 40,
        "eval_interval": 10,
    }  # fmt: skip
    whole = make_run("whole", **settings)
    status = train_here(whole)
    assert status.state == "finished"
    assert status.val_loss is not None
    assert status.val_loss < 4.6 < math.log(257)
    parts = make_run("parts", **settings, checkpoint_interval=15, keep_checkpoints=0)
    train_here(parts)
    for late in (each for each in parts.checkpoints() if each.step > 15):
        late.path.rename(late.path.with_name(f"gone-{late.step}"))
    train_here(parts)
    assert weights_hash(parts) == weights_hash(whole)


def test_a_run_starts_from_a_modern_checkpoint_and_from_none_of_another_shape(
    make_run: MakeRun, train_here: TrainHere
) -> None:
    first = make_run("first", arch="modern", max_steps=5)
    train_here(first)
    start = str(first.checkpoint_path("last"))
    second = make_run("second", arch="modern", init=start, tokenizer="checkpoint", max_steps=5)
    train_here(second)
    before, after = (load_checkpoint(run.checkpoint_path("last"))[0].state_dict() for run in (first, second))
    assert before.keys() == after.keys()
    assert not torch.equal(before["lm_head.weight"], after["lm_head.weight"])
    with pytest.raises(ConfigError, match="arch = gpt2 instead of modern"):
        train_here(make_run("third", init=start, tokenizer="checkpoint"))
