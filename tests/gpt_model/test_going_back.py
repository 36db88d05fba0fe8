"""Going back: edits made again after a kill, rewinding by command and by itself, and what readers see of it."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from interference import Killed, kill_at, send_at
from run_facts import kinds, steps_of, weights_hash

from gpt_model.config import TrainConfig
from gpt_model.control import Control
from gpt_model.edits import Edit, find_edits
from gpt_model.errors import RunError
from gpt_model.loss_watch import LossWatch
from gpt_model.runs import Run, Status, extend_metrics
from gpt_model.update import Updater

pytest_plugins = ["tiny_runs"]

MakeRun = Callable[..., Run]
TrainHere = Callable[..., Status]

EDITS = {6: {"learning_rate": 0.05}, 8: {"grad_clip": 0.1, "weight_decay": 0.5}, 13: {"learning_rate": 0.001}}


def edited(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    for step, changes in EDITS.items():
        send_at(monkeypatch, run, step, ("set", changes))


def train_steps(run: Run) -> list[int]:
    return [record["step"] for record in run.read_metrics()[0] if "train_loss" in record]


@pytest.mark.parametrize("deaths", [(8,), (11,), (16, 18, 17)])
def test_edits_after_the_last_checkpoint_are_made_again_at_the_same_steps(
    make_run: MakeRun, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch, deaths: tuple[int, ...]
) -> None:
    settings: dict[str, Any] = {"dropout": 0.3, "checkpoint_interval": 5, "eval_interval": 4}
    straight, killed = make_run("straight", **settings), make_run("killed", **settings)
    with monkeypatch.context() as patch:
        edited(patch, straight)
        train_here(straight)
    told: set[int] = set()
    for death in deaths:
        with monkeypatch.context() as patch:
            for step, changes in EDITS.items():
                if step not in told and step < death:
                    send_at(patch, killed, step, ("set", changes))
                    told.add(step)
            kill_at(patch, death)
            with pytest.raises(Killed):
                train_here(killed)
    with monkeypatch.context() as patch:
        for step, changes in EDITS.items():
            if step not in told:
                send_at(patch, killed, step, ("set", changes))
        assert train_here(killed).state == "finished"
    assert weights_hash(killed) == weights_hash(straight)
    assert train_steps(killed) == train_steps(straight) == list(range(1, 21))


def test_an_edit_made_again_is_told(make_run: MakeRun, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(checkpoint_interval=5)
    with monkeypatch.context() as patch:
        send_at(patch, run, 6, ("set", {"target_loss": 0.001}))
        kill_at(patch, 8)
        with pytest.raises(Killed):
            train_here(run)
    assert train_here(run).step == 20
    messages = [event["message"] for event in run.read_events()[0] if event["kind"] in ("edit", "resume")]
    assert messages[-2:] == [
        "Set after that checkpoint, and to be set again: target_loss at step 7.",
        "Set again, as before the resume: target_loss None → 0.001.",
    ]


def test_what_was_set_on_steps_that_were_given_up_is_void() -> None:
    events = [
        {"kind": "edit", "step": 12, "settings": {"learning_rate": 1.0}},
        {"kind": "edit", "step": 11, "message": "Set again."},
        {"kind": "edit", "step": 17, "settings": {"grad_clip": 2.0}},
        {"kind": "rewind", "step": 19, "to": 15},
        {"kind": "edit", "step": 15, "settings": {"grad_clip": 3.0}},
        {"kind": "edit", "step": 12, "settings": {"learning_rate": 4.0}},
    ]
    assert find_edits(events) == [
        Edit(12, {"learning_rate": 1.0}), Edit(12, {"learning_rate": 4.0}), Edit(15, {"grad_clip": 3.0}),
    ]  # fmt: skip


def test_a_run_goes_back_when_it_is_told_to_and_its_steps_are_trained_again(
    make_run: MakeRun, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"dropout": 0.3, "checkpoint_interval": 5, "keep_checkpoints": 0, "eval_interval": 5}
    straight, run = make_run("straight", **settings), make_run("back", **settings)
    train_here(straight)
    sent: list[int] = []
    update = Updater.update

    def update_once(self: Updater, batch: Any, at: int, train: TrainConfig) -> Any:
        if at == 16 and not sent:
            sent.append(at)
            run.send("set", learning_rate=0.5)
            run.send("rewind", step=10)
        return update(self, batch, at, train)

    with monkeypatch.context() as patch:
        patch.setattr("gpt_model.control.POLL_SECONDS", 0.0)
        patch.setattr(Updater, "update", update_once)
        assert train_here(run).state == "finished"
    assert weights_hash(run) == weights_hash(straight)  # the edit belonged to the steps that were given up
    assert train_steps(run) == list(range(1, 21))
    assert [record["step"] for record in run.read_metrics()[0] if "val_loss" in record] == [5, 10, 15, 20]
    assert steps_of(run) == [5, 10, 15, 20]
    left = [path.name for path in (run.directory / "checkpoints").glob("left-*")]
    assert len(left) == 1  # all is kept here
    assert left[0].startswith("left-00000015-")
    assert "Went back from step 17 to step 10." in [event["message"] for event in run.read_events()[0]]


def test_a_reader_who_followed_sees_what_a_fresh_reader_sees(
    make_run: MakeRun, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(checkpoint_interval=5)
    followed: list[dict[str, Any]] = []
    offset = 0
    for death in (8, 12, 13):
        with monkeypatch.context() as patch:
            kill_at(patch, death)
            with pytest.raises(Killed):
                train_here(run)
        new, offset = run.read_metrics(offset)
        extend_metrics(followed, new)
    train_here(run)
    new, offset = run.read_metrics(offset)
    extend_metrics(followed, new)
    assert followed == run.read_metrics()[0]


def test_what_was_left_is_deleted_when_training_has_come_as_far_again(
    make_run: MakeRun, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(checkpoint_interval=5, keep_checkpoints=3)
    sent: list[int] = []
    update = Updater.update

    def update_once(self: Updater, batch: Any, at: int, train: TrainConfig) -> Any:
        if at == 16 and not sent:
            sent.append(at)
            run.send("rewind", step=10)
        if at == 13 and sent:
            assert list((run.directory / "checkpoints").glob("left-*"))
        return update(self, batch, at, train)

    monkeypatch.setattr("gpt_model.control.POLL_SECONDS", 0.0)
    monkeypatch.setattr(Updater, "update", update_once)
    train_here(run)
    assert not list((run.directory / "checkpoints").glob("left-*"))
    assert steps_of(run) == [10, 15, 20]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "There is no checkpoint yet"),
        ({"step": 7}, "There is no checkpoint of step 7. There are: 2."),
    ],
)
def test_a_run_goes_back_to_no_step_that_was_not_saved(
    make_run: MakeRun,
    train_here: TrainHere,
    monkeypatch: pytest.MonkeyPatch,
    arguments: dict[str, Any],
    sentence: str,
) -> None:
    run = make_run(max_steps=5)
    send_at(monkeypatch, run, 1, *([("checkpoint", {})] if arguments else []))
    send_at(monkeypatch, run, 3, ("rewind", arguments))
    assert train_here(run).state == "finished"
    answers = [run.acknowledgement(path.name[:27]) for path in sorted((run.directory / "commands").glob("*.ack.json"))]
    assert answers[-1] is not None
    assert not answers[-1].ok
    assert sentence in answers[-1].message


def test_only_a_step_can_be_gone_back_to(make_run: MakeRun) -> None:
    run = make_run()
    for arguments in ({"step": -1}, {"step": "ten"}, {"to": 3}):
        with pytest.raises(RunError, match=r"a whole number|takes no arguments"):
            run.send("rewind", **arguments)


def test_an_evaluation_by_command_saves_what_it_finds_best(
    make_run: MakeRun, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(max_steps=8)
    send_at(monkeypatch, run, 3, ("evaluate", {}), ("evaluate", {}))
    train_here(run)
    assert [record["step"] for record in run.read_metrics()[0] if "val_loss" in record] == [4, 8]
    assert kinds(run)[1:4] == ["best", "checkpoint", "evaluation"]
    assert 4 in steps_of(run)


def test_what_is_found_best_after_its_checkpoint_was_saved_stays_the_best(
    make_run: MakeRun, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([3.0, 4.0, 5.0])
    monkeypatch.setattr(Updater, "evaluate", lambda self, batches, broken_off: next(losses))
    run = make_run(max_steps=8, keep_checkpoints=1)
    with monkeypatch.context() as patch:
        send_at(patch, run, 3, ("pause", {}), ("checkpoint", {}), ("evaluate", {}), ("stop", {}))
        status = train_here(run)
    assert (status.val_loss, status.best_val_loss, status.best_step) == (3.0, 3.0, 4)
    with monkeypatch.context() as patch:
        send_at(patch, run, 5, ("evaluate", {}))
        status = train_here(run)
    assert (status.val_loss, status.best_val_loss, status.best_step) == (5.0, 3.0, 4)
    assert steps_of(run) == [4, 8]
    assert run.checkpoint_path("best") == run.checkpoint_path("4")


def test_going_back_to_a_damaged_checkpoint_is_refused(
    make_run: MakeRun, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(checkpoint_interval=5, keep_checkpoints=0)
    update = Updater.update

    def update_damaged(self: Updater, batch: Any, at: int, train: TrainConfig) -> Any:
        if at == 16:
            (run.checkpoint_path("10") / "model.safetensors").write_bytes(b"")
            run.send("rewind", step=10)
        return update(self, batch, at, train)

    monkeypatch.setattr("gpt_model.control.POLL_SECONDS", 0.0)
    monkeypatch.setattr(Updater, "update", update_damaged)
    assert train_here(run).state == "finished"
    (answer,) = [run.acknowledgement(path.name[:27]) for path in (run.directory / "commands").glob("*.ack.json")]
    assert answer is not None
    assert not answer.ok
    assert answer.message.endswith("So the run does not go back to it. Others to go back to: 5, 15.")
    assert steps_of(run) == [5, 10, 15, 20]


def test_going_back_during_a_pause_stays_paused(
    make_run: MakeRun, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(checkpoint_interval=5)
    send_at(monkeypatch, run, 6, ("pause", {}))
    seen: list[tuple[str, int]] = []
    orders = iter([("rewind", {}), ("resume", {}), ("resume", {})])  # it comes to step 7 twice

    def wait(self: Control) -> None:
        seen.append((run.status().state, run.status().step))
        name, arguments = next(orders)
        run.send(name, **arguments)

    monkeypatch.setattr(Control, "wait", wait)
    assert train_here(run).state == "finished"
    assert seen == [("paused", 7), ("paused", 5), ("paused", 7)]
    messages = [run.acknowledgement(path.name[:27]) for path in (run.directory / "commands").glob("*.ack.json")]
    assert "Goes back to step 5 and stays paused." in [each.message for each in messages if each]


# --- numbers that are none


def poison(monkeypatch: pytest.MonkeyPatch, bad: Callable[[int, float], bool]) -> None:
    """Let the loss of an update be no number, by its step and its learning rate."""
    update = Updater.update

    def update_poisoned(self: Updater, batch: Any, at: int, train: TrainConfig) -> Any:
        with monkeypatch.context() as patch:
            if bad(at, train.learning_rate):
                loss = type(self.model).loss
                patch.setattr(type(self.model), "loss", lambda *rest: loss(*rest) * math.nan)
            return update(self, batch, at, train)

    monkeypatch.setattr(Updater, "update", update_poisoned)


def test_three_losses_in_a_row_that_are_no_numbers_go_back_with_half_the_learning_rate(
    make_run: MakeRun, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(checkpoint_interval=10, schedule="constant", warmup_steps=0)
    with monkeypatch.context() as patch:
        poison(patch, lambda at, rate: at >= 13 and rate == 0.01)
        status = train_here(run)
    assert (status.state, status.step, status.learning_rate) == ("finished", 20, 0.005)
    assert kinds(run).count("nan") == 3
    rewound = [event for event in run.read_events()[0] if event["kind"] in ("rewind", "edit")]
    assert [event["message"].partition(":")[0] for event in rewound] == [
        "Went back from step 16 to step 10.", "Step 16", "Set again, as before the resume",
    ]  # fmt: skip
    assert rewound[1]["settings"] == {"learning_rate": 0.005, "muon_learning_rate": 0.01}
    assert train_steps(run) == list(range(1, 21))


def test_what_was_set_after_the_checkpoint_is_not_set_again_when_it_made_the_loss_no_number(
    make_run: MakeRun, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(checkpoint_interval=10, schedule="constant", warmup_steps=0)
    sent: list[int] = []

    def bad(at: int, rate: float) -> bool:
        if at == 11 and not sent:
            sent.append(at)
            run.send("set", learning_rate=1e38)
        return rate > 1e30

    with monkeypatch.context() as patch:
        patch.setattr("gpt_model.control.POLL_SECONDS", 0.0)
        poison(patch, bad)
        status = train_here(run)
    assert (status.state, status.step, status.learning_rate) == ("finished", 20, 0.005)
    (automatic,) = [event for event in run.read_events()[0] if "automatic" in event]
    assert automatic["message"].endswith(
        "the learning rate of step 10 is halved; what was set after that checkpoint is not set again (learning_rate)."
    )


def test_when_half_the_learning_rate_does_not_help_the_run_ends(
    make_run: MakeRun, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(checkpoint_interval=10)
    with monkeypatch.context() as patch:
        poison(patch, lambda at, rate: at >= 13)
        with pytest.raises(RunError, match=r"Step 16: loss nan.*in a row, also with half the learning rate.*lower"):
            train_here(run)
    assert steps_of(run) == [10]
    assert train_here(run).state == "finished"  # the poison was in the air, not in the weights


def test_spikes_are_seen_once_and_only_against_enough_losses() -> None:
    watch = LossWatch()
    usual = [3 + 0.1 * math.sin(7 * each) for each in range(200)]
    assert [watch.take(each, True) for each in (9.0, *usual)] == [None] * 201
    watch = LossWatch(watch.to_state())  # as after a resume
    above = watch.take(4.0, True)
    assert above is not None
    assert above > 5
    assert watch.take(4.1, True) is None  # of the same spike
    assert [watch.take(3.0, True) for _ in range(40)] == [None] * 40
    assert watch.take(6.0, True) is not None


def test_a_spike_is_an_event(make_run: MakeRun, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch) -> None:
    update = Updater.update

    def update_spiked(self: Updater, batch: Any, at: int, train: TrainConfig) -> Any:
        with monkeypatch.context() as patch:
            if at == 90:
                loss = type(self.model).loss
                patch.setattr(type(self.model), "loss", lambda *rest: loss(*rest) * 4)
            return update(self, batch, at, train)

    monkeypatch.setattr(Updater, "update", update_spiked)
    run = make_run(max_steps=100)
    train_here(run)
    (spike,) = [event for event in run.read_events()[0] if event["kind"] == "spike"]
    assert spike["message"].startswith("Step 91: loss ")
    assert "standard deviations above the usual" in spike["message"]


def test_a_checkpoint_is_saved_when_minutes_have_passed(
    make_run: MakeRun, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt_model.pace.Pace.elapsed", property(lambda self: 7.0 * self._steps))  # 7 s a step
    run = make_run(checkpoint_minutes=1.0, keep_checkpoints=0, val_fraction=0.0)
    train_here(run)
    assert steps_of(run) == [9, 18, 20]
