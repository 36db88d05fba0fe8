"""What the command line's tests share: a runner in this process, one of real processes, and a model to run them on."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_lines import Cli, Outcome, Start

from gpt_model.runs import ALIVE, list_runs
from gpt_tui.cli import run
from gpt_tui.locations import Locations


@pytest.fixture
def place(home: Locations, monkeypatch: pytest.MonkeyPatch) -> Iterator[Locations]:
    """A home that no variable of the machine's reaches; runs that are still trained when the test ends are killed."""
    for name in [name for name in os.environ if name.startswith("GPT_TUI_") and name != "GPT_TUI_HOME"]:
        monkeypatch.delenv(name)
    yield home
    for left in list_runs(home.runs):
        status = left.status()
        if status.state in ALIVE and status.pid:
            os.kill(status.pid, 9)


@pytest.fixture
def tiny(place: Locations, tiny_checkpoint: Path) -> str:
    """The name of a tiny model that is imported."""
    shutil.copytree(tiny_checkpoint, place.models / "tiny")
    return "tiny"


@pytest.fixture
def cli(place: Locations, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """Return a runner of command lines in this process; `stdin` is what a file that is piped in holds."""

    def run_it(*arguments: str | Path, stdin: bytes | None = None) -> Outcome:
        piped = tmp_path / "stdin"
        piped.write_bytes(stdin or b"")
        with (Path(os.devnull) if stdin is None else piped).open(encoding="utf-8") as source:
            monkeypatch.setattr(sys, "stdin", source)
            code = run([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run_it


@pytest.fixture
def start(place: Locations) -> Iterator[Start]:
    """Return a starter of real processes; none outlives the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start_it(*arguments: str | Path, stdin: int = subprocess.DEVNULL) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "gpt_tui", *map(str, arguments)]
        process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        started.append(process)
        return process

    yield start_it
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                stream.close()
