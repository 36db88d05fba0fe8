"""gpt-tui train and runs: a run from the first word to its removal, followed, interrupted, commanded and broken."""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pexpect
import pytest
from command_lines import TINY, Cli, Start

from gpt_model.runs import Run, Status
from gpt_tui.cli.follow import describe, progress_line
from gpt_tui.cli.json_text import to_json
from gpt_tui.locations import Locations


@pytest.fixture
def story(place: Locations) -> Path:
    """A text in the working directory, made from a seed."""
    luck = random.Random(1)
    file = Path("story.txt")
    file.write_text(
        "\n".join(" ".join(luck.choices(["the", "king", "sings", "of", "night", "and", "sea"], k=6)) for _ in range(99))
    )
    return file


def training(*files: Path, **settings: object) -> list[str]:
    """Return the arguments of `train` for a tiny run."""
    sets = [f"--set={name}={value}" for name, value in (TINY | settings).items()]
    return ["train", *map(str, files), "--tokenizer", "bytes", *sets]


def shown(cli: Cli, name: str) -> dict[str, Any]:
    """Return what `runs show --json` tells."""
    outcome = cli("runs", "show", name, "--json")
    assert outcome.code == 0, outcome.err
    told: dict[str, Any] = json.loads(outcome.out)
    return told


