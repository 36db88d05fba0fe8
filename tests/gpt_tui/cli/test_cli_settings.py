"""gpt-tui config, samplers and engine: what is in force, which stages there are, and the wire's door."""

import json
import subprocess
import tomllib
from importlib.metadata import EntryPoint

import pytest
from command_lines import Cli, Start

import gpt_tui.cli.samplers as samplers_module
from gpt_tui.locations import Locations
from gpt_tui.settings import Settings, setting_types
from samplers import StageEntry, discovery, stage_entries


def test_a_damaged_file_is_not_replaced_in_silence(cli: Cli, place: Locations) -> None:
    place.settings_file.parent.mkdir(parents=True, exist_ok=True)
    place.settings_file.write_text("seed = = 3\n")
    outcome = cli("config", "set", "seed", "7")
    assert outcome.code == 0
    assert "settings.toml.damaged-" in outcome.err


def test_a_home_that_is_a_file_is_told(cli: Cli, place: Locations, monkeypatch: pytest.MonkeyPatch) -> None:
    place.settings_file.parent.mkdir(parents=True, exist_ok=True)
    place.settings_file.write_text("")
    monkeypatch.setenv("GPT_TUI_HOME", str(place.settings_file))
    outcome = cli("runs", "list")
    assert outcome.code == 2
    assert "is no directory" in outcome.err


