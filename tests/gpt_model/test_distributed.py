"""Two processes that train one run: the same as one, as exact, and ended cleanly when one of them is lost."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from run_facts import kinds, weights_hash

from gpt_model.runs import Run, Status

pytest_plugins = ["tiny_runs"]

MakeRun = Callable[..., Run]
TrainHere = Callable[..., Status]
Launch = Callable[[Run], int]
WaitUntil = Callable[..., Status]

TWO = {"processes": 2, "batch_size": 5, "micro_batch_size": 2, "checkpoint_interval": 10, "keep_checkpoints": 0}
"""Batches that two processes cannot share evenly, in parts of which the last is a short one."""


def losses(run: Run) -> list[tuple[int, float, float]]:
    metrics = run.read_metrics()[0]
    return [(each["step"], each["train_loss"], each["grad_norm"]) for each in metrics if "train_loss" in each]


def train_apart(run: Run, wait_until: WaitUntil, processes: int | None = None) -> Status:
    run.launch(processes)
    return wait_until(run, lambda status: False)


def follower_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def wait_for_the_end(pid: int) -> None:
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_two_processes_with_half_the_batch_follow_one_with_the_whole(
    make_run: MakeRun, train_here: TrainHere, wait_until: WaitUntil, optimizer: str
) -> None:
    settings: dict[str, Any] = TWO | {"max_steps": 100, "dropout": 0.0, "optimizer": optimizer, "ema_decay": 0.9}
    one, two = make_run("one", **settings | {"processes": 1}), make_run("two", **settings)
    train_here(one)
    status = train_apart(two, wait_until)
    assert status.state == "finished", (status.message, (two.directory / "log.txt").read_text())
    alone, together = torch.tensor(losses(one)), torch.tensor(losses(two))
    assert torch.equal(alone[:, 0], together[:, 0])
    assert (together[:, 1] / alone[:, 1] - 1).abs().max() < 1e-4
    assert (together[:, 2] / alone[:, 2] - 1).abs().max() < 1e-2
    assert status.best_val_loss == pytest.approx(one.status().best_val_loss or 0, rel=1e-4)
    assert "in each of 2 processes" in two.read_events()[0][0]["message"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the weights of a run that nobody killed, once there is one."""
    return {}


@pytest.mark.parametrize("lost", ["leader", "follower"])
def test_when_a_process_is_lost_the_run_ends_and_resumes_exactly(
    make_run: MakeRun, launch: Launch, wait_until: WaitUntil, undisturbed: dict[str, str], lost: str
) -> None:
    settings: dict[str, Any] = TWO | {"max_steps": 250, "dropout": 0.2, "checkpoint_interval": 20}
    if not undisturbed:
        straight = make_run("straight", **settings)
        assert train_apart(straight, wait_until).state == "finished"
        undisturbed["weights"] = weights_hash(straight)
    run = make_run(**settings)
    pid = launch(run)
    wait_until(run, lambda status: len(run.checkpoints()) > 1)
    follower = follower_of(pid)
    os.kill(pid if lost == "leader" else follower, signal.SIGKILL)
    status = wait_until(run, lambda status: False, seconds=20)
    if lost == "follower":
        assert status.state == "failed"
        assert status.message.startswith("Another process of this run was lost, so this one ends too. Resume the run")
    else:
        assert status.state == "lost"
    wait_for_the_end(follower)
    assert train_apart(run, wait_until).state == "finished"
    assert weights_hash(run) == undisturbed["weights"]
    assert run.status().exactness == "EXACT"
    steps = [step for step, _, _ in losses(run)]
    assert steps == list(range(1, 251))


def test_a_stop_ends_both_and_another_number_of_processes_goes_on_approximately(
    make_run: MakeRun, launch: Launch, wait_until: WaitUntil
) -> None:
    run = make_run(**TWO, max_steps=100_000, schedule="constant")
    follower = follower_of(launch(run))
    wait_until(run, lambda status: status.step > 20)
    run.send("pause")
    assert wait_until(run, lambda status: status.state == "paused").state == "paused"
    run.send("resume")
    run.send("set", max_steps=run.status().step + 200)
    run.send("stop")
    status = wait_until(run, lambda status: False)
    assert status.state == "stopped", status.message
    wait_for_the_end(follower)
    assert run.checkpoints()[-1].step == status.step
    assert train_apart(run, wait_until, processes=1).state == "finished"
    assert run.status().exactness.startswith("APPROXIMATE: processes 2→1")
    assert "fail" not in kinds(run)


def test_more_processes_than_sequences_are_refused(make_run: MakeRun, wait_until: WaitUntil) -> None:
    status = train_apart(make_run(**TWO | {"batch_size": 1}), wait_until)
    assert status.state == "failed"
    assert status.message.startswith("batch_size = 1: 2 processes need at least a sequence each.")
