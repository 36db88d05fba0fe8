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

from gpt_model import parallel_update
from gpt_model.architectures import build_model
from gpt_model.config import ModelConfig, TrainConfig
from gpt_model.distributed import Company
from gpt_model.errors import ConfigError
from gpt_model.following import build_updater
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


@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [
        ("adamw", {"ema_decay": 0.9}),
        ("muon", {"sharding": "shard", "batch_size": 6}),
    ],
)
def test_two_processes_with_half_the_batch_follow_one_with_the_whole(
    make_run: MakeRun, train_here: TrainHere, wait_until: WaitUntil, optimizer: str, settings: dict[str, Any]
) -> None:
    settings = TWO | {"max_steps": 100, "dropout": 0.0, "optimizer": optimizer} | settings
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
    assert "Fatal" not in (two.directory / "log.txt").read_text()


@pytest.mark.parametrize(
    ("lost", "settings"), [("leader", {"ema_decay": 0.9}), ("follower", {"sharding": "shard", "batch_size": 6})]
)
def test_when_a_process_is_lost_the_run_ends_and_resumes_exactly(
    make_run: MakeRun, launch: Launch, wait_until: WaitUntil, lost: str, settings: dict[str, Any]
) -> None:
    settings = TWO | {"max_steps": 60, "dropout": 0.2} | settings
    straight = make_run("straight", **settings)
    assert train_apart(straight, wait_until).state == "finished"
    run = make_run(**settings)
    pid = launch(run)
    wait_until(run, lambda status: bool(run.checkpoints()))
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
    assert weights_hash(run) == weights_hash(straight)
    assert run.status().exactness == "EXACT"
    steps = [step for step, _, _ in losses(run)]
    assert steps == list(range(1, 61))


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


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"batch_size": 1}, "batch_size = 1: 2 processes need at least a sequence each."),
        ({"sharding": "shard"}, "batch_size = 5: 2 processes that have a part of the model each"),
        (
            {"sharding": "shard", "batch_size": 6, "ema_decay": 0.9},
            "ema_decay = 0.9: a model that is divided among processes",
        ),
    ],
)
def test_what_several_processes_cannot_have_is_refused(settings: dict[str, Any], sentence: str) -> None:
    model = build_model(ModelConfig(n_layer=1, n_head=1, n_embd=8, block_size=4, vocab_size=9))
    with pytest.raises(ConfigError, match=f"^{sentence}"):
        build_updater(model, TrainConfig(**TWO | settings), Company(rank=0, size=2))


def test_threads_are_shared_once_however_often_a_run_goes_back() -> None:
    before = torch.get_num_threads()
    company = Company(local_size=2, machine_threads=4)
    try:
        for _ in range(3):
            company.share_threads(0)
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_all_compute_in_the_precision_that_pays_for_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    class Told(Exception):
        pass

    class Alone(Company):
        def tell(self, what: str, *arguments: Any) -> None:
            raise Told(arguments[1].precision)

    model = build_model(ModelConfig(n_layer=1, n_head=1, n_embd=8, block_size=4, vocab_size=9))
    for dtype, name in ((torch.bfloat16, "bfloat16"), (None, "float32")):
        monkeypatch.setattr(parallel_update, "autocast_dtype", lambda *about, dtype=dtype: dtype)
        with pytest.raises(Told, match=name):
            build_updater(model, TrainConfig(**TWO), Alone(rank=0, size=2))
