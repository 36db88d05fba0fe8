"""A harness that kills workers: real training, SIGKILL at random instants, and what must hold after every one.

python tests/gpt_model/kill_harness.py [--kills 300] [--processes 1] [--seed 1] [--directory DIR]

A parent with torch imported forks the workers, so that a launch costs milliseconds; every twentieth is launched as
users launch it. Runs go on until they finish; then the next is begun, with AdamW and Muon in turn. After every kill:

    every committed checkpoint loads and is whole; the newest is not older than before the kill
    the run is told to be lost, and the next launch goes on from the newest checkpoint

and when a run has finished: metrics of every step once, evaluations and samples where they are due, no directory left
over, and the weights, optimizer and random state of a run that nobody disturbed. Prints a summary as JSON.
"""

import argparse
import collections
import contextlib
import dataclasses
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # which the first optimizer would import, in every fork

from gpt_model import control, training, worker
from gpt_model.checkpoint import load_model_and_tokenizer, load_training_state
from gpt_model.config import ModelConfig, RunConfig, TrainConfig
from gpt_model.runs import Run
from gpt_model.update import Updater

STEPS = 120
EDIT_AT, EDIT = 52, {"learning_rate": 4e-3, "grad_clip": 0.5}
"""After so many updates somebody sends an edit, once. Nothing is due at the step at which it is carried out."""
MODEL = ModelConfig(n_layer=2, n_head=2, n_embd=32, block_size=16, vocab_size=257, dropout=0.1)
TRAIN = TrainConfig(
    batch_size=4, max_steps=STEPS, learning_rate=1e-2, warmup_steps=5, eval_interval=7, eval_batches=2,
    checkpoint_interval=5, keep_checkpoints=2, sample_interval=9, sample_tokens=12, sample_prompt="the ", seed=11,
    ema_decay=0.9, micro_batch_size=3, device="cpu", threads=1,
)  # fmt: skip
TEXT = "".join(
    f"Line {number}: the king of {number % 7} seas sings of {number % 11} nights.\n" for number in range(900)
)
LIMIT_SECONDS = 60.0
"""No launch takes so long."""


