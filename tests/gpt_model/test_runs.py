"""The run directory: names, status, journals that are read while they are written, the lock, the mailbox."""

import dataclasses
import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt_model.config import ModelConfig, RunConfig, TrainConfig
from gpt_model.errors import ConfigError, RunError
from gpt_model.journal import Journal, read_records
from gpt_model.mailbox import Acknowledgement, Mailbox
from gpt_model.recorder import Recorder
from gpt_model.run_lock import RunLock
from gpt_model.runs import Run, Status, extend_metrics, list_runs

pytest_plugins = ["tiny_runs"]

MakeRun = Callable[..., Run]


def test_no_torch_is_imported_for_reading_and_launching() -> None:
    code = "import sys, gpt_model.runs, gpt_model.recorder, gpt_model.worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_run_opens_as_it_was_created(tmp_path: Path) -> None:
    config = RunConfig(ModelConfig(n_layer=2), TrainConfig(max_steps=5, target_loss=1.5), ("/a b/ü.txt",), "bpe:300")
    created = Run.create(tmp_path / "deep" / "runs", config, "one")
    assert Run.open(tmp_path / "deep" / "runs", "one") == created
    assert created.config == config
    status = created.status()
    assert (status.state, status.phase, status.max_steps) == ("stopped", "created", 5)


@pytest.mark.parametrize(
    ("files", "names"),
    [
        ((), ["python-docs", "python-docs-2", "python-docs-3"]),
        (("/books/My Novel (1).txt", "/x"), ["My-Novel-1", "My-Novel-1-2", "My-Novel-1-3"]),
        (("/data/shakespeare/input.txt",), ["shakespeare", "shakespeare-2", "shakespeare-3"]),
        (("/…",), ["run", "run-2", "run-3"]),
    ],
)
def test_without_a_name_a_run_is_named_after_its_text(tmp_path: Path, files: tuple[str, ...], names: list[str]) -> None:
    config = RunConfig(ModelConfig(), TrainConfig(), files)
    assert [Run.create(tmp_path, config).name for _ in names] == names


def test_names_that_are_taken_or_none_are_refused(make_run: MakeRun) -> None:
    make_run("taken")
    with pytest.raises(RunError, match="There is a run named 'taken' already"):
        make_run("taken")
    for name in ("", "a/b", "..", ".hidden", "a:b", "x" * 65, "ü"):
        with pytest.raises(RunError, match="cannot be a run's name"):
            make_run(name)


