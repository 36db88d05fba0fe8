"""The two journeys in a real terminal: complete and switch; train, close the terminal, come back, talk to the model."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from terminal import Terminal

from gpt_model.runs import Run

WORDS = ["the", "king", "and", "queen", "walk", "under", "a", "summer", "moon", "while", "all", "birds", "sleep"]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    file = tmp_path / "corpus.txt"
    lines = (" ".join(random.Random(seed).choices(WORDS, k=9)) for seed in range(2000))
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def body(terminal: Terminal) -> str:
    """Return the page without its header and its footer."""
    return "\n".join(terminal.text.splitlines()[1:-4])


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (120, 40)])
def test_complete_stop_go_on_and_switch_while_it_streams(
    tmp_path: Path, columns: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "70")  # some shells export what was true when they began
    monkeypatch.setenv("LINES", "20")
    flags = ("-s", "top_k=40,temperature=0.8", "--max-new-tokens", "100000", "--seed", "7")
    terminal = Terminal(tmp_path / "home", *flags, columns=columns, rows=rows)
    try:
        terminal.until("ready")
        terminal.until(lambda: "Complete" in terminal.text.splitlines()[-1])
        terminal.press("ROMEO:\r")  # in one write, as a fast hand on a slow line
        terminal.until("writing")
        terminal.press("esc")
        terminal.until("ready")
        assert len(body(terminal).split()) > 3
        assert "ROMEO:" not in terminal.text.splitlines()[-3]  # it went into the text, not back into the field
        terminal.press("enter")
        terminal.until("writing")
        terminal.press("tab", "tab", "left", "left")  # top_k, two presses down, while it streams
        terminal.until(lambda: "◂" in terminal.text)
        terminal.press("down", "right", "right")
        terminal.until(lambda: "0.9" in terminal.text)
        terminal.press("esc")
        terminal.until("ready")
        terminal.until_still()
        assert terminal.pump(2.0) == 0  # nothing moves that is not news
        terminal.press("ctrl+q")
        terminal.until(lambda: not terminal.child.isalive())
        assert terminal.child.exitstatus == 0
    finally:
        terminal.close()
    chain = (tmp_path / "home" / "settings.toml").read_text(encoding="utf-8")
    assert 'chain = "top_k=26,temperature=0.9"' in chain


def test_the_engine_is_killed_and_no_text_is_lost(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path / "home", "--max-new-tokens", "100000")
    try:
        terminal.until("ready")
        terminal.press("ROMEO:", "enter")
        terminal.until("writing")
        terminal.pump(0.5)
        (engine,) = [
            int(each.parent.name)
            for each in Path("/proc").glob("[0-9]*/cmdline")
            if b"gpt_tui.engine_process" in (command := _read(each)) and str(terminal.child.pid) == _parent(each.parent)
            if command
        ]
        os.kill(engine, signal.SIGKILL)
        terminal.until("engine gone")
        lines = [line.split("▏")[0].split("│")[0].strip() for line in body(terminal).splitlines()]
        kept = [line for line in lines if line][-2]
        terminal.press("f5")
        terminal.until("ready")
        assert kept in terminal.text
    finally:
        terminal.close()


def test_a_run_outlives_its_terminal_and_is_talked_to(tmp_path: Path, corpus: Path) -> None:
    home = tmp_path / "home"
    terminal = Terminal(home)
    try:
        terminal.press("f3")
        terminal.until("No runs yet")
        terminal.press("n")
        terminal.until("Start a run")
        for field in (str(corpus), "moon", "", "", "", ""):
            terminal.press(field, "down")
            terminal.pump(0.7)  # the focus has to arrive, also on a busy machine
        terminal.press(
            "n_layer=1 n_embd=32 n_head=2 block_size=32 max_steps=100000 eval_interval=50 checkpoint_interval=50"
        )
        terminal.press("enter")
        terminal.until(lambda: "running" in terminal.text and "checkpoint saved" in terminal.text.lower(), 90)
    finally:
        terminal.close()  # SIGHUP
    run = Run.open(home / "runs", "moon")
    reached = run.status().step
    terminal = Terminal(home, columns=120, rows=40)
    try:
        terminal.press("f3")
        terminal.until("running")
        assert "moon" in terminal.text
        until_step(run, reached + 20)
        terminal.press("s")
        terminal.until("stopped")
        assert run.status().state == "stopped"
        terminal.press("t")
        terminal.until(lambda: "moon:last" in terminal.text and "ready" in terminal.text)
        terminal.press("the king ", "enter")
        terminal.until("200/200 tok")
    finally:
        terminal.close()
        if run.is_locked():
            run.send("stop")


def until_step(run: Run, step: int) -> None:
    """Wait until a run has reached a step."""
    end = time.monotonic() + 60
    while run.status().step < step:
        assert time.monotonic() < end, run.status()
        time.sleep(0.2)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def _parent(process: Path) -> str:
    return _read(process / "stat").decode().rpartition(")")[2].split()[1]
