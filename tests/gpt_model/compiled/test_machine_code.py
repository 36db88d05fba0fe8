"""Machine code: kept whole or not used, made without what the environment says, and by processes that end with us."""

import fcntl
import importlib.util
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpt_model.cache_directory import cache_directory
from gpt_model.compiled import machine_code
from gpt_model.compiled.machine_code import CompileError, compile_missing, load_entry
from gpt_model.lifeline import lifeline

KEPT = "scan.o"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of an entry in a cache of this test's own."""
    load_entry("scan")
    content = (machine_code._directory() / KEPT).read_bytes()
    monkeypatch.setattr(machine_code, "_directory", lambda: tmp_path / "code" / "version")
    (tmp_path / "code" / "version").mkdir(parents=True)
    (tmp_path / "code" / "version" / KEPT).write_bytes(content)
    forget()
    yield tmp_path / "code" / "version" / KEPT
    forget()


def forget() -> None:
    load_entry.cache_clear()
    machine_code._MADE.clear()


class FakeCompiler:
    """Stands for the compiler's process: takes note of its environment, and writes what it is told."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.environments: list[dict[str, str]] = []

    def __call__(self, command: list[str], env: dict[str, str], **settings: object) -> subprocess.CompletedProcess[str]:
        self.environments.append(env)
        Path(command[-1]).write_bytes(self.content)
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def compiler(kept: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCompiler:
    fake = FakeCompiler(kept.read_bytes())
    monkeypatch.setattr(machine_code.subprocess, "run", fake)
    return fake


def damage_symbol(content: bytes) -> bytes:
    return content[:4] + bytes([content[4] ^ 1]) + content[5:]


@pytest.mark.parametrize("damage", [
    damage_symbol, lambda content: content[:-100], lambda content: b"5\n" + content.partition(b"\n")[2],
    lambda content: b"[5, 5]\n" + content, lambda content: b"",
])  # fmt: skip
def test_what_is_damaged_is_compiled_again(kept: Path, compiler: FakeCompiler, damage: object) -> None:
    assert callable(damage)
    whole = kept.read_bytes()
    kept.write_bytes(damage(whole))
    told: list[str] = []
    compile_missing(["scan", "scan"], told.append)
    assert told == ["Compiling for this CPU, once."]
    assert kept.read_bytes() == whole
    load_entry("scan")


def test_numbas_variables_do_not_reach_the_compiler(
    kept: Path, compiler: FakeCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.unlink()
    monkeypatch.setenv("NUMBA_BOUNDSCHECK", "1")
    monkeypatch.setenv("OTHER", "1")
    load_entry("scan")
    (environment,) = compiler.environments
    assert "OTHER" in environment
    assert not [name for name in environment if name.startswith("NUMBA_")]


def test_without_a_place_to_keep_it_the_code_is_used_all_the_same(kept: Path, compiler: FakeCompiler) -> None:
    kept.unlink()
    kept.parent.rmdir()
    kept.parent.write_text("in the way")
    compile_missing(["scan"], lambda sentence: None)
    load_entry("scan")
    assert len(compiler.environments) == 1


def test_a_symbol_that_the_code_lacks_is_refused(kept: Path) -> None:
    symbol, code = machine_code._parse(kept.read_bytes()) or ("", b"")
    with pytest.raises(CompileError, match="has no "):
        machine_code._link(symbol + "x", code)


def test_it_is_told_how_far_it_is(kept: Path, compiler: FakeCompiler) -> None:
    told: list[str] = []
    compile_missing(["a", "b", "c"], told.append)
    assert told == [f"Compiling for this CPU, once{far}." for far in ("", ": 1 of 3", ": 2 of 3")]


def test_without_numba_nothing_is_announced(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    told: list[str] = []
    with pytest.raises(CompileError, match="not installed"):
        compile_missing(["other"], told.append)
    assert told == []


def test_who_gives_up_waits_for_no_compiler(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = "from gpt_model.lifeline import end_with_parent; import time; end_with_parent(); time.sleep(60)"
    run = subprocess.run

    def start(command: list[str], stdin: int, **settings: object) -> "subprocess.CompletedProcess[bytes]":
        if command[-2] == "broken":
            time.sleep(0.2)
            raise KeyboardInterrupt  # as it reaches whoever waits
        return run([sys.executable, "-c", waiting], stdin=stdin, check=False)

    monkeypatch.setattr(machine_code.subprocess, "run", start)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        compile_missing(["slow", "broken"], lambda sentence: None)
    assert time.monotonic() - began < 20


def test_processes_that_start_together_compile_once(
    kept: Path, compiler: FakeCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = kept.read_bytes()
    kept.unlink()
    waiting = threading.Thread(target=compile_missing, args=(["scan"], lambda told: None))
    with (kept.parent / ".lock-scan").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting.start()
        time.sleep(0.3)
        assert not compiler.environments
        kept.write_bytes(whole)
    waiting.join(10)
    assert not waiting.is_alive()
    assert not compiler.environments
    kept.unlink()
    forget()
    monkeypatch.setattr(machine_code, "_PATIENCE", 0.2)
    with (kept.parent / ".lock-scan").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        compile_missing(["scan"], lambda told: None)  # one that hangs is not waited for
    assert len(compiler.environments) == 1


def test_a_child_ends_with_its_parent_however_that_ends() -> None:
    child = "from gpt_model.lifeline import end_with_parent; import time; end_with_parent(); print(1); time.sleep(60)"
    with lifeline() as line:
        process = subprocess.Popen([sys.executable, "-uc", child], stdin=line, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        assert process.poll() is None
    assert process.wait(timeout=20) == 1
    process.stdout.close()


def test_a_home_of_ones_own_holds_the_cache_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() != tmp_path / "home" / "cache"
    monkeypatch.setenv("GPT_TUI_HOME", str(tmp_path / "home"))
    assert cache_directory() == tmp_path / "home" / "cache"
