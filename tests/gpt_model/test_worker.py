"""The worker as a process: it outlives its terminal, obeys, saves when told to leave, and resumes after a kill."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest

from gpt_model import worker
from gpt_model.errors import RunError
from gpt_model.run_lock import RunLock
from gpt_model.runs import Run, Status

pytest_plugins = ["tiny_runs"]

Launch = Callable[[Run], int]
MakeRun = Callable[..., Run]
TrainHere = Callable[..., Status]
WaitUntil = Callable[..., Status]

ENDLESS = {"max_steps": 1_000_000, "checkpoint_interval": 20, "dropout": 0.2, "schedule": "constant"}


def run_worker(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gpt_model.worker", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def answered(run: Run, command: str) -> Callable[[Status], bool]:
    return lambda status: run.acknowledgement(command) is not None


def test_a_worker_outlives_its_terminal_obeys_and_stops(
    make_run: MakeRun, launch: Launch, wait_until: WaitUntil
) -> None:
    run = make_run(**ENDLESS)
    pid = launch(run)
    assert os.getsid(pid) == pid != os.getsid(0)  # a session of its own: no terminal can take it along
    with pytest.raises(RunError, match=f"running already, as pid {pid} since"):
        run.launch()
    os.kill(pid, signal.SIGHUP)
    step = run.status().step
    assert wait_until(run, lambda status: status.step > step).state == "running"
    paused = run.send("pause")
    wait_until(run, answered(run, paused))
    assert run.status().state == "paused"
    wait_until(run, answered(run, run.send("set", learning_rate=0.003)))
    wait_until(run, answered(run, run.send("resume")))
    step = run.status().step
    assert wait_until(run, lambda status: status.step > step).state == "running"
    stopped = run.send("stop")
    status = wait_until(run, lambda status: False)
    assert (status.state, status.pid) == ("stopped", pid)
    assert run.checkpoints()[-1].step == status.step
    assert status.learning_rate == 0.003
    answer = run.acknowledgement(stopped)
    assert answer is not None
    assert answer.ok


def test_a_killed_worker_is_lost_and_its_run_resumes_as_if_it_had_not_been(
    make_run: MakeRun, launch: Launch, wait_until: WaitUntil, train_here: TrainHere
) -> None:
    run = make_run(**ENDLESS, keep_checkpoints=0)
    pid = launch(run)
    wait_until(run, lambda status: len(run.checkpoints()) >= 2)
    os.kill(pid, signal.SIGKILL)
    status = wait_until(run, lambda status: False)
    assert status.state == "lost"
    assert not run.is_locked()
    reached = run.checkpoints()[-1].step

    launch(run)
    wait_until(run, lambda status: run.checkpoints()[-1].step > reached)
    pid = run.status().pid or -1
    assert pid > 0
    os.kill(pid, signal.SIGTERM)
    status = wait_until(run, lambda status: False)
    assert status.state == "stopped"
    assert run.checkpoints()[-1].step == status.step
    steps = [record["step"] for record in run.read_metrics()[0] if "train_loss" in record]
    assert steps == sorted(set(steps))  # what was trained twice is shown once
    resumed = [event for event in run.read_events()[0] if event["kind"] == "resume"]
    assert [event["step"] for event in resumed] == [reached]
    assert resumed[0]["exactness"] == "EXACT"

    straight = make_run("straight", **ENDLESS | {"max_steps": reached + 20})
    train_here(straight)
    weights = [(each.checkpoint_path(str(reached + 20)) / "model.safetensors").read_bytes() for each in (run, straight)]
    assert len({hashlib.sha256(each).hexdigest() for each in weights}) == 1


def test_a_warning_of_the_time_limit_saves_and_goes_on(
    make_run: MakeRun, launch: Launch, wait_until: WaitUntil
) -> None:
    run = make_run(**ENDLESS | {"checkpoint_interval": 0})
    pid = launch(run)
    wait_until(run, lambda status: status.step > 0)
    os.kill(pid, signal.SIGUSR1)
    saved = wait_until(run, lambda status: bool(run.checkpoints())).step
    assert wait_until(run, lambda status: status.step > saved + 1).state == "running"
    wait_until(run, answered(run, run.send("stop")))


def test_a_second_signal_leaves_at_once(make_run: MakeRun, launch: Launch, wait_until: WaitUntil) -> None:
    run = make_run(**ENDLESS | {"checkpoint_interval": 0}, sample_interval=1, sample_tokens=100_000)
    run.launch()
    status = wait_until(run, lambda status: status.phase == "sampling")
    pid = status.pid or 0
    os.kill(pid, signal.SIGSTOP)  # both signals wait for it when it goes on
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGCONT)
    status = wait_until(run, lambda status: False)
    assert status.state == "stopped"
    assert "without saving" in status.message
    assert run.checkpoints() == []


def test_a_second_signal_ends_a_main_thread_that_never_comes_back(make_run: MakeRun) -> None:
    code = (
        "import hashlib, os, signal, sys, threading, time\n"
        "from pathlib import Path\n"
        "from gpt_model.control import Control\n"
        "from gpt_model.runs import Run\n"
        "def ask():\n"
        "    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):\n"
        "        time.sleep(0.2), os.kill(os.getpid(), number)\n"
        "control = Control(Run.at(Path(sys.argv[1])))\n"
        "with control.signals(lambda: print('last words', flush=True)):\n"
        "    threading.Thread(target=ask).start()\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 2_000_000_000)\n"  # like a collective whose other end is gone
    )
    command = [sys.executable, "-c", code, str(make_run().directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (128 + signal.SIGINT, "last words\n")


def test_openmp_is_set_up_whoever_starts_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for given, wanted in ((None, "5000"), ("7", "7")):
        monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
        if given:
            monkeypatch.setenv("GOMP_SPINCOUNT", given)
        assert worker.main([str(tmp_path)]) == 2
        assert os.environ["GOMP_SPINCOUNT"] == wanted


def test_a_run_that_fails_says_so_in_its_status(make_run: MakeRun, wait_until: WaitUntil) -> None:
    run = make_run(files=("/nowhere/at/all.txt",))
    run.launch()
    status = wait_until(run, lambda status: False)
    assert status.state == "failed"
    assert status.message.startswith("There is no file /nowhere/at/all.txt.")
    assert run.read_events()[0][-1]["kind"] == "fail"
    assert status.message in (run.directory / "log.txt").read_text()


def test_a_fault_that_nobody_foresaw_leaves_its_traceback_in_the_log(make_run: MakeRun) -> None:
    run = make_run()
    (run.directory / "checkpoints").rmdir()
    (run.directory / "checkpoints").write_text("a file where a directory should be")
    result = run_worker(str(run.directory))
    assert result.returncode == 1
    status = run.status()
    assert status.state == "failed"
    assert "not foreseen (NotADirectoryError" in status.message or "not foreseen (FileExistsError" in status.message
    assert "Traceback" in (run.directory / "log.txt").read_text()
    assert "Traceback" in result.stderr


def test_a_worker_by_hand_trains_and_refuses_what_is_no_run_or_taken(make_run: MakeRun, tmp_path: Path) -> None:
    result = run_worker(str(tmp_path))
    assert result.returncode == 2
    assert "config.toml" in result.stderr
    assert "Traceback" not in result.stderr
    run = make_run(max_steps=2)
    with RunLock.take(run.directory):
        result = run_worker(str(run.directory))
    assert result.returncode == 2
    assert f"running already, as pid {os.getpid()}" in result.stderr
    assert run_worker(str(run.directory)).returncode == 0
    assert run.status().state == "finished"


def test_a_line_that_drops_takes_its_shell_along_but_not_the_run(make_run: MakeRun, wait_until: WaitUntil) -> None:
    run = make_run(**ENDLESS)
    code = "import sys, time, pathlib, gpt_model.runs as runs; runs.Run.at(pathlib.Path(sys.argv[1])).launch(); "
    shell = pexpect.spawn(sys.executable, ["-c", f"{code} print('launched'); time.sleep(600)", str(run.directory)])
    shell.expect("launched")
    wait_until(run, lambda status: status.step > 0)
    pid = run.status().pid
    assert pid is not None
    try:
        shell.close(force=False)  # the terminal's other end, as sshd does it
        assert shell.signalstatus == signal.SIGHUP
        step = run.status().step
        assert wait_until(run, lambda status: status.step > step).state == "running"
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_lock_that_a_power_cut_left_behind_keeps_nobody_out(make_run: MakeRun, launch: Launch) -> None:
    run = make_run(**ENDLESS)
    # As the disk is found after it: a worker that trains, whose number somebody else has by now.
    (run.directory / "lock").write_text('{"pid": 1, "since": 1000000000.0}')
    run.write_status(Status(state="running", phase="training", step=7, pid=1, updated_at=1e9))
    (run.directory / "checkpoints" / ".tmp-step-00000005-1").mkdir()
    (run.directory / "metrics.jsonl").write_text('{"step": 1, "train_loss": 5.0}\n{"step": 2, "tra')
    status = run.status()
    assert status.state == "lost"
    assert "died without a word at step 7 while training, last heard of at 2001-09-" in status.message
    launch(run)
    assert not list((run.directory / "checkpoints").glob(".tmp-*-1"))
    steps = [record["step"] for record in run.read_metrics()[0] if "train_loss" in record]
    assert steps == list(range(1, len(steps) + 1))


def test_what_torchrun_told_somebody_else_does_not_concern_a_launched_worker(
    make_run: MakeRun, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    run = make_run()
    run.launch()
    assert wait_until(run, lambda status: False).state == "finished"