def test_an_unknown_run_is_told_with_the_nearest(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("shakespeare")
    with pytest.raises(RunError, match=r"no run 'shakespere'. Did you mean 'shakespeare'"):
        Run.open(tmp_path / "runs", "shakespere")
    with pytest.raises(RunError, match="There are no runs yet"):
        Run.open(tmp_path / "none", "x")


def test_runs_are_listed_newest_first_without_what_is_damaged(make_run: MakeRun, tmp_path: Path) -> None:
    for age, name in ((30, "b"), (10, "c"), (20, "a")):
        os.utime(make_run(name).directory / "config.toml", (1e9 - age, 1e9 - age))
    (tmp_path / "runs" / "half").mkdir()
    (make_run("broken").directory / "config.toml").write_text("[model")
    (tmp_path / "runs" / "stray.txt").touch()
    assert [run.name for run in list_runs(tmp_path / "runs")] == ["c", "a", "b"]
    assert list_runs(tmp_path / "nowhere") == []


def test_a_run_whose_worker_is_gone_is_lost(make_run: MakeRun) -> None:
    run = make_run()
    running = Status(state="running", step=1200, max_steps=2000, eta_seconds=9.0, pid=1)
    with RunLock.take(run.directory):
        run.write_status(running)
        assert run.status() == running
    status = run.status()
    assert (status.state, status.step, status.eta_seconds) == ("lost", 1200, None)
    assert "at step 1,200" in status.message
    run.write_status(dataclasses.replace(running, state="finished"))
    assert run.status().state == "finished"


def test_a_status_written_by_another_version_or_a_bad_disk_is_read(make_run: MakeRun) -> None:
    run = make_run()
    (run.directory / "status.json").write_text('{"state": "failed", "step": 3, "colour": "red"}')
    assert run.status() == Status(state="failed", step=3)
    (run.directory / "status.json").write_text("{")
    assert run.status().state == "lost"


def test_a_status_holds_only_json_numbers(make_run: MakeRun) -> None:
    run = make_run()
    run.write_status(Status(grad_norm=float("nan"), train_loss=float("inf"), val_loss=1.0))
    assert run.status() == Status(val_loss=1.0)


# --- journals


def test_a_tailing_reader_gets_every_whole_line_once(make_run: MakeRun) -> None:
    run = make_run()
    path = run.directory / "events.jsonl"
    assert run.read_events() == ([], 0)
    lines = [json.dumps({"step": step, "message": "ü" * step}).encode() + b"\n" for step in range(5)]
    whole = b"".join(lines)
    seen: list[dict[str, Any]] = []
    offset = 0
    for size in range(len(whole) + 1):  # the file as it is after every single byte
        path.write_bytes(whole[:size])
        records, offset = run.read_events(offset)
        seen += records
    assert [record["step"] for record in seen] == [0, 1, 2, 3, 4]
    assert offset == len(whole)
    assert run.read_events() == (seen, offset)


def test_a_line_torn_by_a_kill_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2, "mess')
    journal = Journal(path)
    journal.append({"step": 3})
    journal.close()
    assert read_records(path)[0] == [{"step": 1}, {"step": 3}]


def test_numbers_that_are_not_finite_stay_json_and_come_back(make_run: MakeRun) -> None:
    run = make_run()
    with Recorder(run) as recorder:
        recorder.metrics(step=1, train_loss=float("nan"), grad_norm=float("inf"))
        recorder.sample("nan", "inf")
    raw = (run.directory / "metrics.jsonl").read_text()
    assert json.loads(raw, parse_constant=lambda name: pytest.fail(name))["train_loss"] == "nan"
    ((record,), _) = run.read_metrics()
    assert record["train_loss"] != record["train_loss"]
    assert record["grad_norm"] == float("inf")
    assert run.read_samples()[0][0]["text"] == "inf"  # a text is a text


def test_a_resume_hides_what_was_trained_again_for_tailing_and_fresh_readers_alike(make_run: MakeRun) -> None:
    run = make_run()
    tailing: list[dict[str, Any]] = []
    offset = 0
    with Recorder(run) as recorder:
        for resumed_from, steps in ((None, range(1, 8)), (4, range(5, 7)), (4, range(5, 10)), (0, range(1, 3))):
            if resumed_from is not None:
                recorder.metrics(step=resumed_from, resumed=True)
            for step in steps:
                recorder.metrics(step=step, train_loss=float(step))
                new, offset = run.read_metrics(offset)
                extend_metrics(tailing, new)
                assert tailing == run.read_metrics()[0]
            shown = [record["step"] for record in tailing if "train_loss" in record]
            assert shown == list(range(1, steps[-1] + 1))


def test_a_full_disk_delays_lines_and_is_told_once(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run()
    metrics, events = run.directory / "metrics.jsonl", run.directory / "events.jsonl"
    metrics.symlink_to("/dev/full")
    with Recorder(run) as recorder:
        recorder.metrics(step=1)
        recorder.metrics(step=2)
        recorder.event("start", "still here")
        assert run.read_events()[0][0]["message"] == "still here"
        metrics.unlink()
        events.rename(events.with_name("kept"))
        events.symlink_to("/dev/full")
        recorder.close()  # as between two lines: the next one opens the file anew
        assert not recorder.event_now("edit", "is not done, and so not told later either")
        recorder.event("stop", "waits")
        events.unlink()
    assert capsys.readouterr().err.count("No space left") == 1
    assert [record["step"] for record in run.read_metrics()[0]] == [1, 2]
    assert [event["message"] for event in run.read_events()[0]] == ["waits"]


# --- checkpoints


def test_checkpoints_are_found_in_numeric_order(make_run: MakeRun) -> None:
    run = make_run()
    folder = run.directory / "checkpoints"
    with pytest.raises(RunError, match="no checkpoint yet"):
        run.checkpoint_path()
    for name in ("step-00000900", "step-00001000", "step-100000000", ".tmp-step-00002000-1", "damaged-step-00003000"):
        (folder / name).mkdir()
    (folder / "last").symlink_to("step-00000900")  # a worker killed between commit and link
    (folder / "best").symlink_to("step-00000900")
    found = run.checkpoints()
    assert [each.step for each in found] == [900, 1000, 100_000_000]
    assert [each.is_best for each in found] == [True, False, False]
    assert [each.is_last for each in found] == [False, False, True]
    wanted = {"": 900, "best-or-last": 900, "best": 900, "last": 100_000_000, "1000": 1000}
    assert {which: run.checkpoint_path(which) for which in wanted} == {
        which: folder / f"step-{step:08d}" for which, step in wanted.items()
    }
    with pytest.raises(RunError, match=r"no checkpoint '7'. It has: best, last, 900, 1000"):
        run.checkpoint_path("7")
    (folder / "best").unlink()
    assert run.checkpoint_path("").name == "step-100000000"
    with pytest.raises(RunError, match="no checkpoint 'best'"):
        run.checkpoint_path("best")


# --- lock and mailbox


def test_the_lock_has_one_holder_who_is_told(make_run: MakeRun) -> None:
    run = make_run()
    assert not run.is_locked()
    with RunLock.take(run.directory):
        assert run.is_locked()
        for refused in (lambda: RunLock.take(run.directory), run.launch, run.remove):
            with pytest.raises(RunError, match=rf"running already, as pid {os.getpid()} since \d"):
                refused()
    assert not run.is_locked()


def test_a_viewer_that_looks_is_no_worker_to_another(make_run: MakeRun) -> None:
    run = make_run()
    RunLock.take(run.directory).close()
    with (run.directory / "lock").open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert not run.is_locked()


def test_viewers_that_ask_all_the_time_never_keep_a_worker_out(make_run: MakeRun) -> None:
    run = make_run()
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            run.is_locked()

    viewers = [threading.Thread(target=ask) for _ in range(2)]
    for viewer in viewers:
        viewer.start()
    try:
        for _ in range(20):
            RunLock.take(run.directory).close()
    finally:
        done.set()
        for viewer in viewers:
            viewer.join()


def test_commands_are_checked_before_they_are_sent(make_run: MakeRun) -> None:
    run = make_run()
    with pytest.raises(RunError, match=r"is not running \(stopped\)"):
        run.send("pause")
    with RunLock.take(run.directory):
        with pytest.raises(RunError, match=r"no command 'puase'.*Did you mean 'pause'"):
            run.send("puase")
        with pytest.raises(ConfigError, match=r"'lerning_rate' cannot be set.*Did you mean 'learning_rate'"):
            run.send("set", lerning_rate=1.0)
        with pytest.raises(ConfigError, match=r"learning_rate = -1.0: must be above 0"):
            run.send("set", learning_rate=-1)
        with pytest.raises(ConfigError, match="Nothing to set"):
            run.send("set")
        with pytest.raises(RunError, match="takes no arguments"):
            run.send("stop", now=True)


def test_a_command_is_answered_once_and_read_in_order(make_run: MakeRun) -> None:
    run = make_run()
    with RunLock.take(run.directory):
        ids = [run.send("pause"), run.send("set", learning_rate=0.5, target_loss=None), run.send("resume")]
    mailbox = Mailbox(run.directory)
    assert [(command.id, command.name) for command in mailbox.pending()] == [
        (ids[0], "pause"), (ids[1], "set"), (ids[2], "resume"),
    ]  # fmt: skip
    assert mailbox.pending()[1].arguments == {"learning_rate": 0.5, "target_loss": None}
    assert run.acknowledgement(ids[0]) is None
    mailbox.acknowledge(ids[0], Acknowledgement(True, "Paused.", 7))
    assert run.acknowledgement(ids[0]) == Acknowledgement(True, "Paused.", 7)
    (run.directory / "commands" / "00-damaged.json").write_text("{")
    assert [command.name for command in mailbox.pending()] == ["set", "resume"]
    assert run.acknowledgement("00-damaged") == Acknowledgement(False, "The command's file cannot be read.")
    mailbox.discard_stale()
    assert mailbox.pending() == []
    answer = run.acknowledgement(ids[1])
    assert answer is not None
    assert not answer.ok


def test_commands_keep_their_order_when_the_clock_is_set_back(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailbox = Mailbox(make_run().directory)
    for now, command in ((3_000, "pause"), (1_000, "set"), (2_000, "resume")):
        monkeypatch.setattr("time.time_ns", lambda now=now: now)
        mailbox.send(command, {})
    assert [command.name for command in mailbox.pending()] == ["pause", "set", "resume"]


def test_a_removed_run_is_gone(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("one").remove()
    assert list((tmp_path / "runs").iterdir()) == []
