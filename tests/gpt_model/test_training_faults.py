"""What goes wrong in training: numbers that are none, disks, damaged checkpoints, impossible runs."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from run_facts import kinds, steps_of, weights_hash

from gpt_model import checkpoint_shelf
from gpt_model.checkpoint import load_checkpoint
from gpt_model.errors import CheckpointError, ConfigError, DataError, RunError, TokenizerError
from gpt_model.model import GPT
from gpt_model.runs import Run, Status

pytest_plugins = ["tiny_runs"]

MakeRun = Callable[..., Run]
TrainHere = Callable[..., Status]


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[int]]:
    """Yield the set of forward passes (from 0) whose loss is made not a number."""
    poisoned: set[int] = set()
    loss, calls = GPT.loss, iter(range(10_000))

    def poisoned_loss(self: GPT, *batch: Any) -> torch.Tensor:
        return loss(self, *batch) * (math.nan if next(calls) in poisoned else 1.0)

    monkeypatch.setattr(GPT, "loss", poisoned_loss)
    return poisoned


def test_a_loss_that_is_not_a_number_is_skipped_and_told(
    make_run: MakeRun, train_here: TrainHere, poison: set[int]
) -> None:
    poison |= {3, 4, 6, 7}
    run = make_run(val_fraction=0.0)
    status = train_here(run)
    assert (status.state, status.step) == ("finished", 20)
    assert kinds(run).count("nan") == 4
    assert status.train_loss is not None
    nans = [record["step"] for record in run.read_metrics()[0] if math.isnan(record.get("train_loss", 0.0))]
    assert nans == [4, 5, 7, 8]
    assert all(tensor.isfinite().all() for tensor in load_checkpoint(run.checkpoint_path())[0].parameters())


def test_three_in_a_row_end_a_run_that_can_go_back_to_nothing(
    make_run: MakeRun, train_here: TrainHere, poison: set[int]
) -> None:
    poison |= {11, 12, 13}
    run = make_run(val_fraction=0.0)
    with pytest.raises(
        RunError, match=r"3 steps in a row, and there is no checkpoint to go back to.*lower learning_rate"
    ):
        train_here(run)
    assert train_here(run).state == "finished"  # the poison was in the air, not in the weights


def test_a_checkpoint_that_cannot_be_saved_is_told_and_training_goes_on(
    make_run: MakeRun, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = checkpoint_shelf.save_checkpoint

    def refuse(directory: Path, *rest: Any) -> None:
        if directory.name == "step-00000010":
            raise CheckpointError("No space left on device.")
        save(directory, *rest)

    monkeypatch.setattr(checkpoint_shelf, "save_checkpoint", refuse)
    run = make_run(checkpoint_interval=5)
    assert train_here(run).state == "finished"
    assert steps_of(run) == [5, 15, 20]
    told = [event for event in run.read_events()[0] if event["kind"] == "fail"]
    assert [event["message"] for event in told] == ["No space left on device. Training goes on."]


def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(make_run: MakeRun, train_here: TrainHere) -> None:
    run = make_run(checkpoint_interval=10)
    train_here(run)
    expected = weights_hash(run)
    with (run.checkpoint_path("last") / "model.safetensors").open("r+b") as file:
        file.truncate(100)
    (run.directory / "checkpoints" / ".tmp-step-00000030-1").mkdir()
    assert train_here(run).step == 20
    assert weights_hash(run) == expected
    assert steps_of(run) == [10, 20]
    assert "Checkpoint 20 was set aside" in next(e["message"] for e in run.read_events()[0] if e["kind"] == "fail")
    assert not list((run.directory / "checkpoints").glob(".tmp-*"))


def test_when_no_checkpoint_is_whole_the_run_does_not_begin_anew(make_run: MakeRun, train_here: TrainHere) -> None:
    run = make_run()
    train_here(run)
    (run.checkpoint_path("last") / "MANIFEST.json").write_text("{")
    with pytest.raises(CheckpointError, match="None of the 1 checkpoints"):
        train_here(run)


@pytest.mark.parametrize(
    ("settings", "kind", "sentence"),
    [
        ({"block_size": 4096}, DataError, r"needs 4,097\..*sequence_length"),
        ({"sequence_length": 9}, ConfigError, "must not be above block_size = 8"),
        ({"device": "warp"}, ConfigError, "device = warp"),
        ({"device": "cuda:9" if torch.cuda.is_available() else "cuda"}, ConfigError, "device = cuda"),
        ({"tokenizer": "words"}, TokenizerError, "no tokenizer 'words'"),
        ({"tokenizer": "checkpoint"}, ConfigError, "needs init"),
        ({"files": ("/nowhere/at/all.txt",)}, DataError, "no file /nowhere/at/all.txt"),
        (
            {"val_fraction": 1e-9, "val_split": "tail", "target_loss": 1.0, "target_metric": "val"},
            DataError,
            "holds no text here",
        ),
    ],
)
def test_a_run_that_cannot_be_trained_says_why(
    make_run: MakeRun, train_here: TrainHere, settings: dict[str, Any], kind: type[Exception], sentence: str
) -> None:
    with pytest.raises(kind, match=sentence):
        train_here(make_run(**settings))


def test_a_validation_split_too_small_is_told(make_run: MakeRun, train_here: TrainHere) -> None:
    run = make_run(val_fraction=0.002, val_split="tail", max_steps=2)
    status = train_here(run)
    assert status.val_loss is not None
    assert any("in one shorter sequence" in event["message"] for event in run.read_events()[0])
