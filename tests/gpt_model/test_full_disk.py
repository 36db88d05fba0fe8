"""A disk without room, as writers meet it: nothing is told twice, leaks, blocks a name, or ends a training."""

import errno
import io
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from run_facts import kinds

from gpt_model import run_birth, runs, worker
from gpt_model.config import ModelConfig, RunConfig, TrainConfig
from gpt_model.errors import RunError
from gpt_model.journal import Journal, read_records, write_atomically
from gpt_model.mailbox import Mailbox
from gpt_model.recorder import Recorder
from gpt_model.run_birth import unfinished_directory
from gpt_model.run_lock import RunLock
from gpt_model.runs import Run

pytest_plugins = ["tiny_runs"]

MakeRun = Callable[..., Run]


@contextmanager
def room_up_to(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


class FullLog(io.StringIO):
    """A log that finds no room."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_disk(*arguments: object, **options: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_worker_whose_log_and_metrics_find_no_room_trains_to_the_end(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    (run.directory / "metrics.jsonl").symlink_to("/dev/full")
    monkeypatch.setattr(sys, "stderr", FullLog())
    assert worker.main([str(run.directory)]) == 0
    assert run.status().state == "finished"


def test_a_failure_is_told_though_it_cannot_be_printed(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(device="warp")
    monkeypatch.setattr(sys, "stderr", FullLog())
    assert worker.main([str(run.directory)]) == 1
    assert (run.status().state, kinds(run)) == ("failed", ["fail"])
    assert "device = warp" in run.status().message


def test_a_line_that_finds_room_for_all_but_its_end_is_not_written_twice(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    journal = Journal(path)
    journal.append({"step": 1})
    for missing in (1, 5):
        with room_up_to(2 * path.stat().st_size - missing), pytest.raises(OSError, match="No space"):
            journal.append({"step": 2})
    journal.close()
    again = Journal(path)
    again.append({"step": 2})
    again.close()
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


def test_a_journal_that_cannot_be_opened_leaves_no_file_open(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"step": 1}\n{"st')
    before = open_files()
    with room_up_to(path.stat().st_size):
        for _ in range(3):
            with pytest.raises(OSError, match="File too large"):
                Journal(path)
    assert open_files() == before
    Journal(path).close()
    assert read_records(path)[0] == [{"step": 1}]


def test_commands_that_cannot_be_looked_for_or_answered_end_nothing(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    mailbox = Mailbox(run.directory)
    (run.directory / "commands" / "00-damaged.json").write_text("{")
    with room_up_to(0):
        assert mailbox.pending() == []
    assert run.acknowledgement("00-damaged") is None
    assert mailbox.pending() == []
    assert run.acknowledgement("00-damaged") is not None
    monkeypatch.setattr(os, "scandir", full_disk)
    assert mailbox.pending() == []


def test_temporaries_are_gone_after_a_failure_and_after_a_kill(make_run: MakeRun) -> None:
    run = make_run()
    status = run.directory / "status.json"
    with room_up_to(3), pytest.raises(OSError, match="File too large"):
        write_atomically(status, "much more than that")
    killed = run.directory / ".status.json.4321"
    killed.touch()
    Recorder(run).close()
    assert not list(run.directory.glob(".*"))


def test_a_command_without_room_is_refused_and_a_stop_becomes_a_signal(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    with RunLock.take(run.directory) as lock:
        with room_up_to(0):
            with pytest.raises(RunError, match=rf"written to {run.directory}: .*too large.*Make room"):
                run.send("pause")
            assert run.send("stop") == ""
        assert sent == [(os.getpid(), signal.SIGTERM)]
        os.ftruncate(lock.number, 0)  # nobody knows who holds it
        with room_up_to(0), pytest.raises(RunError, match="Make room"):
            run.send("stop")
        (run.directory / "lock").write_text('{"pid": 1, "host": "another machine"}')  # it may be anybody here
        with room_up_to(0), pytest.raises(RunError, match="Make room"):
            run.send("stop")
    assert len(sent) == 1
    assert not list((run.directory / "commands").iterdir())


def test_a_launch_without_room_is_refused_and_lets_go_of_the_lock(make_run: MakeRun) -> None:
    run = make_run()
    with room_up_to(0), pytest.raises(RunError, match=rf"written to {run.directory}: .*Make room"):
        run.launch()
    assert not run.is_locked()


# --- the birth of a run


CONFIG = RunConfig(ModelConfig(), TrainConfig(), ("/a/b.txt",))


def test_a_run_that_cannot_be_written_blocks_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(runs, "write_atomically", full_disk)
        with pytest.raises(RunError, match=f"cannot be created under {tmp_path}: No space left"):
            Run.create(tmp_path, CONFIG, "one")
    assert list(tmp_path.iterdir()) == []
    assert Run.create(tmp_path, CONFIG, "one").status().state == "stopped"


def test_what_is_in_the_way_of_a_name_and_no_run_is_told(tmp_path: Path) -> None:
    (tmp_path / "half" / "commands").mkdir(parents=True)
    (tmp_path / "file").touch()
    for name in ("half", "file"):
        with pytest.raises(RunError, match=rf"{tmp_path / name} is in the way, and is no run"):
            Run.create(tmp_path, CONFIG, name)
    assert {path.name for path in tmp_path.iterdir()} == {"half", "file"}


def test_what_a_killed_maker_left_is_swept_away_and_what_is_being_made_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = tmp_path / ".new-4321-1"
    killed.mkdir()
    (killed / "stdin.txt").touch()
    with unfinished_directory(tmp_path) as living:
        assert killed.exists()  # young: its maker may be about to take the lock
        monkeypatch.setattr(run_birth, "_YOUNG_SECONDS", -1.0)
        with unfinished_directory(tmp_path) as other:
            assert other != living
            assert living.exists()
            assert not killed.exists()
    assert list(tmp_path.iterdir()) == []
