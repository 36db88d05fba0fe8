"""The example package: built, installed beside gpt-tui, found, used and held to the contract."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from shared_cache import share_cache

EXAMPLE = Path(__file__).parents[2] / "examples" / "gpt-tui-sharpen"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("plugin")
    shutil.copytree(EXAMPLE, work / "source")  # a build writes beside what it builds
    target = work / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
         "--disable-pip-version-check", "--target", target, work / "source"],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    return target


def run(installed: Path, home: Path, *command: str) -> subprocess.CompletedProcess[str]:
    share_cache(home)
    environment = os.environ | {"PYTHONPATH": str(installed), "GPT_TUI_HOME": str(home)}
    return subprocess.run(
        [sys.executable, "-m", *command], env=environment, cwd=home, capture_output=True, text=True, timeout=120
    )


def test_the_package_is_listed_with_where_it_is_from(installed: Path, tmp_path: Path) -> None:
    listed = run(installed, tmp_path, "gpt_tui", "samplers", "list", "--json")
    entry = next(each for each in json.loads(listed.stdout) if each["name"] == "sharpen")
    assert (entry["distribution"], entry["version"], entry["state"]) == ("gpt-tui-sharpen", "1.0.0", "ok")
    checked = run(installed, tmp_path, "gpt_tui", "samplers", "check", "top_k=40, sharpen:power=1.5")
    assert checked.stdout == "top_k=40,sharpen=1.5\n"
    shown = run(installed, tmp_path, "gpt_tui", "samplers", "show", "sharpen")
    assert "Raise every probability to a power" in shown.stdout


def test_its_stage_and_its_decoder_write_text(installed: Path, tmp_path: Path) -> None:
    complete = ("gpt_tui", "complete", "ROMEO:", "--max-new-tokens", "12", "--seed", "3", "-q")
    sharp = run(installed, tmp_path, *complete, "-s", "sharpen=9", "--ignore-end-of-text")
    steady = run(installed, tmp_path, *complete, "-s", "", "--decoder", "steady_start=12", "--ignore-end-of-text")
    greedy = run(installed, tmp_path, *complete, "-s", "greedy", "--ignore-end-of-text")
    assert (sharp.returncode, steady.returncode) == (0, 0), sharp.stderr + steady.stderr
    assert sharp.stdout.strip()
    assert steady.stdout == greedy.stdout


def test_it_keeps_the_contract(installed: Path, tmp_path: Path) -> None:
    kit = run(
        installed, tmp_path, "pytest", "-p", "no:cacheprovider", "--gpt-tui-stage", "gpt_tui_sharpen.sharpen:Sharpen"
    )
    assert kit.returncode == 0, kit.stdout
    own = run(installed, tmp_path, "pytest", "-p", "no:cacheprovider", str(EXAMPLE / "tests"))
    assert own.returncode == 0, own.stdout
