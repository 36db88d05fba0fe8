"""What is set, and where it is gone back to, while nobody trains: noted for the next worker, who obeys it."""

import re
from collections.abc import Callable

import pytest
from interference import Killed, kill_at, send_at
from run_facts import kinds, steps_of, weights_hash
from test_damage import turn_a_byte

from gpt_model.amending import amend
from gpt_model.config import TrainConfig
from gpt_model.edits import Edit, find_edits, settings_after
from gpt_model.errors import ConfigError, DataError, RunError
from gpt_model.run_lock import RunLock
from gpt_model.runs import Run, Status

pytest_plugins = ["tiny_runs"]

MakeRun = Callable[..., Run]
TrainHere = Callable[..., Status]


def test_a_finished_run_whose_end_is_moved_goes_on_as_if_it_had_never_ended(
    make_run: MakeRun, train_here: TrainHere
) -> None:
    straight = make_run("straight", schedule="constant", dropout=0.3)
    run = make_run("moved", schedule="constant", dropout=0.3, max_steps=7)
    train_here(straight)
    assert train_here(run).state == "finished"
    assert amend(run, "set", {"max_steps": 20}) == "max_steps 7 → 20, from step 8 on, when the run is resumed."
    status = run.status()
    assert (status.state, status.step, status.max_steps) == ("stopped", 7, 20)
    assert train_here(run).step == 20
    assert weights_hash(run) == weights_hash(straight)
    assert train_here(run).state == "finished"  # and what was set holds for good


def test_what_is_set_on_a_run_that_never_began_holds_from_its_first_step(
    make_run: MakeRun, train_here: TrainHere
) -> None:
    run = make_run()
    amend(run, "set", {"max_steps": 3})
    assert train_here(run).step == 3


def test_what_is_set_after_a_death_counts_before_what_was_set_earlier_for_later_steps(
    make_run: MakeRun, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(checkpoint_interval=5, schedule="constant", warmup_steps=0)
    with monkeypatch.context() as patch:
        send_at(patch, run, 6, ("set", {"learning_rate": 1e38, "grad_clip": 0.5}))
        kill_at(patch, 8)
        with pytest.raises(Killed):
            train_here(run)
    assert run.status().state == "lost"
    told = amend(run, "set", {"learning_rate": 0.02})
    assert told == "learning_rate 1e+38 → 0.02, from step 6 on, when the run is resumed."
    assert run.status().state == "lost"
    assert train_here(run).learning_rate == 0.02
    rates = {record["step"]: record["learning_rate"] for record in run.read_metrics()[0] if "learning_rate" in record}
    assert [rates[step] for step in (5, 6, 8, 20)] == [0.01, 0.02, 0.02, 0.02]
    assert settings_after(run.config.train, run.read_events()[0]).grad_clip == 0.5


def test_edits_at_rest_make_void_only_what_they_set_themselves() -> None:
    events = [
        {"kind": "edit", "step": 3, "settings": {"learning_rate": 1.0}},
        {"kind": "edit", "step": 8, "settings": {"learning_rate": 2.0, "grad_clip": 2.0}},
        {"kind": "edit", "step": 9, "settings": {"learning_rate": 3.0}},
        {"kind": "edit", "step": 5, "settings": {"learning_rate": 4.0}, "at_rest": True},
    ]
    assert find_edits(events) == [
        Edit(3, {"learning_rate": 1.0}), Edit(5, {"learning_rate": 4.0}), Edit(8, {"grad_clip": 2.0}),
    ]  # fmt: skip
    assert settings_after(TrainConfig(), events).learning_rate == 4.0


def test_a_run_at_rest_goes_back_and_trains_on_from_there(make_run: MakeRun, train_here: TrainHere) -> None:
    run = make_run(checkpoint_interval=5, keep_checkpoints=0)
    train_here(run)
    expected = weights_hash(run)
    assert amend(run, "rewind", {"step": 10}) == "Went back to step 10; resuming goes on from there."
    assert steps_of(run) == [5, 10]
    status = run.status()
    assert (status.state, status.step, status.best_step) == ("stopped", 10, None)
    assert train_here(run).state == "finished"
    assert weights_hash(run) == expected
    with pytest.raises(RunError, match=r"no checkpoint of step 7. There are: 5, 10, 15, 20"):
        amend(run, "rewind", {"step": 7})
    turn_a_byte(run.checkpoint_path("15") / "model.safetensors", 0.5)
    with pytest.raises(RunError, match=r"is damaged: .*Others to go back to: 5, 10, 20\."):
        amend(run, "rewind", {"step": 15})
    assert steps_of(run) == [5, 10, 15, 20]


def test_what_cannot_be_set_is_refused(make_run: MakeRun, train_here: TrainHere) -> None:
    run = make_run(val_fraction=1e-9, val_split="tail", max_steps=2)
    with pytest.raises(ConfigError, match="cannot be set while"):
        amend(run, "set", {"batch_size": 3})
    with RunLock.take(run.directory), pytest.raises(RunError, match="is running already"):
        amend(run, "set", {"max_steps": 3})
    assert kinds(run) == []
    train_here(run)
    amend(run, "set", {"target_loss": 1.0, "target_metric": "val", "max_steps": 4})
    with pytest.raises(DataError, match="holds no text here"):  # which only a worker knows
        train_here(run)
    assert re.search("target_metric val → train", amend(run, "set", {"target_metric": "train"}))
    assert train_here(run).step == 4
