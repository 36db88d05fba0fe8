"""Texts from a pipe, a disk without room, the batch of any step, and a run whose steps are made again."""

import errno
import json
import os
from pathlib import Path

import pytest
from command_lines import Cli

from gpt_model.config import ModelConfig, RunConfig, TrainConfig
from gpt_model.mailbox import Mailbox
from gpt_model.run_lock import RunLock
from gpt_model.runs import Run, Status
from gpt_tui.locations import Locations

TEXT = "".join(f"Night {number} over the sea of {number % 13} kings.\n" for number in range(400))
TINY = (
    "--preset=gpt-micro", "--set=n_layer=1", "--set=n_embd=16", "--set=n_head=1", "--set=block_size=16",
    "--set=max_steps=8", "--set=eval_interval=0", "--set=checkpoint_interval=4", "--set=sample_interval=0",
    "--set=batch_size=3", "--set=threads=1",
)  # fmt: skip


@pytest.fixture
def piped(cli: Cli, place: Locations) -> Run:
    """A finished run on text from a pipe."""
    outcome = cli("train", "-", *TINY, stdin=TEXT.encode())
    assert outcome.code == 0, outcome.err
    return Run.open(place.runs, "stdin")


def test_text_from_a_pipe_belongs_to_the_run(piped: Run, place: Locations) -> None:
    assert (piped.directory / "stdin.txt").read_text() == TEXT
    assert piped.texts == [str(piped.directory / "stdin.txt")]
    assert [path.name for path in place.runs.iterdir()] == ["stdin"]


def test_no_run_is_left_of_a_pipe_that_cannot_be_trained_on(cli: Cli, place: Locations, tmp_path: Path) -> None:
    for text, sentence in ((b"", "Standard input is empty"), (b"a\0b", "is not a text file: byte 1")):
        outcome = cli("train", "-", *TINY, stdin=text)
        assert outcome.code == 2
        assert sentence in outcome.err
        assert list(place.runs.iterdir()) == []
    assert cli("train", "-").code == 2
    outcome = cli("train", "-", str(tmp_path), stdin=b"text")
    assert outcome.code == 2
    assert "cannot be mixed with files" in outcome.err


def test_a_stop_that_finds_no_room_is_a_signal_and_says_so(
    cli: Cli, place: Locations, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(place.runs, RunConfig(ModelConfig(), TrainConfig()), "full")
    lock = RunLock.take(run.directory)

    def no_room(*command: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def leave(pid: int, number: int) -> None:
        run.write_status(Status(state="stopped", message="Stopped at step 7."))
        lock.close()

    monkeypatch.setattr(Mailbox, "send", no_room)
    monkeypatch.setattr(os, "kill", leave)
    refused = cli("runs", "pause", "full")
    assert refused.code == 1
    assert f"Nothing can be written to {run.directory}: No space left on device. Make room" in refused.err
    stopped = cli("runs", "stop", "full")
    assert stopped.code == 0, stopped.err
    assert "was sent the signal TERM" in stopped.err
    assert "Stopped at step 7." in stopped.err


def test_the_batch_of_any_step_is_told(cli: Cli, piped: Run) -> None:
    told = json.loads(cli("runs", "batch", piped.name, "3", "--json").out)
    assert told["step"] == 3
    assert len(told["rows"]) == 3
    losses = [record for record in piped.read_metrics()[0] if record["step"] == 3 and "train_loss" in record]
    assert told["train_loss"] == losses[0]["train_loss"]
    for number, row in enumerate(told["rows"], 1):
        assert len(row["ids"]) == 17
        assert row["text"] in TEXT or "<|endoftext|>" in row["text"]
        assert cli("runs", "batch", piped.name, "3", "--row", str(number)).out == row["text"]
    shown = cli("runs", "batch", piped.name, "3").out
    assert shown.startswith("step 3: 3 sequences, loss ")
    assert f"[1] epoch 1, token {told['rows'][0]['first_token']:,}" in shown
    later = json.loads(cli("runs", "batch", piped.name, "5000", "--json").out)
    assert later["train_loss"] is None
    assert later["rows"][0]["epoch"] > 0
    for arguments in (("0",), ("3", "--row", "4"), ("x",)):
        assert cli("runs", "batch", piped.name, *arguments).code == 2


def test_steps_are_made_again_on_request(cli: Cli, piped: Run) -> None:
    outcome = cli("runs", "verify", piped.name)
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("EXACT: steps 4 to 8 made again, weights and optimizer identical.\nsha256  ")
    told = json.loads(cli("runs", "verify", piped.name, "--json").out)
    assert told["same"]
    assert told["verdict"] == "EXACT"
    weights = piped.checkpoint_path("last") / "model.safetensors"
    manifest = weights.with_name("MANIFEST.json")
    manifest.write_text(manifest.read_text().replace(told["expected"], "0" * 64))
    outcome = cli("runs", "verify", piped.name)
    assert outcome.code == 1
    assert outcome.out.startswith("DIFFERENT: steps 4 to 8 made again, weights differ.")