def test_settings_are_set_got_shown_and_have_an_origin(
    cli: Cli, place: Locations, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("config", "path").out == f"{place.settings_file}\n"
    assert cli("config", "get", "seed").out == ""
    for arguments in (["seed", "7"], ["chain", "top_k=3"], ["stop", "END", "a\nb"]):
        assert cli("config", "set", *arguments).code == 0
    place.project_file.write_text("threads = 2\n")
    monkeypatch.setenv("GPT_TUI_DEVICE", "cpu")
    assert cli("config", "get", "seed").out == "7\n"
    assert cli("config", "get", "stop").out == "END\na\nb\n"
    shown = cli("config", "show").out
    expected = {"seed": 7, "chain": "top_k=3", "stop": ["END", "a\nb"], "threads": 2, "device": "cpu"}
    told = tomllib.loads(shown)
    assert told == told | expected
    assert told.keys() == setting_types().keys()
    origins = cli("config", "show", "--origin").out
    assert tomllib.loads(origins) == told
    assert f"seed = 7  # {place.settings_file}\n" in origins
    assert f"threads = 2  # {place.project_file}\n" in origins
    assert 'device = "cpu"  # environment GPT_TUI_DEVICE\n' in origins
    assert f'theme = "{Settings().theme}"  # default\n' in origins
    assert cli("config", "set", "seed", "none").code == 0
    assert "# seed is not set\n" in cli("config", "show").out


def test_a_setting_that_another_source_overrules_is_saved_and_that_is_told(cli: Cli, place: Locations) -> None:
    place.project_file.write_text("seed = 2\n")
    outcome = cli("config", "set", "seed", "3")
    assert outcome.code == 0
    assert outcome.err == f"Saved, but {place.project_file} says otherwise, and goes first.\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["get", "sed"], "There is no setting 'sed'. Did you mean 'seed'?"),
        (["set", "sed", "1"], "There is no setting 'sed'. Did you mean 'seed'?"),
        (["set", "seed", "x"], "seed = x: must be a whole number."),
        (["set", "chain", "topk=1"], "There is no stage 'topk'"),
        (["set", "seed", "1", "2"], "seed takes one value"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(cli: Cli, place: Locations, arguments: list[str], sentence: str) -> None:
    outcome = cli("config", *arguments)
    assert outcome.code == 2
    assert sentence in outcome.err
    assert not place.settings_file.exists()


def test_validate_tells_every_problem_and_none_stops_another_command(cli: Cli, place: Locations) -> None:
    assert cli("config", "validate").code == 0
    place.settings_file.parent.mkdir(parents=True, exist_ok=True)
    place.settings_file.write_text('seed = 1\ndevice = "cpu\n')
    place.project_file.write_text("seeed = 1\n")
    outcome = cli("config", "validate")
    assert outcome.code == 2
    damaged, unknown = outcome.err.splitlines()
    assert damaged.startswith(f"gpt-tui: {place.settings_file} is damaged: ")
    assert "line 2" in damaged
    assert "Did you mean 'seed'?" in unknown
    assert cli("config", "show").code == 0
    assert cli("samplers", "check", "top_k=3").code == 0


def test_edit_opens_a_template_and_checks_what_the_editor_left(
    cli: Cli, place: Locations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", "sed -i 's/^# seed = .*/seed = 5/'")
    assert cli("config", "edit").code == 0
    assert tomllib.loads(place.settings_file.read_text()) == {"seed": 5}
    uncommented = place.settings_file.read_text().replace("\n# ", "\n")
    assert tomllib.loads(uncommented).keys() == setting_types().keys()
    monkeypatch.setenv("EDITOR", "sed -i 's/^seed = 5/seed = x/'")
    assert cli("config", "edit").code == 2
    for editor in ("false", "no-such-editor-anywhere"):
        monkeypatch.setenv("EDITOR", editor)
        outcome = cli("config", "edit")
        assert outcome.code == 2
        assert outcome.err.startswith("gpt-tui: ")


# --- samplers


def test_the_stages_are_listed_and_shown_with_what_they_take(cli: Cli) -> None:
    listed = {each["name"]: each for each in json.loads(cli("samplers", "list", "--json").out)}
    assert {"greedy", "temperature", "top_k", "top_p", "min_p"} <= listed.keys()
    assert (listed["top_k"]["distribution"], listed["top_k"]["state"]) == ("gpt-tui", "ok")
    header = ["name", "kind", "version", "distribution", "state", "about"]
    assert cli("samplers", "list").out.splitlines()[0].split() == header
    told = json.loads(cli("samplers", "show", "min_p", "--json").out)
    (parameter,) = told["parameters"]
    assert parameter == parameter | {"name": "p", "type": "float", "lo": 0, "hi": 1, "off": 0}
    text = cli("samplers", "show", "top_k").out
    assert text.startswith("top_k: Keep the k most likely tokens")
    assert any(line.split()[:3] == ["k", "int", "40"] for line in text.splitlines())
    assert cli("samplers", "show", "greedy").code == 0


def test_a_broken_plugin_is_listed_with_its_error_and_breaks_nothing(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = StageEntry("broken", "other", "1.0", EntryPoint("broken", "no_such_module:Stage", discovery.GROUP))
    entries = stage_entries() | {"broken": entry}
    monkeypatch.setattr(discovery, "entries", lambda group: entries)
    monkeypatch.setattr(samplers_module, "stage_entries", lambda: entries)
    listed = {each["name"]: each for each in json.loads(cli("samplers", "list", "--json").out)}
    assert (listed["broken"]["state"], listed["top_k"]["state"]) == ("broken", "ok")
    assert "no_such_module" in listed["broken"]["about"]
    for command in ("show", "check"):
        outcome = cli("samplers", command, "broken")
        assert outcome.code == 2
        assert "of other 1.0" in outcome.err


def test_a_chain_is_checked_and_printed_as_it_would_be_written(cli: Cli) -> None:
    assert cli("samplers", "check", " top_k:k=40 , temperature=0.80").out == "top_k=40,temperature=0.8\n"
    outcome = cli("samplers", "check", "top_k=40,topp=1")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == "gpt-tui: There is no stage 'topp'. Did you mean 'top_p'?\n"
    assert cli("samplers", "check", "top_k=-1").code == 2


def test_the_engine_answers_on_standard_output_and_leaves_when_input_ends(start: Start, tiny: str) -> None:
    process = start("engine", stdin=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    assert json.loads(process.stdout.readline())["pid"] == process.pid
    process.stdin.close()
    assert process.wait(30) == 0