class Harness:
    """Runs, their deaths and what was found after each."""

    sends_edit = True
    """Whether somebody changes settings while a run is running."""

    def __init__(self, directory: Path, seed: int, processes: int = 1) -> None:
        self.directory, self.luck = directory, random.Random(seed)
        self.runs = directory / "runs"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "text.txt").write_text(TEXT, encoding="utf-8")
        self.processes = processes
        """That train a run; one of them is killed, and the others are to end by themselves."""
        self.kills = 0
        self.moments: collections.Counter[str] = collections.Counter()
        """At what the kills fell, as far as the files show it."""
        self.victims: collections.Counter[str] = collections.Counter()
        """Of several processes, which was killed."""
        self.launches = 0
        self._real_launch_is_due = False
        self.finished: list[str] = []
        self._undisturbed: dict[str, Run] = {}

    def kill(self, kills: int) -> None:
        """Go on until so many workers were killed and the last run has finished."""
        while self.kills < kills or len(self.finished) < 2:
            optimizer = ("adamw", "muon")[len(self.finished) % 2]
            if optimizer not in self._undisturbed:
                self._undisturbed[optimizer] = self.train_undisturbed(optimizer)
            run = self.create(f"killed-{len(self.finished)}", optimizer)
            self._kill_until_finished(run, kills)
            self._compare_records(run, self._undisturbed[optimizer])
            self.compare_weights(run, self._undisturbed[optimizer])
            self.finished.append(optimizer)

    def train_undisturbed(self, optimizer: str) -> Run:
        """Return a finished run that nobody killed."""
        run = self.create(f"straight-{optimizer}", optimizer)
        wait_for(self.fork(run), LIMIT_SECONDS)
        check(run.status().state == "finished", run, f"the undisturbed run ended: {run.status().message}")
        return run

    def create(self, name: str, optimizer: str) -> Run:
        train = dataclasses.replace(TRAIN, optimizer=optimizer, processes=self.processes)  # type: ignore[arg-type]
        config = RunConfig(MODEL, train, files=(str(self.directory / "text.txt"),))
        return Run.create(self.runs, config, name)

    def _kill_until_finished(self, run: Run, kills: int) -> None:
        newest, resumes = 0, 0
        while run.status().state != "finished":
            self.launches += 1
            self._real_launch_is_due |= self.launches % 20 == 0
            real = self._real_launch_is_due and _is_edited(run)  # a real one does not send the edit
            self._real_launch_is_due &= not real
            may_live = self.kills >= kills
            # From the very start of a launch to some steps beyond the next checkpoints.
            longest = 5.0 if self.processes > 1 else 4.0 if real else 0.5
            patience = LIMIT_SECONDS if may_live else self.luck.uniform(0.0, longest)
            if real:
                run.launch()
                pid = int(json.loads((run.directory / "lock").read_bytes())["pid"])
            else:
                pid = self.fork(run)
            if self.processes > 1 and not real:
                self._kill_one(run, pid, patience)
            else:
                wait_for(pid, patience, is_child=not real)
            status = run.status()
            ends = ("lost", "finished", "failed") if self.processes > 1 else ("lost", "finished")
            check(status.state in ends or (status.state == "stopped" and not status.step), run,
                  f"after a kill the state is {status.state}: {status.message}")  # fmt: skip
            if status.state != "finished":
                self.kills += 1
                self.moments[_moment(run)] += 1
            saved = run.checkpoints()
            for each in saved:
                load_model_and_tokenizer(each.path)
                load_training_state(each.path)
            resumed = [event["step"] for event in run.read_events()[0] if event["kind"] == "resume"]
            if len(resumed) > resumes:
                check(resumed[-1] == newest, run, f"resumed from {resumed[-1]}, but {newest} was committed")
            resumes = len(resumed)
            reached = max((each.step for each in saved), default=0)
            check(reached >= newest, run, f"the newest checkpoint went back from {newest} to {reached}")
            newest = reached

    def _kill_one(self, run: Run, leader: int, patience: float) -> None:
        """Kill the leader or a follower after a while; see that all others end then."""
        if has_ended(leader, patience):
            return
        followers = [int(word) for word in Path(f"/proc/{leader}/task/{leader}/children").read_text().split()]
        victim = self.luck.choice([leader, *followers])
        os.kill(victim, signal.SIGKILL)
        self.victims["leader" if victim == leader else "follower"] += 1
        if victim == leader:
            os.waitpid(leader, 0)
        else:
            check(has_ended(leader, 30.0), run, "the leader did not end after a follower was killed")
        for follower in followers:
            check(has_ended(follower, 30.0, is_child=False), run, "a follower did not end after another was killed")

    def _compare_records(self, run: Run, straight: Run) -> None:
        """Hold what a finished run has told against what the undisturbed one has."""
        for each in (run, straight):
            metrics = each.read_metrics()[0]
            trained = [record["step"] for record in metrics if "train_loss" in record]
            check(trained == list(range(1, STEPS + 1)), each, f"metrics of the steps {trained}")
            evaluated = [record["step"] for record in metrics if "val_loss" in record]
            due = sorted({*range(7, STEPS + 1, 7), STEPS})
            check(evaluated == due, each, f"evaluated at {evaluated}")
            left = [path.name for path in (each.directory / "checkpoints").glob(".*")]
            check(not left, each, f"left over: {left}")
        losses = [
            [(record["step"], record.get("train_loss"), record.get("val_loss")) for record in each.read_metrics()[0]
             if not record.get("resumed")] for each in (run, straight)
        ]  # fmt: skip
        check(losses[0] == losses[1], run, "its losses differ")
        texts = [{(each["step"], each["text"]) for each in one.read_samples()[0]} for one in (run, straight)]
        check(texts[0] <= texts[1], run, "its samples differ")

    def compare_weights(self, run: Run, straight: Run) -> None:
        """Hold what a finished run has learned against what the undisturbed one has."""
        states = [load_training_state(each.checkpoint_path("last")) for each in (run, straight)]
        check(same(states[0]["updater"], states[1]["updater"]), run, "the optimizer's or random state differs")
        check(states[0]["settings"] == states[1]["settings"], run, "its settings differ")
        weights = [(each.checkpoint_path("last") / "model.safetensors").read_bytes() for each in (run, straight)]
        check(weights[0] == weights[1], run, "its weights differ")

    def fork(self, run: Run) -> int:
        """Start a worker by forking; return its pid."""
        pid = os.fork()
        if pid:
            return pid
        try:
            os.setsid()
            log = self.open_log(run)
            os.dup2(log, 1)
            os.dup2(log, 2)
            if self.sends_edit:
                _send_edit(run)
            os._exit(worker.main([str(run.directory)]))
        finally:
            os._exit(70)

    def open_log(self, run: Run) -> int:
        """Open what a worker prints into."""
        return os.open(self.directory / "workers.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def _send_edit(run: Run) -> None:
    """Have this process send the edit while the update after EDIT_AT updates is made, unless it was carried out."""
    control.POLL_SECONDS = 0.0
    update = Updater.update

    def update_and_send(self: Updater, batch: Any, step: int, settings: TrainConfig) -> Any:
        if step == EDIT_AT and not _is_edited(run):
            run.send("set", **EDIT)
        return update(self, batch, step, settings)

    Updater.update = update_and_send  # type: ignore[method-assign]


def _is_edited(run: Run) -> bool:
    return any(event["kind"] == "edit" for event in run.read_events()[0])


def _moment(run: Run) -> str:
    """Return what a dead worker was at."""
    checkpoints = run.directory / "checkpoints"
    if next(checkpoints.glob(".tmp-*"), None):
        return "writing a checkpoint"
    if next(checkpoints.glob(".gone-*"), None):
        return "deleting a checkpoint"
    if not (run.directory / "data" / "data.json").exists():
        return "before the data was ready"
    resumes = [event["kind"] in ("start", "resume") for event in run.read_events()[0]]
    return "starting" if not resumes or resumes[-1] else "training, evaluating or sampling"


def wait_for(pid: int, seconds: float, is_child: bool = True) -> None:
    """Wait for a process to end; after so many seconds kill it."""
    if has_ended(pid, seconds, is_child):
        return
    with_children = os.getpgid(pid) == pid
    (os.killpg if with_children else os.kill)(pid, signal.SIGKILL)
    if is_child:
        os.waitpid(pid, 0)
    while not is_child and _exists(pid):
        time.sleep(0.001)


def has_ended(pid: int, seconds: float, is_child: bool = True) -> bool:
    """Wait for a process for so many seconds; return whether it ended. A child that did is gone then."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if os.waitpid(pid, os.WNOHANG)[0] if is_child else not _exists(pid):
            return True
        time.sleep(0.0005)
    return False


def _exists(pid: int) -> bool:
    """Whether a process has any thread left; the first may be dead before the others have let go of the files."""
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            if (task / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                return True
    return False


def same(one: Any, other: Any) -> bool:
    """Whether nested values are the same, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def check(holds: bool, run: Run, what: str) -> None:
    """End the harness with the truth when something does not hold."""
    if not holds:
        sys.exit(f"{run.directory}: {what}")


def main() -> None:
    """Kill workers and tell what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--processes", type=int, default=1, help="That train a run; one of them is killed.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--directory", type=Path, help="An empty directory; one that is deleted afterwards if not given."
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    assert training.train  # imported before the first fork
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kills-") as temporary:
        harness = Harness(options.directory or Path(temporary), options.seed, options.processes)
        harness.kill(options.kills)
    print(json.dumps({
        "kills": harness.kills, "launches": harness.launches, "finished": harness.finished,
        "moments": dict(harness.moments.most_common()), "victims": dict(harness.victims),
        "seconds": round(time.monotonic() - began),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
