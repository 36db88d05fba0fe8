"""Training in this process: exact resume, commands, targets, retention, fine-tuning."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from interference import send_at
from run_facts import kinds, steps_of, weights_hash

from gpt_model import training
from gpt_model.checkpoint import load_checkpoint, load_training_state
from gpt_model.config import ModelConfig
from gpt_model.errors import ConfigError
from gpt_model.mailbox import Mailbox
from gpt_model.pace import Pace
from gpt_model.runs import Run, Status
from gpt_model.smoothing import Smoothed
from gpt_model.update import Updater

pytest_plugins = ["tiny_runs"]

MakeRun = Callable[..., Run]
TrainHere = Callable[..., Status]


def test_a_run_learns_and_tells_everything(make_run: MakeRun, train_here: TrainHere) -> None:
    run = make_run(max_steps=60, eval_interval=20, checkpoint_interval=30, sample_interval=30, sample_prompt="the")
    status = train_here(run)
    assert (status.state, status.step, status.max_steps, status.phase) == ("finished", 60, 60, "")
    assert status.train_loss is not None
    assert status.val_loss is not None
    assert status.train_loss < 4.0 < math.log(257)
    assert status.best_val_loss == min(record["val_loss"] for record in run.read_metrics()[0] if "val_loss" in record)
    assert status.elapsed_seconds > 0
    metrics = run.read_metrics()[0]
    assert [record["step"] for record in metrics if "val_loss" in record] == [20, 40, 60]
    last = [record for record in metrics if "train_loss" in record][-1]
    assert last["step"] == 60
    assert last["smoothed"] == pytest.approx(status.train_loss)
    assert set(last) == {
        "step", "train_loss", "smoothed", "learning_rate", "grad_norm", "tokens_per_second", "time",
    }  # fmt: skip
    assert kinds(run)[0] == "start"
    assert kinds(run)[-1] == "finish"
    samples = run.read_samples()[0]
    assert [(sample["step"], sample["prompt"]) for sample in samples] == [(30, "the"), (60, "the")]
    assert all(sample["text"] for sample in samples)
    assert steps_of(run) == [30, 40, 60]  # saved at 20 too, when it was the best


@pytest.mark.parametrize("stop_at", [7, 10])
def test_a_resumed_run_is_bit_for_bit_the_run_that_never_stopped(
    make_run: MakeRun, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    settings = {"dropout": 0.3, "eval_interval": 5, "sample_interval": 5, "checkpoint_interval": 10}
    straight = make_run("straight", **settings)
    train_here(straight)
    parted = make_run("parted", **settings)
    with monkeypatch.context() as patch:
        send_at(patch, parted, stop_at - 1, ("stop", {}))
        status = train_here(parted)
    assert (status.state, status.step) == ("stopped", stop_at)
    torch.manual_seed(99)  # whatever the process did meanwhile
    torch.rand(17)
    status = train_here(parted)
    assert (status.state, status.step) == ("finished", 20)
    assert weights_hash(parted) == weights_hash(straight)
    states = [load_training_state(run.checkpoint_path("last")) for run in (straight, parted)]
    for state in states:
        del state["progress"]["elapsed_seconds"]
    assert states[0]["progress"] == states[1]["progress"]
    assert (states[0]["updater"]["random"] == states[1]["updater"]["random"]).all()
    assert [record["val_loss"] for record in parted.read_metrics()[0] if "val_loss" in record] == [
        record["val_loss"] for record in straight.read_metrics()[0] if "val_loss" in record
    ]
    resumed = next(event for event in parted.read_events()[0] if event["kind"] == "resume")
    assert f"from step {stop_at}, EXACT" in resumed["message"]


def test_evaluations_and_samples_do_not_disturb_the_training(make_run: MakeRun, train_here: TrainHere) -> None:
    quiet, busy = make_run("quiet", dropout=0.3), make_run("busy", dropout=0.3, eval_interval=3, sample_interval=4)
    train_here(quiet)
    train_here(busy)
    assert weights_hash(quiet) == weights_hash(busy)


def test_live_edits_hold_through_a_resume(
    make_run: MakeRun, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(schedule="constant", warmup_steps=0)
    with monkeypatch.context() as patch:
        send_at(patch, run, 4, ("set", {"learning_rate": 0.5, "max_steps": 12}), ("stop", {}))
        assert train_here(run).step == 5
    status = train_here(run)
    assert (status.step, status.max_steps, status.learning_rate) == (12, 12, 0.5)
    edit = next(event for event in run.read_events()[0] if event["kind"] == "edit")
    assert edit["message"] == "learning_rate 0.01 → 0.5, max_steps 20 → 12."
    assert edit["settings"] == {"learning_rate": 0.5, "max_steps": 12}
    assert run.config.train.learning_rate == 0.01  # the configuration is frozen


def test_pause_waits_obeys_and_goes_on(
    make_run: MakeRun, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(max_steps=8)
    send_at(monkeypatch, run, 2, ("pause", {}))
    seen: list[Status] = []
    orders = iter(["checkpoint", "sample", "pause", "resume", "resume"])

    def wait(self: training.Control) -> None:
        seen.append(run.status())
        if order := next(orders, None):
            run.send(order)

    monkeypatch.setattr(training.Control, "wait", wait)
    status = train_here(run)
    assert (status.state, status.step) == ("finished", 8)
    assert {(each.state, each.step, each.eta_seconds) for each in seen} == {("paused", 3, None)}
    assert len({each.elapsed_seconds for each in seen}) == 1  # the clock stands still
    assert kinds(run) == ["start", "pause", "checkpoint", "continue", "best", "checkpoint", "finish"]
    assert [sample["step"] for sample in run.read_samples()[0]] == [3]
    assert steps_of(run) == [3, 8]
    answers = [
        run.acknowledgement(path.name.removesuffix(".ack.json"))
        for path in sorted((run.directory / "commands").glob("*.ack.json"))
    ]
    assert [answer.message for answer in answers if answer] == [
        "Done at step 3.", "Done at step 3.", "Done at step 3.", "Paused already, at step 3.", "Done at step 3.",
    ]  # fmt: skip


@pytest.mark.parametrize("phase", ["encoding the text", "building the tokenizer bpe:300"])
def test_while_the_text_is_prepared_a_stop_is_obeyed_and_answered_and_a_pause_refused(
    make_run: MakeRun, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    monkeypatch.setattr("gpt_model.control.POLL_SECONDS", 0.0)
    monkeypatch.setattr("gpt_model.control._PATIENCE_SECONDS", -1.0)
    run = make_run(tokenizer="bpe:300")
    commands = iter(["pause", "stop"])
    sent: list[str] = []
    tell = training.Recorder.status

    def tell_and_send(self: training.Recorder, **changes: Any) -> None:
        tell(self, **changes)
        if changes.get("phase", "").startswith(phase) and (command := next(commands, None)):
            sent.append(run.send(command))

    monkeypatch.setattr(training.Recorder, "status", tell_and_send)
    if phase.startswith("encoding"):
        monkeypatch.setattr("gpt_model.encoding.PIECE_BYTES", 200)
    assert train_here(run).state == "stopped"
    answers = [run.acknowledgement(command) for command in sent]
    assert [(answer.ok, answer.message) for answer in answers if answer] == [
        (False, f"The run is not training yet ({phase}). Send the command again when it is."),
        (True, "Stopped before the first step."),
    ]


def test_commands_left_for_a_dead_worker_are_not_obeyed_by_the_next(make_run: MakeRun, train_here: TrainHere) -> None:
    run = make_run(max_steps=3)
    stale = Mailbox(run.directory).send("stop", {})
    assert train_here(run).state == "finished"
    answer = run.acknowledgement(stale)
    assert answer is not None
    assert "The worker ended before" in answer.message


# --- how a run ends


def test_the_smoothed_training_loss_ends_the_run_at_its_target(make_run: MakeRun, train_here: TrainHere) -> None:
    run = make_run(target_loss=5.0, max_steps=400)
    status = train_here(run)
    assert status.train_loss is not None
    assert status.train_loss <= 5.0
    assert 20 <= status.step < 400
    assert status.message.startswith(f"Finished after {status.step} steps: the smoothed training loss reached")
    assert kinds(run)[-2:] == ["target", "finish"]
    assert steps_of(run) == [status.step]
    assert status.val_loss is not None  # the final evaluation always happens


def test_the_validation_loss_ends_the_run_when_it_is_the_target(make_run: MakeRun, train_here: TrainHere) -> None:
    run = make_run(target_loss=5.0, target_metric="val", eval_interval=2, max_steps=400)
    status = train_here(run)
    assert status.val_loss is not None
    assert status.val_loss <= 5.0
    assert status.step % 2 == 0
    assert status.step < 400


def test_a_missed_target_is_told(make_run: MakeRun, train_here: TrainHere) -> None:
    status = train_here(make_run(target_loss=0.01, max_steps=3))
    assert status.message == "Finished after 3 steps; the target loss 0.01 was not reached."


def test_the_newest_checkpoints_and_the_best_are_kept(
    make_run: MakeRun, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([3.0, 1.0, 2.0, 2.0, 2.0])
    monkeypatch.setattr(Updater, "evaluate", lambda self, batches, broken_off: next(losses))
    run = make_run(eval_interval=4, checkpoint_interval=2, keep_checkpoints=2)
    train_here(run)
    assert steps_of(run) == [8, 18, 20]
    assert [saved.step for saved in run.checkpoints() if saved.is_best] == [8]
    assert {path.name for path in (run.directory / "checkpoints").iterdir()} == {
        "step-00000008", "step-00000018", "step-00000020", "best", "last",
    }  # fmt: skip
    assert (run.directory / "checkpoints" / "last").readlink() == Path("step-00000020")


def test_a_validation_loss_that_is_not_a_number_is_never_the_best(
    make_run: MakeRun, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([math.nan, 2.0, math.nan])
    monkeypatch.setattr(Updater, "evaluate", lambda self, batches, broken_off: next(losses))
    status = train_here(make_run(eval_interval=5, max_steps=15))
    assert (status.val_loss, status.best_val_loss, status.best_step) == (None, 2.0, 10)


def test_keeping_zero_keeps_all(make_run: MakeRun, train_here: TrainHere) -> None:
    run = make_run(checkpoint_interval=4, keep_checkpoints=0)
    train_here(run)
    assert steps_of(run) == [4, 8, 12, 16, 20]


# --- vocabulary and fine-tuning


def test_a_small_corpus_gives_the_model_the_vocabulary_it_really_has(make_run: MakeRun, train_here: TrainHere) -> None:
    run = make_run(tokenizer="bpe:5000", vocab_size=5000, max_steps=2)
    train_here(run)
    model, tokenizer = load_checkpoint(run.checkpoint_path())
    assert tokenizer is not None
    assert 257 < tokenizer.vocab_size < 5000
    assert model.config.vocab_size == tokenizer.vocab_size


def test_fine_tuning_begins_with_the_weights_and_the_tokenizer_of_its_checkpoint(
    make_run: MakeRun, train_here: TrainHere
) -> None:
    first = make_run("first", tokenizer="bpe:280", vocab_size=280)
    train_here(first)
    model, tokenizer = load_checkpoint(first.checkpoint_path("last"))
    assert tokenizer is not None
    settings = {"init": str(first.checkpoint_path("last")), "vocab_size": tokenizer.vocab_size, "dropout": 0.2}
    tuned = make_run("tuned", tokenizer="checkpoint", learning_rate=1e-9, warmup_steps=0, eval_interval=5, **settings)
    train_here(tuned)
    after, same = load_checkpoint(tuned.checkpoint_path("last"))
    assert same is not None
    assert same.fingerprint == tokenizer.fingerprint
    assert after.config.dropout == 0.2
    for name, weight in model.state_dict().items():
        assert (after.state_dict()[name] - weight).abs().max() < 1e-6, name
    assert next(record["step"] for record in tuned.read_metrics()[0] if "val_loss" in record) == 0
    for wrong in ({"tokenizer": "bytes"}, {"tokenizer": "checkpoint", "n_embd": 32}):
        with pytest.raises(ConfigError, match=r"n_embd = 32 instead of 16|tokenizer = bytes: the checkpoint"):
            train_here(make_run(f"wrong-{len(wrong)}", **settings | wrong))


# --- small numbers


def test_the_smoothed_loss_has_no_bias_and_leaves_out_what_is_not_finite() -> None:
    constant = Smoothed()
    assert constant.value is None
    for count in range(1, 40):
        constant.add(3.0)
        constant.add(math.nan)
        assert constant.value == pytest.approx(3.0)
        assert constant.settled == (count >= 20)
    assert Smoothed(**vars(constant)).value == constant.value


def test_the_pace_counts_training_without_pauses_and_starting_up() -> None:
    now = [0.0]
    pace = Pace(100.0, 50, now=lambda: now[0])
    assert pace.eta(10) is None
    for seconds in (9.0, 1.0, 1.0, 1.0):
        now[0] += seconds
        pace.step_took(seconds)
    assert pace.tokens_per_second == pytest.approx(50.0)
    assert pace.eta(10) == pytest.approx(10.0)
    now[0] += 4.0  # an evaluation: a second for each of the four steps
    assert pace.eta(10) == pytest.approx(20.0)
    pace.pause()
    now[0] += 1000.0
    assert pace.elapsed == pytest.approx(116.0)
    pace.go_on()
    now[0] += 1.0
    assert pace.elapsed == pytest.approx(117.0)


def test_a_model_of_another_shape_is_what_the_config_says(make_run: MakeRun, train_here: TrainHere) -> None:
    run = make_run(n_layer=2, n_embd=8, max_steps=1)
    train_here(run)
    assert load_checkpoint(run.checkpoint_path())[0].config == ModelConfig(2, 2, 8, 8, 257, dropout=0.1)


def test_the_last_step_is_evaluated_before_it_is_saved_and_can_be_the_best(
    make_run: MakeRun, train_here: TrainHere
) -> None:
    run = make_run(checkpoint_interval=10, eval_interval=15)
    train_here(run)
    events = [
        (event["step"], event["kind"]) for event in run.read_events()[0] if event["kind"] in ("best", "checkpoint")
    ]
    assert events[-2:] == [(20, "best"), (20, "checkpoint")]
    assert run.checkpoint_path("best") == run.checkpoint_path("last") == run.checkpoint_path("20")
    assert load_training_state(run.checkpoint_path("last"))["progress"]["evaluated_at"] == 20


def test_an_end_that_a_command_brings_is_evaluated_and_marked_too(
    make_run: MakeRun, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(checkpoint_interval=5, eval_interval=0)
    send_at(monkeypatch, run, 9, ("set", {"max_steps": 10}))
    assert train_here(run).step == 10
    assert [record["step"] for record in run.read_metrics()[0] if "val_loss" in record] == [10]
    assert [(saved.step, saved.is_best) for saved in run.checkpoints()] == [(5, False), (10, True)]
