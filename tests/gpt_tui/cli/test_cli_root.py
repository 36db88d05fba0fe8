"""The root command: help and version for almost nothing, a way to every command, and where the app cannot open."""

import json
import os
import pkgutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pexpect
import pytest
from click.testing import CliRunner
from command_lines import Cli, Start

import gpt_tui.cli
from gpt_tui.cli.lazy_group import LazyGroup
from gpt_tui.cli.root import root
from gpt_tui.locations import Locations

HEAVY = {"torch", "textual", "numpy", "tiktoken", "safetensors", "transformers", "importlib.metadata", "samplers"}


def command_paths(group: click.Group = root, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the words of every command there is, the root's own first."""
    context = click.Context(group)
    found = [path]
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        inner = command_paths(command, (*path, name)) if isinstance(command, click.Group) else [(*path, name)]
        found += inner
    return found


def modules_after(code: str) -> set[str]:
    """Return what is imported after running code in a process of its own."""
    report = "; import json, sys; print('\\n' + json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("path", command_paths(), ids=" ".join)
def test_every_help_runs_with_both_flags(path: tuple[str, ...]) -> None:
    outcomes = [CliRunner().invoke(root, [*path, flag]) for flag in ("-h", "--help")]
    assert [outcome.exit_code for outcome in outcomes] == [0, 0], outcomes[0].output
    assert outcomes[0].output == outcomes[1].output
    assert outcomes[0].output.startswith("Usage: ")


def test_the_list_of_commands_tells_what_each_command_says_of_itself() -> None:
    assert isinstance(root, LazyGroup)
    for name in root.list_commands(click.Context(root)):
        assert root.get_command(click.Context(root), name) is not None, name
    shown = CliRunner().invoke(root, ["--help"]).output
    for words in (" complete ", " train ", " eval ", "Exit codes:", "130  interrupted", "3    checkpoint missing"):
        assert words in shown


def test_help_imports_nothing_heavy_and_no_command() -> None:
    code = "import gpt_tui.cli; assert gpt_tui.cli.run(['--help']) == 0"
    for loaded in (modules_after("import gpt_tui.cli"), modules_after(code)):
        assert not loaded & HEAVY
        commands = {name for name in loaded if name.startswith("gpt_tui.cli.")}
        assert commands <= {f"gpt_tui.cli.{name}" for name in ("root", "lazy_group", "options")}


def test_no_module_of_the_command_line_imports_torch_or_textual() -> None:
    names = [f"gpt_tui.cli.{module.name}" for module in pkgutil.iter_modules(gpt_tui.cli.__path__)]
    assert len(names) > 10
    assert not modules_after("import " + ", ".join(names)) & {"torch", "textual", "numpy", "tiktoken", "transformers"}


def test_help_costs_little_more_than_click() -> None:
    def seconds(*arguments: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - began

    pairs = [(seconds("-c", "import click"), seconds("-m", "gpt_tui", "--help")) for _ in range(5)]
    assert min(ours for _, ours in pairs) < 2.5 * min(clicks for clicks, _ in pairs)


def test_the_version_tells_what_runs(cli: Cli) -> None:
    outcome = cli("--version")
    assert outcome.code == 0
    assert outcome.out.startswith("gpt-tui ")
    assert f"Python {sys.version.split()[0]}" in outcome.out
    assert "torch 2" in outcome.out


def test_a_wrong_command_is_told_with_the_nearest(cli: Cli) -> None:
    outcome = cli("compelte")
    assert outcome.code == 2
    assert "There is no command 'compelte'. Did you mean 'complete'?" in outcome.err


def test_an_option_before_the_command_is_sent_behind_it(cli: Cli) -> None:
    outcome = cli("--max-new-tokens", "3", "complete", "x")
    assert outcome.code == 2
    assert "gpt-tui complete --max-new-tokens …" in outcome.err


def test_without_a_terminal_the_app_points_to_complete(cli: Cli) -> None:
    for stdin in (None, b"a prompt"):
        outcome = cli(stdin=stdin)
        assert outcome.code == 2
        assert "The app needs a terminal" in outcome.err
        assert "gpt-tui complete" in outcome.err


def test_a_terminal_that_cannot_be_drawn_on_is_told() -> None:
    terminal = pexpect.spawn(
        sys.executable, ["-m", "gpt_tui"], env=os.environ | {"TERM": "dumb"}, encoding="utf-8", timeout=20
    )
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert "For pipes: gpt-tui complete." in terminal.before
    assert terminal.exitstatus == 2


def test_what_is_piped_into_the_app_is_its_prompt_and_the_keys_are_the_terminals(place: Locations) -> None:
    app = "import sys, types; sys.modules['gpt_tui.app'] = app = types.ModuleType('gpt_tui.app')\n"
    app += "def run_app(locations, flags, prompt):\n"
    app += "    print(repr(prompt), flags, sys.__stdin__.isatty(), sys.__stdin__.fileno())\n"
    app += "    print('key', sys.__stdin__.readline().strip())\n"
    app += "    return 0\n"
    app += "app.run_app = run_app; from gpt_tui.cli import main; sys.argv = ['gpt-tui', '--seed', '5']; main()"
    (place.project_file.absolute().parent / "opened.py").write_text(app)
    command = f"printf 'ROMEO:\\n' | {sys.executable} opened.py"
    terminal = pexpect.spawn("/bin/sh", ["-c", command], encoding="utf-8", timeout=20, dimensions=(24, 200))
    terminal.expect_exact("'ROMEO:' {'seed': 5} True 0")
    terminal.sendline("pressed")
    terminal.expect_exact("key pressed")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0


def test_a_closed_pipe_ends_any_command_without_a_word(start: Start) -> None:
    process = start("samplers", "list")
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    assert process.wait(30) == 141
    assert process.stderr.read() == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is always full here")
def test_a_full_disk_is_told(place: Locations) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([sys.executable, "-m", "gpt_tui", "config", "path"], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.startswith(b"gpt-tui: The output cannot be written: No space left")


def test_the_first_interrupt_asks_and_the_second_leaves_at_once() -> None:
    code = (
        "import time; from gpt_tui.cli.interrupts import Interrupts\n"
        "with Interrupts(last_words=lambda: ('left', '')) as interrupts:\n"
        "    print('ready', flush=True)\n"
        "    interrupts.event.wait()\n"
        "    print('asked', interrupts.exit_code, flush=True)\n"
        "    while True:\n"
        "        print(flush=True)\n"  # the signal comes while the stream is written
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout
        for line in ("ready", "asked 130"):
            assert process.stdout.readline().strip() == line
            process.send_signal(signal.SIGINT)
        assert process.stdout.read().strip() == "left"
    assert process.returncode == 130


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_a_completion_script_for_each_shell(cli: Cli, shell: str) -> None:
    outcome = cli("completion", shell)
    assert outcome.code == 0
    assert f"_GPT_TUI_COMPLETE={shell}_complete" in outcome.out


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("gpt-tui comp", ["complete", "completion"]),
        ("gpt-tui complete -m ti", ["tiny"]),
        ("gpt-tui complete -s top_k=3,te", ["top_k=3,temperature"]),
        ("gpt-tui config get s", ["seed", "stop"]),
        ("gpt-tui runs res", ["resume"]),
    ],
)
def test_the_shell_completes_commands_checkpoints_stages_and_settings(
    cli: Cli, tiny: str, monkeypatch: pytest.MonkeyPatch, words: str, found: list[str]
) -> None:
    monkeypatch.setenv("_GPT_TUI_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    outcome = cli()
    assert [line.removeprefix("plain,") for line in outcome.out.splitlines()] == found
