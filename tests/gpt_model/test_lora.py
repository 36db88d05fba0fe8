"""LoRA: what adapters compute, what they merge into, and runs that train nothing else."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from run_facts import weights_hash
from torch import nn
from transformers import GPT2LMHeadModel
from transformers.utils import logging

from gpt_model.architectures import build_model
from gpt_model.checkpoint import load_checkpoint, load_training_state, save_checkpoint
from gpt_model.config import ModelConfig
from gpt_model.errors import CheckpointError, ConfigError
from gpt_model.lora import adapt, adapters_state, merged, restore_adapters
from gpt_model.model import GPT
from gpt_model.runs import Run, Status
from gpt_model.tokenizer import Tokenizer

pytest_plugins = ["tiny_runs"]
logging.set_verbosity_error()
logging.disable_progress_bar()

SHAPE = ModelConfig(n_layer=2, n_head=2, n_embd=16, block_size=24, vocab_size=257, dropout=0.1)
MATRICES = [
    f"h.{layer}.{name}" for layer in (0, 1) for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
]
MakeRun = Callable[..., Run]
TrainHere = Callable[..., Status]


def fresh(arch: str = "gpt2", seed: int = 3) -> GPT:
    torch.manual_seed(seed)
    model = build_model(dataclasses.replace(SHAPE, arch=arch))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.ndim > 1 else 1)
    return model.eval()


def adapted(arch: str = "gpt2", rank: int = 4) -> GPT:
    """A model whose adapters have learned something."""
    model = fresh(arch)
    adapt(model, rank, alpha=8.0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_b"):
                parameter.normal_(std=0.1)
    return model


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(257, (2, 24), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("arch", ["gpt2", "modern"])
def test_new_adapters_change_nothing_and_are_all_there_is_to_train(arch: str, ids: torch.Tensor) -> None:
    model = fresh(arch)
    before, names = model(ids), set(model.state_dict())
    adapt(model, 4, 16.0)
    assert torch.equal(model(ids), before)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(trained) == {f"{name}.lora_{kind}" for name in MATRICES for kind in "ab"}
    assert set(model.state_dict()) - set(trained) == names
    sizes = sum(sum(layer.weight.shape) for _, layer in model.named_modules() if hasattr(layer, "lora_a"))
    assert sum(parameter.numel() for parameter in trained.values()) == 4 * sizes
    assert all(isinstance(model.get_submodule(name), nn.Linear) for name in MATRICES)


def test_an_adapter_adds_its_scaled_product(ids: torch.Tensor) -> None:
    model, plain = adapted(), fresh()
    hidden = torch.randn(5, 16)
    layer, without = model.get_submodule("h.1.mlp.c_fc"), plain.get_submodule("h.1.mlp.c_fc")
    by_hand = hidden @ layer.lora_a.T @ layer.lora_b.T * (8.0 / 4)  # type: ignore[operator]
    torch.testing.assert_close(layer(hidden), without(hidden) + by_hand)
    assert not torch.allclose(model(ids), plain(ids), atol=0.1)


@pytest.mark.parametrize("arch", ["gpt2", "modern"])
def test_the_merged_model_is_plain_and_has_the_adapted_ones_logits(arch: str, ids: torch.Tensor) -> None:
    model = adapted(arch)
    plain = merged(model)
    assert set(plain.state_dict()) == set(fresh(arch).state_dict())
    expected = model(ids).detach()
    torch.testing.assert_close(plain(ids), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert plain.wte.weight.data_ptr() == model.wte.weight.data_ptr()
    assert merged(plain) is plain


def test_the_merged_model_opens_in_transformers(ids: torch.Tensor, byte_tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = adapted()
    save_checkpoint(tmp_path / "merged", merged(model), byte_tokenizer)
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(theirs(ids).logits, model(ids), rtol=1e-4, atol=1e-4)


def test_adapters_are_restored_to_the_bit_beside_the_weights_they_were_trained_with(ids: torch.Tensor) -> None:
    model = adapted()
    state = adapters_state(model)
    assert state is not None
    again = merged(model)
    adapt(again, 4, 8.0)
    restore_adapters(again, state)
    assert torch.equal(again(ids), model(ids))
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert adapters_state(fresh()) is None


def test_the_state_of_other_adapters_is_refused() -> None:
    state = adapters_state(adapted(rank=4))
    assert state is not None
    other = fresh()
    adapt(other, 2, 8.0)
    with pytest.raises(CheckpointError, match="lora_rank must stay"):
        restore_adapters(other, state)


# --- runs


@pytest.fixture
def start(byte_tokenizer: Tokenizer, tmp_path: Path) -> str:
    """A checkpoint to adapt."""
    save_checkpoint(tmp_path / "start", fresh(), byte_tokenizer)
    return str(tmp_path / "start")


LORA = {
    "n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 24, "tokenizer": "checkpoint", "lora_rank": 3,
    "max_steps": 20, "eval_interval": 10,
}  # fmt: skip


def test_a_run_trains_adapters_alone_and_saves_plain_models(
    make_run: MakeRun, train_here: TrainHere, start: str
) -> None:
    run = make_run("lora", init=start, **LORA)
    status = train_here(run)
    assert status.state == "finished"
    losses = [record["val_loss"] for record in run.read_metrics()[0] if "val_loss" in record]
    assert losses[0] > losses[-1] + 0.3
    before = fresh().state_dict()
    after = load_checkpoint(run.checkpoint_path("last"))[0].state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        moved = name.removesuffix(".weight") in MATRICES
        assert torch.equal(tensor, after[name]) != moved, name
    state = load_training_state(run.checkpoint_path("last"))
    assert all(torch.equal(state["adapters"]["weight"][name], before[f"{name}.weight"]) for name in MATRICES)


def test_the_optimizer_keeps_state_for_adapters_alone(make_run: MakeRun, train_here: TrainHere, start: str) -> None:
    run = make_run("lora", init=start, **LORA | {"max_steps": 2})
    train_here(run)
    state = load_training_state(run.checkpoint_path("last"))["updater"]

    def tensors(part: object) -> int:
        if isinstance(part, torch.Tensor):
            return part.numel() if part.dtype == torch.float32 and part.ndim else 0
        items = part.values() if isinstance(part, dict) else part if isinstance(part, list | tuple) else ()
        return sum(tensors(each) for each in items)

    adapters = sum(3 * sum(fresh().get_submodule(name).weight.shape) for name in MATRICES)  # type: ignore[arg-type]
    assert tensors(state) == 2 * adapters  # two moments


def test_a_run_resumes_bit_for_bit_without_what_it_started_from(
    make_run: MakeRun, train_here: TrainHere, start: str
) -> None:
    whole = make_run("whole", init=start, **LORA)
    train_here(whole)
    parts = make_run("parts", init=start, **LORA, checkpoint_interval=7, keep_checkpoints=0)
    train_here(parts)
    Path(start).rename(Path(start).with_name("gone"))
    for late in (each for each in parts.checkpoints() if each.step > 7):
        late.path.rename(late.path.with_name(f"gone-{late.step}"))
    train_here(parts)
    assert weights_hash(parts) == weights_hash(whole)


def test_random_weights_are_not_adapted(make_run: MakeRun) -> None:
    with pytest.raises(ConfigError, match="lora_rank = 4: adapters need trained weights"):
        make_run("lora", lora_rank=4)
