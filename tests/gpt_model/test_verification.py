"""A verified run: its steps are made again, its edits too, and nothing of it is touched."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from interference import send_at

from gpt_model.checkpoint import load_model_and_tokenizer, load_training_state, save_checkpoint
from gpt_model.errors import DataError, RunError
from gpt_model.run_lock import RunLock
from gpt_model.runs import Run, Status
from gpt_model.verification import _as_it_was, verify

pytest_plugins = ["tiny_runs"]

MakeRun = Callable[..., Run]
TrainHere = Callable[..., Status]

SAVING = {"checkpoint_interval": 5, "eval_interval": 5, "keep_checkpoints": 0, "ema_decay": 0.9}


def files_of(run: Run) -> dict[Path, str]:
    """Hash every file of a run except the lock, which says who held it last."""
    files = (file for file in run.directory.rglob("*") if file.is_file() and file.name != "lock")
    return {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_steps_made_again_give_the_same_weights_and_touch_nothing(
    make_run: MakeRun, train_here: TrainHere, optimizer: str
) -> None:
    run = make_run(optimizer=optimizer, **SAVING)
    train_here(run)
    before, seen = files_of(run), []
    found = verify(run, on_step=lambda step, last: seen.append((step, last)))
    assert (found.first, found.last, found.same, str(found.exactness)) == (15, 20, True, "EXACT")
    assert seen == [(step, 20) for step in range(15, 21)]
    earlier = verify(run, from_step=5)
    assert (earlier.first, earlier.last, earlier.same) == (5, 10, True)
    assert earlier.found != found.found
    assert files_of(run) == before


def test_edits_between_the_two_checkpoints_are_made_again(
    make_run: MakeRun, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(**SAVING)
    with monkeypatch.context() as patch:
        send_at(patch, run, 16, ("set", {"learning_rate": 0.5}))
        train_here(run)
    assert verify(run).same
    journal = run.directory / "events.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    edit = next(line for line in lines if '"learning_rate": 0.5' in line)
    journal.write_text("".join(lines).replace(edit, " " * (len(edit) - 1) + "\n"))  # without it, it is another run
    assert not verify(run).same


def test_weights_that_were_not_trained_so_are_found_out(make_run: MakeRun, train_here: TrainHere) -> None:
    run = make_run(**SAVING)
    train_here(run)
    last = run.checkpoint_path("last")
    (model, tokenizer), state = load_model_and_tokenizer(last), load_training_state(last)
    with torch.no_grad():
        model.wpe.weight[0, 0] += 1e-6
    last.rename(last.with_name("aside"))
    save_checkpoint(last, model, tokenizer, state)
    found = verify(run)
    assert not found.same
    assert found.exactness.exact
    assert found.same_state


def test_threads_are_as_many_as_they_were_and_others_are_told(
    make_run: MakeRun, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(**SAVING | {"threads": 2})
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    try:
        train_here(run)
        text = (run.directory / "config.toml").read_text()
        (run.directory / "config.toml").write_text(text.replace("threads = 2", "threads = 1"))
        run = Run.at(run.directory)
        assert str(verify(run).exactness) == "EXACT"
        monkeypatch.setattr("os.cpu_count", lambda: 1)
        assert str(verify(run).exactness) == "APPROXIMATE: threads 2→1"
    finally:
        torch.set_num_threads(1)


def test_as_many_processes_as_it_was_make_the_steps_again(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert _as_it_was(run, {"device": "cpu", "processes": "4", "threads": "2"}) == (4, 2)
    assert _as_it_was(run, {"device": "cpu", "processes": "4", "threads": "3"}) == (1, 1)
    assert _as_it_was(run, {"device": "cpu"}) == (1, 1)  # an older checkpoint does not tell


def test_damaged_tokens_are_told_and_left_as_they_are(make_run: MakeRun, train_here: TrainHere) -> None:
    run = make_run(**SAVING)
    train_here(run)
    file = run.directory / "data" / "train.bin"
    data = bytearray(file.read_bytes())
    data[10] ^= 1
    file.write_bytes(data)
    before = files_of(run)
    with pytest.raises(DataError, match=r"/tiny/data/train.bin is damaged: .* Resuming the run makes it again"):
        verify(run)
    assert files_of(run) == before


def test_what_cannot_be_verified_is_refused(make_run: MakeRun, train_here: TrainHere) -> None:
    run = make_run()
    train_here(run)
    with pytest.raises(RunError, match=r"takes two checkpoints.*it has: 20"):
        verify(run)
    with RunLock.take(run.directory), pytest.raises(RunError, match="is running already"):
        verify(run)
    more = make_run("more", **SAVING)
    train_here(more)
    with pytest.raises(RunError, match="No later checkpoint follows one of step 20"):
        verify(more, from_step=20)
