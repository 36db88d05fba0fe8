"""Commands that come while a run evaluates or samples: obeyed at once, and nothing is lost by it."""

from collections.abc import Callable
from typing import Any

import pytest
from run_facts import kinds, weights_hash

from gpt_model import control
from gpt_model.control import Control
from gpt_model.recorder import Recorder
from gpt_model.runs import Run, Status
from gpt_model.training import _Training
from gpt_model.update import Updater

pytest_plugins = ["tiny_runs"]

MakeRun = Callable[..., Run]
TrainHere = Callable[..., Status]


def send_while(monkeypatch: pytest.MonkeyPatch, run: Run, phase: str, *commands: tuple[str, dict[str, Any]]) -> None:
    """Have somebody send commands as soon as the run is at something."""
    monkeypatch.setattr(control, "POLL_SECONDS", 0.0)
    waiting = list(commands)
    interrupted = _Training._interrupted

    def send_and_ask(self: _Training) -> bool:
        if run.status().phase == phase:
            while waiting:
                name, arguments = waiting.pop(0)
                run.send(name, **arguments)
        return interrupted(self)

    monkeypatch.setattr(_Training, "_interrupted", send_and_ask)


def answers(run: Run) -> list[tuple[str, int | None]]:
    """Return what was answered, in the order of the commands."""
    names = sorted((run.directory / "commands").glob("*.ack.json"))
    found = [run.acknowledgement(name.name.removesuffix(".ack.json")) for name in names]
    return [(each.message, each.step) for each in found if each]


@pytest.mark.parametrize("phase", ["evaluating", "sampling"])
def test_a_setting_and_a_checkpoint_do_not_wait_for_an_evaluation_or_a_sample(
    make_run: MakeRun, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    settings: dict[str, Any] = {"eval_interval": 5, "sample_interval": 5, "dropout": 0.3, "max_steps": 12}
    straight, run = make_run("straight", **settings), make_run("asked", **settings)
    train_here(straight)
    begun: list[str] = []
    evaluate, sample = _Training.evaluate, _Training.sample
    with monkeypatch.context() as patch:
        send_while(patch, run, phase, ("set", {"keep_checkpoints": 9}), ("checkpoint", {}))
        patch.setattr(_Training, "evaluate", lambda self: (begun.append("evaluating"), evaluate(self))[1])
        patch.setattr(_Training, "sample", lambda self: (begun.append("sampling"), sample(self))[1])
        assert train_here(run).state == "finished"
    assert begun[:2].count(phase) == (2 if phase == "evaluating" else 1)
    assert begun.count(phase) == (4 if phase == "evaluating" else 3)  # once broken off
    assert [step for _, step in answers(run)] == [5, 5]
    assert weights_hash(run) == weights_hash(straight)
    for of in (run, straight):
        assert [record["step"] for record in of.read_metrics()[0] if "val_loss" in record] == [5, 10, 12]
    texts = [[(each["step"], each["text"]) for each in of.read_samples()[0]] for of in (run, straight)]
    assert texts[0] == texts[1]


def test_a_sample_by_command_is_written_after_what_broke_it_off(
    make_run: MakeRun, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(max_steps=4)
    update = Updater.update

    def update_and_send(self: Updater, batch: Any, at: int, train: Any) -> Any:
        if at == 1:
            run.send("sample")
            run.send("evaluate")
        return update(self, batch, at, train)

    monkeypatch.setattr(Updater, "update", update_and_send)
    send_while(monkeypatch, run, "sampling", ("pause", {}))
    monkeypatch.setattr(Control, "wait", lambda self: run.send("resume"))
    assert train_here(run).state == "finished"
    assert [each["step"] for each in run.read_samples()[0]] == [2]
    assert len(run.read_samples()[0][0]["text"]) > 0
    assert kinds(run)[1:4] == ["pause", "best", "checkpoint"]
    assert all(message == "Done at step 2." for message, _ in answers(run)[:3])


def test_an_evaluation_of_the_last_step_that_is_broken_off_is_made_before_the_run_ends(
    make_run: MakeRun, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(max_steps=4)
    send_while(monkeypatch, run, "evaluating", ("set", {"grad_clip": 2.0}))
    assert train_here(run).best_step == 4
    assert kinds(run)[1:] == ["edit", "best", "checkpoint", "finish"]


def test_a_phase_is_told_at_once_and_a_number_within_a_second(make_run: MakeRun) -> None:
    run = make_run()
    with Recorder(run) as recorder:
        for phase in ("training", "saving", "training", "tokenizing", "tokenizing, 34%"):
            recorder.status(state="stopped", phase=phase, step=1)
            assert run.status().phase == phase.partition(",")[0]
        recorder.status(step=2)
        assert run.status().step == 1


def test_training_that_dies_after_a_checkpoint_did_not_die_while_saving(
    make_run: MakeRun, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, seen = make_run(max_steps=6, checkpoint_interval=2), []
    update = Updater.update

    def look(self: Updater, batch: Any, at: int, train: Any) -> Any:
        seen.append(run.status().phase)
        return update(self, batch, at, train)

    monkeypatch.setattr(Updater, "update", look)
    train_here(run)
    assert seen == ["training"] * 6
