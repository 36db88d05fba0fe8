"""Plugins that misbehave: the stream goes on, the culprit is named, and the command line works."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from shared_cache import share_cache

STAGE = '''
import math, sys, time
from dataclasses import dataclass
from typing import Annotated, ClassVar
from samplers import Param

def stage(name, call):
    @dataclass(frozen=True)
    class Made:
        """Misbehaves."""
        def __call__(self, logits, context):
            return call(logits, context)
    Made.name = name
    return Made

def fail(logits, context):
    raise RuntimeError("on purpose")

def change(logits, context):
    logits.fill_(-math.inf)
    context.tokens.fill_(0)
    return logits

def leave(logits, context):
    sys.exit("goodbye")

Raises = stage("raises", fail)
Sleeps = stage("sleeps", lambda logits, context: time.sleep(3600))
Nan = stage("nan", lambda logits, context: logits * math.nan)
Empties = stage("empties", lambda logits, context: logits.fill_(-math.inf))
Changes = stage("changes", change)
Lies = stage("lies", lambda logits, context: logits[:, :5])
Leaves = stage("leaves", leave)

@dataclass(frozen=True)
class Bare:
    """Has a parameter without limits."""
    name: ClassVar[str] = "bare"
    k: int = 3
    def __call__(self, logits, context):
        return logits
'''
POINTS = """[gpt_tui.samplers]
raises = misbehaving:Raises
sleeps = misbehaving:Sleeps
nan = misbehaving:Nan
empties = misbehaving:Empties
changes = misbehaving:Changes
lies = misbehaving:Lies
leaves = misbehaving:Leaves
bare = misbehaving:Bare
top_k = misbehaving:Raises
fails_at_import = misbehaving_at_import:Stage
leaves_at_import = leaving_at_import:Stage
broken_syntax = broken_syntax:Stage
absent = no_such_module:Stage
no_class = misbehaving:fail

[gpt_tui.decoders]
broken_decoder = no_such_module:Decoder
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which a distribution of plugins is installed."""
    site = tmp_path_factory.mktemp("site")
    about = site / "misbehaving-0.3.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: misbehaving\nVersion: 0.3\n")
    (about / "entry_points.txt").write_text(POINTS)
    (site / "misbehaving.py").write_text(STAGE)
    (site / "misbehaving_at_import.py").write_text("raise ValueError('broken inside')\n")
    (site / "leaving_at_import.py").write_text("import sys\nsys.exit('out of here')\n")
    (site / "broken_syntax.py").write_text("def (:\n")
    return site


def gpt_tui(site: Path, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    share_cache(home)
    environment = os.environ | {"PYTHONPATH": str(site), "GPT_TUI_HOME": str(home)}
    return subprocess.run(
        [sys.executable, "-m", "gpt_tui", *arguments], env=environment, capture_output=True, text=True, timeout=120
    )


def test_the_stream_goes_on_and_every_culprit_is_named(site: Path, tmp_path: Path) -> None:
    told = {
        "raises": "raises: RuntimeError: on purpose",
        "sleeps": "sleeps: did not return within",
        "nan": "nan: returned NaN",
        "empties": "empties: removed every token",
        "changes": "changes: removed every token",
        "lies": "lies: returned shape (1, 5) instead of logits of shape (1, 1024)",
        "leaves": "leaves: SystemExit: goodbye",
    }
    options = ("--seed", "5", "--max-new-tokens", "8", "--ignore-end-of-text")
    plain = gpt_tui(site, tmp_path, "complete", "ROMEO:", "-s", "temperature=0.8", *options)
    beside = gpt_tui(site, tmp_path, "complete", "ROMEO:", "-s", f"{','.join(told)},temperature=0.8", *options)
    assert beside.returncode == 0
    assert beside.stdout == plain.stdout
    for sentence in told.values():
        assert any(sentence in line and "bypassed" in line for line in beside.stderr.splitlines())
        assert any(sentence in line and "switched off" in line for line in beside.stderr.splitlines())


def test_all_are_listed_and_what_is_broken_says_why(site: Path, tmp_path: Path) -> None:
    listed = gpt_tui(site, tmp_path, "samplers", "list", "--json")
    assert listed.returncode == 0
    found = {each["name"]: each for each in json.loads(listed.stdout)}
    theirs = {name for name, each in found.items() if each["distribution"] == "misbehaving"}
    assert {"raises", "sleeps", "bare", "absent", "top_k@misbehaving", "broken_decoder"} <= theirs
    assert found["raises"]["state"] == "ok"
    assert found["raises"]["version"] == "0.3"
    assert found["top_k"]["distribution"] == "gpt-tui"
    for name, sentence in {
        "bare": "is not annotated with a Param", "fails_at_import": "ValueError: broken inside",
        "leaves_at_import": "SystemExit: out of here", "broken_syntax": "SyntaxError", "absent": "ModuleNotFoundError",
        "no_class": "is not a class",
    }.items():  # fmt: skip
        assert found[name]["state"] == "broken"
        assert sentence in found[name]["about"]
    assert gpt_tui(site, tmp_path, "--help").returncode == 0


def test_a_broken_plugin_in_the_settings_is_told_and_stops_nothing(site: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text('chain = "absent,temperature=0.8"\n')
    home = gpt_tui(site, tmp_path, "config", "path").stdout
    outcome = gpt_tui(site, tmp_path, "complete", "ROMEO:", "--max-new-tokens", "3", "--seed", "1")
    assert outcome.returncode == 0, home
    assert "cannot be imported" in outcome.stderr
    assert "left out" in outcome.stderr


def test_a_chain_that_is_asked_for_and_cannot_be_is_a_sentence(site: Path, tmp_path: Path) -> None:
    for spec in ("absent", "leaves_at_import", "bare"):
        outcome = gpt_tui(site, tmp_path, "complete", "ROMEO:", "-s", spec)
        assert outcome.returncode == 2
        assert outcome.stdout == ""
        assert f"'{spec}' of misbehaving 0.3" in outcome.stderr
        assert "Traceback" not in outcome.stderr