def wait_for(cli: Cli, name: str, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Return what is told of a run as soon as it has reached something."""
    deadline = time.monotonic() + 60
    while not reached(told := shown(cli, name)):
        assert time.monotonic() < deadline, told
        time.sleep(0.05)
    return told


def test_a_run_is_followed_to_its_end_and_is_there_for_every_command(cli: Cli, story: Path, place: Locations) -> None:
    outcome = cli(*training(story), "--name", "first")
    assert outcome.code == 0, outcome.err
    assert outcome.out == "first\n"
    lines = outcome.err.splitlines()
    assert lines[0].startswith("Run first: Preset ")
    assert "(an estimate)." in lines[0]
    for words in ("step 0  Training begins", "step 10  Validation loss", "step 20  Checkpoint saved at step 20"):
        assert sum(words in line for line in lines) == 1, (words, lines)
    assert lines[-2].startswith("Finished after 20 steps. Loss: train ")
    assert lines[-1] == "Write with it: gpt-tui complete -m first"
    assert sum("Finished after" in line for line in lines) == 1

    told = shown(cli, "first")
    assert (told["name"], told["state"], told["step"], told["max_steps"]) == ("first", "finished", 20, 20)
    assert {"train_loss", "val_loss", "best_val_loss", "pid", "message", "phase"} <= told.keys()
    assert [(saved["step"], saved["is_last"]) for saved in told["checkpoints"]] == [(10, False), (20, True)]
    assert told["config"]["model"]["n_embd"] == 16
    assert json.loads(cli("runs", "list", "--json").out) == [told]
    header, row = cli("runs", "list").out.splitlines()
    assert header.split()[:3] == ["run", "state", "step"]
    assert row.split()[:3] == ["first", "finished", "20/20"]
    text = cli("runs", "show", "first").out
    assert "state        finished\n" in text
    assert "checkpoint   first:20" in text
    watched = cli("runs", "watch", "first")
    assert (watched.code, watched.out) == (0, "")
    assert watched.err.splitlines() == lines[-2:]

    written = cli("complete", "-m", "first:10", "--seed", "1", "--max-new-tokens", "5", "the king", "--json")
    assert json.loads(written.out)["checkpoint"] == "first:10"
    scored = json.loads(cli("eval", "first", story, "--json").out)
    assert 0 < scored["loss"] < 6
    listed = {each["name"]: each for each in json.loads(cli("models", "list", "--json").out)}
    assert listed["first:last"]["parameters"] == Run.open(place.runs, "first").config.model.parameter_count
    resumed = cli("runs", "resume", "first")  # there is nothing left to do
    assert (resumed.code, resumed.out) == (0, "first\n")
    assert "Finished after 20 steps" in resumed.err
    assert shown(cli, "first")["step"] == 20
    assert cli("runs", "remove", "first", "--yes").code == 0
    assert cli("runs", "list").err == "There are no runs yet. One starts with: gpt-tui train FILE\n"


def test_a_detached_run_obeys_until_it_is_stopped_and_goes_on_where_it_was(cli: Cli, story: Path) -> None:
    sets = {"max_steps": 10_000_000, "eval_interval": 0, "checkpoint_interval": 0}
    started = cli(*training(story, **sets), "--name", "long", "--detach")
    assert (started.code, started.out) == (0, "long\n")
    wait_for(cli, "long", lambda told: told["step"] > 0)
    assert cli("runs", "pause", "long").err.startswith("Done at step ")
    paused = shown(cli, "long")
    assert paused["state"] == "paused"
    assert paused["eta_seconds"] is None
    saved = cli("runs", "checkpoint", "long")
    assert Path(saved.out.strip()) == Path(paused["directory"]) / f"checkpoints/step-{paused['step']:08}"
    assert Path(saved.out.strip()).is_dir()
    evaluated = cli("runs", "evaluate", "long")
    assert 0.0 < float(evaluated.out) < 10.0
    assert cli("runs", "sample", "long").out.startswith("\n")  # the prompt, and what follows it
    changed = cli("runs", "set", "long", "learning_rate=2e-4", "target_loss=none")
    assert " → 0.0002, target_loss None → None, from step " in changed.err
    assert cli("runs", "set", "long", "batch_size=3").err.startswith("gpt-tui: 'batch_size' cannot be set while")
    assert cli("runs", "set", "long", "learning_rate").code == 2
    lost = cli("runs", "rewind", "long", "999999")
    assert (lost.code, lost.err[:44]) == (1, "gpt-tui: There is no checkpoint of step 9999")
    refused = cli("runs", "remove", "long", "--yes")
    assert refused.code == 1
    assert shown(cli, "long")["state"] == "paused"
    resumed = cli("runs", "resume", "long", "--detach")
    assert (resumed.code, resumed.out) == (0, "long\n")
    wait_for(cli, "long", lambda told: told["step"] > paused["step"])
    assert cli("runs", "rewind", "long").err == f"Goes back to step {paused['step']:,}.\n"
    wait_for(cli, "long", lambda told: told["state"] == "running" and told["step"] > paused["step"])
    assert "is running already" in cli("runs", "resume", "long", "--detach").err
    stopped = cli("runs", "stop", "long")
    assert stopped.code == 0
    assert stopped.err.startswith("Stopped at step ")
    told = shown(cli, "long")
    assert told["state"] == "stopped"
    assert told["checkpoints"][-1]["step"] == told["step"]
    assert cli("runs", "pause", "long").code == 1  # nobody is there to pause it
    assert cli("runs", "resume", "long", "--detach").code == 0
    again = wait_for(cli, "long", lambda now: now["state"] == "running" and now["step"] > told["step"])
    assert again["pid"] != told["pid"]
    cli("runs", "stop", "long")
    assert cli("runs", "remove", "long", "--yes").code == 0


def test_an_interrupt_while_following_saves_and_stops_the_run(cli: Cli, start: Start, story: Path) -> None:
    sets = {"max_steps": 10_000_000, "eval_interval": 1000, "checkpoint_interval": 0}
    process = start(*training(story, **sets), "--name", "long")
    assert process.stderr
    while b"step 1,000 " not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == b"long\n"
    assert b"Saving and stopping." in err
    told = shown(cli, "long")
    assert told["state"] == "stopped"
    assert f"Stopped at step {told['step']:,}" in err.decode()
    assert told["checkpoints"][-1]["step"] == told["step"]


def test_watching_on_a_terminal_redraws_one_line_and_leaving_leaves_the_run_alone(cli: Cli, story: Path) -> None:
    sets = {"max_steps": 10_000_000, "eval_interval": 0, "checkpoint_interval": 0}
    cli(*training(story, **sets), "--name", "long", "--detach")
    watching = pexpect.spawn(
        sys.executable, ["-m", "gpt_tui", "runs", "watch", "long"], encoding="utf-8", timeout=30, dimensions=(24, 100)
    )
    watching.expect(r"\r─+  step [\d,]+/10,000,000  train \d\.\d+  [\d,]+ tok/s  [\d:]+ left\x1b\[K")
    watching.sendintr()
    watching.expect(pexpect.EOF)
    watching.close()
    assert watching.exitstatus == 130
    assert shown(cli, "long")["state"] == "running"
    cli("runs", "stop", "long")


def test_a_run_that_fails_is_told_once_and_exits_with_1(cli: Cli, story: Path) -> None:
    outcome = cli(*training(story, learning_rate=1e30, max_steps=50), "--name", "wild")
    assert outcome.code == 1
    assert outcome.out == ""
    lines = outcome.err.splitlines()
    assert lines[-1].startswith("gpt-tui: Step ")
    assert "not finite 3 steps in a row" in lines[-1]
    assert sum("so training ended" in line for line in lines) == 1
    told = shown(cli, "wild")
    assert told["state"] == "failed"
    assert f"gpt-tui: {told['message']}" == lines[-1]
    assert cli("runs", "watch", "wild").code == 1


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["missing.txt"], 2, "missing.txt"),
        (["empty.txt"], 2, "empty.txt is empty"),
        (["binary.txt"], 2, "binary.txt is not a text file"),
        (["story.txt", "--preset", "gpt-minni"], 2, "Did you mean 'gpt-mini'?"),
        (["story.txt", "--set", "n_layers=2"], 2, "Did you mean 'n_layer'?"),
        (["story.txt", "--set", "n_layer"], 2, "'n_layer' is not of the form key=value"),
        (["story.txt", "--tokenizer", "words"], 2, "There is no tokenizer 'words'"),
        (["story.txt", "--init", "nothing"], 3, "There is no checkpoint 'nothing'"),
        (["story.txt", "--name", "a/b"], 1, "'a/b' cannot be a run's name"),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_it_is_made(
    cli: Cli, story: Path, place: Locations, arguments: list[str], code: int, sentence: str
) -> None:
    Path("empty.txt").touch()
    Path("binary.txt").write_bytes(b"\x00\x01")
    outcome = cli("train", *arguments)
    assert outcome.code == code
    assert sentence in outcome.err
    assert outcome.out == ""
    assert not list(place.runs.glob("*"))


@pytest.mark.parametrize(
    "command", ["show", "watch", "pause", "resume", "stop", "checkpoint", "remove", "sample", "rewind"]
)
def test_a_run_that_is_not_there_is_told_by_every_command(cli: Cli, command: str) -> None:
    outcome = cli("runs", command, "nothing")
    assert outcome.code == 1
    assert outcome.err == "gpt-tui: There is no run 'nothing'. There are no runs yet.\n"


@pytest.mark.parametrize(("answer", "code", "left"), [("n", 1, ["story"]), ("y", 0, [])])
def test_removing_asks_on_a_terminal_and_nowhere_else(
    cli: Cli, story: Path, place: Locations, answer: str, code: int, left: Sequence[str]
) -> None:
    from gpt_tui.new_run import plan_run

    Run.create(place.runs, plan_run([story], "gpt-micro", None, {}, None, None, place).config)
    refused = cli("runs", "remove", "story")
    assert refused.code == 2
    assert "--yes" in refused.err
    terminal = pexpect.spawn(sys.executable, ["-m", "gpt_tui", "runs", "remove", "story"], encoding="utf-8", timeout=20)
    terminal.expect_exact("Delete story (")
    terminal.sendline(answer)
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == code
    assert [run.name for run in place.runs.iterdir()] == list(left)


def test_a_second_interrupt_leaves_the_run_to_itself(start: Start, place: Locations, story: Path) -> None:
    process = start(*training(story, max_steps=10_000_000))
    assert process.stdout
    assert process.stderr
    while b"Training begins" not in process.stderr.readline():
        assert process.poll() is None
    run = Run.open(place.runs, "story")
    pid = run.status().pid
    assert pid
    os.kill(pid, signal.SIGSTOP)  # a worker that is too slow to answer the first one
    process.send_signal(signal.SIGINT)
    while b"Saving and stopping" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert b"Left; the run saves and stops by itself" in process.stderr.read()
    assert process.stdout.read() == b"story\n"
    os.kill(pid, signal.SIGCONT)
    deadline = time.monotonic() + 30
    while run.is_locked():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert run.status().state == "stopped"


def test_a_line_of_progress_fits_the_terminal() -> None:
    status = Status(
        state="running", phase="training", step=250, max_steps=1000, train_loss=2.5, val_loss=2.75,
        tokens_per_second=18400.0, eta_seconds=3725.0,
    )  # fmt: skip
    words = "step 250/1,000  train 2.500  val 2.750  18,400 tok/s  1:02:05 left"
    assert describe(status) == words
    assert progress_line(status, 120) == f"{'█' * 8}{'─' * 22}  {words}"
    assert progress_line(status, 79) == f"{'█' * 3}{'─' * 8}  {words}"
    assert progress_line(status, 60) == words[:60]


def test_what_is_no_number_is_null_in_json() -> None:
    assert to_json({"a": [float("nan"), 1.5], "b": (float("inf"),), "path": Path("x")}) == (
        '{"a": [null, 1.5], "b": [null], "path": "x"}'
    )
