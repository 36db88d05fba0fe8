"""Presets and `samplers explain`: what a chain does to the next token, told to people and to programs."""

import json
import math
import sys
from typing import Any

import pytest
from command_lines import Cli

from gpt_tui.cli import explain
from gpt_tui.locations import Locations

CHAIN = "top_k=20,top_p=1,min_p=0.9,temperature=0.5"


def explained(cli: Cli, *arguments: str) -> dict[str, Any]:
    outcome = cli("samplers", "explain", *arguments, "-m", "tiny", "--seed", "7", "--json")
    assert outcome.code == 0, outcome.err
    told: dict[str, Any] = json.loads(outcome.out)
    return told


def test_the_json_is_the_whole_account(cli: Cli, tiny: str) -> None:
    told = explained(cli, CHAIN, "ROMEO:", "--top", "30")
    assert (told["schema"], told["chain"], told["seed"], told["prompt_token_ids"]) == (1, CHAIN, 7, list(b"ROMEO:"))
    top_k, top_p, min_p, temperature = told["accounts"]
    candidates = told["candidates"]
    assert [each.get("off", False) for each in told["accounts"]] == [False, True, False, False]
    # ties are unlikely in a random model: the best 20 stay, and the stage that took the others is named
    assert top_k["kept"] == top_p["kept"] == 20
    assert top_k["cut"] == [each["id"] for each in candidates[20:]]
    assert {each["cut_by"] for each in candidates[20:]} == {"top_k=20"}
    assert top_k["mass"] == pytest.approx(sum(each["p_model"] for each in candidates[:20]), rel=1e-5)
    stays = [each for each in candidates if each["p_model"] >= 0.9 * candidates[0]["p_model"]]
    assert min_p["kept"] == temperature["kept"] == len(stays)
    assert {each["cut_by"] for each in candidates[len(stays) : 20]} == {"min_p=0.9"}
    shares = [each["p_model"] ** 2 for each in stays]
    wanted = [each / sum(shares) for each in shares]
    assert [each["p_chain"] for each in stays] == pytest.approx(wanted, rel=1e-4)
    assert temperature["shares"][: len(stays)] == pytest.approx(wanted, rel=1e-3)
    assert temperature["shares"][len(stays) :] == [0.0] * (30 - len(stays))
    assert temperature["entropy"] == pytest.approx(-sum(p * math.log(p) for p in wanted), rel=1e-4)
    assert "threshold" in top_k
    assert "threshold" not in temperature
    assert explained(cli, CHAIN, "ROMEO:")["id"] == told["id"]
    written = json.loads(cli("complete", "ROMEO:", "-m", "tiny", "-s", CHAIN, "--seed", "7", "--json").out)
    assert written["samples"][0]["token_ids"][0] == told["id"]


def test_a_pipe_gets_tables_without_colours_and_a_terminal_bars(
    cli: Cli, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = ("samplers", "explain", CHAIN, "ROMEO:", "-m", "tiny", "--seed", "7", "--top", "30")
    piped = cli(*ask)
    lines = piped.out.splitlines()
    assert "\x1b" not in piped.out
    assert lines[0] == "tiny, 6 tokens, seed 7"
    assert lines[3].split()[:4] == ["model", "257", "1.0000", lines[3].split()[3]]
    assert next(line for line in lines if line.startswith("top_p=1")).split() == ["top_p=1", "off"]
    assert sum("cut: top_k=20" in line for line in lines) == 10
    assert sum(line.endswith("drawn") for line in lines) == 1
    assert lines[-1].startswith("u 0.")

    monkeypatch.setattr(explain.sys, "stdout", _Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for width in ("60", "200"):
        monkeypatch.setenv("COLUMNS", width)
        cli(*ask)
    shown = sys.stdout.text
    assert "█" in shown
    assert "\x1b[33m" in shown
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    sys.stdout.text = ""
    cli(*ask)
    assert "█" in sys.stdout.text
    assert "\x1b" not in sys.stdout.text
    bars = sys.stdout.text.partition("chain\n")[2].splitlines()[:30]
    assert max(map(len, bars)) <= 60


class _Terminal:
    encoding = "utf-8"

    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        """Nothing is held."""


def test_a_wrong_chain_is_told_before_a_model_is_opened(cli: Cli) -> None:
    outcome = cli("samplers", "explain", "lama.cpp", "x", "-m", "nowhere")
    assert outcome.code == 2
    assert "Did you mean 'llama.cpp'?" in outcome.err


def test_presets_are_listed_with_where_they_are_from_and_what_is_off(cli: Cli, place: Locations) -> None:
    place.settings_file.parent.mkdir(parents=True, exist_ok=True)
    place.settings_file.write_text(
        '[presets]\ncalm = "top_p=0.8"\nmodel = "top_k=0"\nbad = "top_q"\n', encoding="utf-8"
    )
    outcome = cli("samplers", "presets", "--json")
    listed = {each["name"]: each for each in json.loads(outcome.out)}
    assert (listed["calm"]["from"], listed["calm"]["chain"]) == (str(place.settings_file), "top_p=0.8")
    assert listed["model"]["stages"] == [{"stage": "top_k=0", "off": True}]
    assert listed["llama.cpp"]["from"] == "gpt-tui"
    assert [each["stage"] for each in listed["transformers"]["stages"] if not each["off"]] == ["top_k=50"]
    assert "bad" not in listed
    assert "Did you mean 'top_p'" in outcome.err
    rows = {line.split()[0]: line for line in cli("samplers", "presets").out.splitlines()}
    assert rows["calm"].endswith(" top_p=0.8")
    assert rows["model"].endswith(" (top_k=0)")
    assert cli("samplers", "check", "calm").out == "top_p=0.8\n"


def test_complete_takes_presets_and_decoders(cli: Cli, tiny: str) -> None:
    ask = ("complete", "ab", "-m", "tiny", "--seed", "7", "--max-new-tokens", "8", "--json", "--ignore-end-of-text")
    greedy = json.loads(cli(*ask, "-s", "greedy").out)
    assert (greedy["chain"], greedy["decoder"]) == ("greedy", "plain")
    assert json.loads(cli(*ask, "-s", "default").out)["chain"] == "min_p=0.05,temperature=0.8"
    for decoder in ("beam=1", "draft:model=tiny"):  # a model's name, not a path
        told = json.loads(cli(*ask, "-s", "greedy", "--decoder", decoder).out)
        assert told["samples"][0]["token_ids"] == greedy["samples"][0]["token_ids"]
    assert cli(*ask, "--decoder", "draft:model=nowhere").code == 3
    assert "no decoder 'beem'. Did you mean 'beam'" in cli(*ask, "--decoder", "beem").err
