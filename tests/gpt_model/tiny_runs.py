"""What tests of training share: text made from a seed, and runs small enough to train in a second."""

import dataclasses
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpt_model.config import ModelConfig, RunConfig, TrainConfig
from gpt_model.control import Control
from gpt_model.recorder import Recorder
from gpt_model.run_lock import RunLock
from gpt_model.runs import ALIVE, Run, Status

MakeRun = Callable[..., Run]
TrainHere = Callable[..., Status]
Launch = Callable[[Run], int]
WaitUntil = Callable[..., Status]

MODEL = ModelConfig(n_layer=1, n_head=2, n_embd=16, block_size=8, vocab_size=257, dropout=0.1)
TRAIN = TrainConfig(
    batch_size=4, max_steps=20, learning_rate=1e-2, warmup_steps=2, eval_interval=0, eval_batches=4,
    checkpoint_interval=0, sample_interval=0, sample_tokens=8, seed=7, device="cpu", threads=1,
)  # fmt: skip
WORDS = ("the", "a", "king", "fool", "sea", "night", "sings", "burns", "of", "under", "über", "naïve", "夜")


@pytest.fixture(scope="session")
def sentences() -> Callable[[int], str]:
    """Return a maker of texts: n sentences, always the same."""

    def make(count: int) -> str:
        luck = random.Random(3)
        lines = (" ".join(luck.choices(WORDS, k=luck.randint(3, 9))).capitalize() + "." for _ in range(count))
        return "\n".join(lines) + "\n"

    return make


@pytest.fixture
def make_run(tmp_path: Path, sentences: Callable[[int], str]) -> MakeRun:
    """Return a maker of tiny runs on a text file; settings of the model, the training and the run by name."""
    text = tmp_path / "story.txt"
    text.write_text(sentences(60), encoding="utf-8")

    def make(name: str = "tiny", **settings: Any) -> Run:
        def of(config_class: type) -> dict[str, Any]:
            names = {each.name for each in dataclasses.fields(config_class)}
            return {key: value for key, value in settings.items() if key in names}

        model, train = dataclasses.replace(MODEL, **of(ModelConfig)), dataclasses.replace(TRAIN, **of(TrainConfig))
        config = RunConfig(model, train, **{"files": (str(text),)} | of(RunConfig))
        return Run.create(tmp_path / "runs", config, name)

    return make


@pytest.fixture
def train_here() -> TrainHere:
    """Return a trainer of runs in this process, which tells the status in which it ended."""

    def train_it(run: Run) -> Status:
        from gpt_model.training import train

        with RunLock.take(run.directory), Recorder(run) as recorder:
            control = Control(run)
            control.discard_rest()
            train(run, recorder, control)
        return run.status()

    return train_it


@pytest.fixture
def wait_until() -> WaitUntil:
    """Return a waiter for a status that has reached something, or that is the run's last."""

    def wait(run: Run, reached: Callable[[Status], bool], seconds: float = 60) -> Status:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            status = run.status()
            if reached(status) or status.state not in ALIVE:
                return status
            time.sleep(0.02)
        raise AssertionError(f"not reached in {seconds} s: {run.status()}, {(run.directory / 'log.txt').read_text()}")

    return wait


@pytest.fixture
def launch(wait_until: WaitUntil) -> Iterator[Launch]:
    """Return a launcher that waits until the worker trains and returns its pid; no worker outlives the test."""
    launched: list[Run] = []

    def start(run: Run) -> int:
        run.launch()
        launched.append(run)
        status = wait_until(run, lambda status: status.state == "running" and status.step > 0)
        assert status.state == "running", status
        return status.pid or 0

    yield start
    for run in launched:
        status = run.status()
        if status.state in ALIVE and status.pid:
            os.kill(status.pid, signal.SIGKILL)
