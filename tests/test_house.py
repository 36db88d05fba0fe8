"""The house's own rules: what may be imported where, how long a file may be, and that the README tells the truth."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("gpt_tui", "gpt_model", "samplers")
HEAVY = ("torch", "transformers", "numba", "safetensors")


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imported_by(code: str) -> set[str]:
    """Return the modules in a fresh interpreter after running some code."""
    script = f"{code}\nimport sys; print('MODULES', *sys.modules, file=sys.__stdout__)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    return set(done.stdout.rpartition("MODULES")[2].split())


@pytest.mark.parametrize(
    "code",
    [
        "import samplers, gpt_model",
        "import gpt_tui.cli",
        "import gpt_tui.app, gpt_tui.engine_client, gpt_tui.engine_process",
        "import gpt_model.runs, gpt_model.config, gpt_model.tokenizer, gpt_model.token_record, gpt_model.corpus",
    ],
)
def test_neither_command_line_nor_app_imports_torch(code: str) -> None:
    assert not imported_by(code) & set(HEAVY)


def test_help_imports_neither_textual_nor_numpy_nor_a_plugin() -> None:
    code = """
import sys
from gpt_tui.cli import main
sys.argv = ["gpt-tui", "--help"]
try:
    main()
except SystemExit:
    pass
"""
    modules = imported_by(code)
    assert not modules & {*HEAVY, "textual", "numpy", "tiktoken", "rich", "samplers.top_k", "samplers.greedy"}


def test_the_app_up_to_its_first_frame_imports_no_torch_and_only_the_stages_of_its_chain() -> None:
    code = """
import asyncio, os, tempfile
os.environ["GPT_TUI_HOME"] = tempfile.mkdtemp()
from gpt_tui.app import GptTui
from gpt_tui.locations import find_locations
from gpt_tui.settings import load_settings
async def first_frame():
    home = find_locations()
    async with GptTui(home, load_settings(home, {}, {"engine": "cat"})).run_test() as pilot:
        await pilot.pause()
asyncio.run(first_frame())
"""
    modules = imported_by(code)
    assert not modules & {*HEAVY, "tiktoken", "numpy"}
    assert "samplers.top_k" not in modules
    assert "samplers.min_p" in modules


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    files = [*sources(), *(ROOT / "tests").rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_every_module_opens_with_a_line_on_what_lives_there() -> None:
    silent = [str(path) for path in sources() if not path.read_text(encoding="utf-8").lstrip().startswith('"""')]
    assert silent == []


def test_the_readmes_tree_is_the_tree() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- tree -->\n```\n(.*?)```", readme, re.DOTALL)
    assert block, "the README has no tree"
    told, folder = set(), ""
    for line in block[1].splitlines():
        name, _, about = line.strip().partition("  ")
        if not name:
            continue
        assert about.strip(), f"{name} has no word about it"
        if line.startswith(" "):
            told.add(folder + name)
        elif name.endswith("/"):
            folder = name
    assert told == {path.relative_to(ROOT).as_posix() for path in sources()}


def test_nothing_names_the_machine_it_was_written_on() -> None:
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    machine = re.compile(r"(?<![\w.])/(?:work|root|farm)/")
    found = [
        name
        for name in files
        if name.endswith((".py", ".md", ".toml", ".sh", ".tcss", ".txt")) and name != "tests/test_house.py"
        if machine.search((ROOT / name).read_text(encoding="utf-8"))
    ]
    assert found == []
