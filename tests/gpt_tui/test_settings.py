"""Settings: which source wins, what is said about a wrong one, and how one is saved."""

import stat
import tomllib
from pathlib import Path

import pytest

from gpt_model.errors import ConfigError
from gpt_tui.locations import Locations, find_locations
from gpt_tui.settings import Settings, check_setting, load_settings, save_setting, setting_docs, setting_types


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Locations:
    """A home and an empty working directory of the test's own."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return find_locations({"GPT_TUI_HOME": str(tmp_path / "home")})


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def test_home_moves_everything(tmp_path: Path) -> None:
    places = find_locations({"GPT_TUI_HOME": str(tmp_path)})
    moved = (places.settings_file, places.runs, places.models, places.sessions, places.state)
    assert all(path.is_relative_to(tmp_path) for path in moved)
    assert len(set(moved)) == 5


def test_without_a_home_the_platform_decides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for kind in ("CONFIG", "DATA", "STATE"):
        monkeypatch.setenv(f"XDG_{kind}_HOME", str(tmp_path / kind))
    places = find_locations({})
    assert places.settings_file.is_relative_to(tmp_path)
    assert places.runs.parent == places.models.parent


def test_without_any_source_everything_is_the_default(places: Locations) -> None:
    loaded = load_settings(places, {})
    assert loaded.settings == Settings()
    assert set(loaded.origins.values()) == {"default"}
    assert loaded.problems == []


def test_every_setting_says_what_it_is_for() -> None:
    docs = setting_docs()
    assert list(docs) == list(setting_types())
    assert docs["max_new_tokens"] == "Tokens of a completion."


def test_a_flag_beats_the_environment_beats_the_project_beats_the_user(places: Locations) -> None:
    write(places.settings_file, 'seed = 1\nthreads = 1\nmax_new_tokens = 1\nchain = "greedy"\ntheme = "nord"\n')
    write(places.project_file, 'seed = 2\nthreads = 2\nmax_new_tokens = 2\nchain = "top_k=2"\n')
    environment = {"GPT_TUI_SEED": "3", "GPT_TUI_THREADS": "3", "GPT_TUI_MAX_NEW_TOKENS": "3"}
    loaded = load_settings(places, environment, {"seed": 4, "threads": 4, "device": None})
    settings = loaded.settings
    assert (settings.seed, settings.threads, settings.max_new_tokens) == (4, 4, 3)
    assert (settings.chain, settings.theme, settings.device) == ("top_k=2", "nord", "auto")
    assert loaded.origins == dict.fromkeys(loaded.origins, "default") | {
        "seed": "flag",
        "threads": "flag",
        "max_new_tokens": "environment GPT_TUI_MAX_NEW_TOKENS",
        "chain": str(places.project_file),
        "theme": str(places.settings_file),
    }
    assert loaded.problems == []


def test_an_unknown_key_is_told_with_file_line_and_nearest_name(places: Locations) -> None:
    write(places.settings_file, '# mine\n\nchian = "greedy"\nseed = 5\n')
    loaded = load_settings(places, {})
    (problem,) = loaded.problems
    assert f"{places.settings_file}, line 3:" in problem
    assert "'chian'" in problem
    assert "Did you mean 'chain'?" in problem
    assert loaded.settings.seed == 5


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("max_new_tokens = 0", "at least 1"),
        ("threads = true", "whole number"),
        ("max_new_tokens = 2.5", "whole number"),
        ("seed = -1", "must not be negative"),
        ('device = "gpu"', "auto, cpu, cuda, mps"),
        ('chain = "top_q=0.9"', "Did you mean 'top_p'?"),
        ('chain = [{stage = "top_k", k = -1}]', "between 0 and"),
        ("chain = [40]", "chain:"),
        ("stop = 5", "a text or a list of texts"),
        ('keymap = "f8"', "must be a table"),
    ],
)
def test_a_wrong_value_is_told_and_left_out(places: Locations, line: str, said: str) -> None:
    write(places.settings_file, f'theme = "nord"\n  {line}\n')
    loaded = load_settings(places, {})
    (problem,) = loaded.problems
    assert f"{places.settings_file}, line 2:" in problem
    assert said in problem
    assert loaded.settings == Settings(theme="nord")


def test_a_wrong_environment_variable_is_told_by_its_name(places: Locations) -> None:
    write(places.settings_file, "seed = 9\n")
    loaded = load_settings(places, {"GPT_TUI_SEED": "nine"})
    assert loaded.settings.seed == 9
    assert loaded.problems == ["environment GPT_TUI_SEED: seed = nine: must be a whole number. It is left out."]


def test_a_wrong_flag_is_refused(places: Locations) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'top_k'"):
        load_settings(places, {}, {"chain": "topk=3"})


def test_a_directory_cannot_name_a_command_to_run(places: Locations) -> None:
    write(places.project_file, 'seed = 1\nengine = "touch owned"\n')
    loaded = load_settings(places, {})
    assert loaded.settings == Settings(seed=1)
    (problem,) = loaded.problems
    assert problem.startswith("gpt-tui.toml, line 2: engine")
    write(places.settings_file, 'engine = "ssh gpubox gpt-tui engine"\n')
    assert load_settings(places, {}).settings.engine == "ssh gpubox gpt-tui engine"


def test_a_damaged_file_is_told_with_line_and_column_and_stops_nothing(places: Locations) -> None:
    write(places.settings_file, 'theme = "nord"\nseed = = 3\n')
    write(places.project_file, "seed = 8\n")
    loaded = load_settings(places, {})
    (problem,) = loaded.problems
    assert str(places.settings_file) in problem
    assert "line 2, column 8" in problem
    assert loaded.settings == Settings(seed=8)


@pytest.mark.parametrize("content", [b"theme = \xff\n", None])
def test_an_unreadable_file_is_told_and_stops_nothing(places: Locations, content: bytes | None) -> None:
    places.settings_file.parent.mkdir(parents=True)
    if content is None:
        places.settings_file.mkdir()
    else:
        places.settings_file.write_bytes(content)
    loaded = load_settings(places, {})
    assert loaded.settings == Settings()
    assert len(loaded.problems) == 1
    assert "cannot be read" in loaded.problems[0]


def test_a_chain_can_be_an_array_of_tables(places: Locations) -> None:
    write(places.settings_file, '[[chain]]\nstage = "top_k"\nk = 7\n\n[[chain]]\nstage = "temperature"\n')
    loaded = load_settings(places, {})
    assert loaded.settings.chain == "top_k=7,temperature=0.8"
    assert loaded.problems == []


def test_what_is_saved_is_loaded_and_leaves_the_rest_alone(places: Locations) -> None:
    write(places.settings_file, 'theme = "nord"\nnot_ours = [1, 2]\n')
    save_setting(places, "seed", "7")
    save_setting(places, "stop", ["END", "\n\n"])
    save_setting(places, "checkpoint", "")
    assert tomllib.loads(places.settings_file.read_text()) == {
        "theme": "nord", "not_ours": [1, 2], "seed": 7, "stop": ["END", "\n\n"], "checkpoint": "",
    }  # fmt: skip
    settings = load_settings(places, {}).settings
    assert (settings.seed, settings.stop, settings.theme) == (7, ("END", "\n\n"), "nord")
    assert [file.name for file in places.settings_file.parent.iterdir()] == ["settings.toml"]


def test_saving_none_unsets(places: Locations) -> None:
    save_setting(places, "seed", 7)
    save_setting(places, "seed", None)
    assert "seed" not in tomllib.loads(places.settings_file.read_text())
    assert load_settings(places, {}).origins["seed"] == "default"


def test_the_first_save_makes_a_private_directory(places: Locations) -> None:
    save_setting(places, "theme", "nord")
    assert stat.S_IMODE(places.settings_file.parent.stat().st_mode) == 0o700


def test_a_damaged_file_is_kept_aside_when_something_is_saved_over_it(places: Locations) -> None:
    damaged = "seed = = 3\n"
    write(places.settings_file, damaged)
    load_settings(places, {})
    assert places.settings_file.read_text() == damaged  # reading changes nothing
    told = save_setting(places, "theme", "nord")
    kept = [file for file in places.settings_file.parent.iterdir() if "damaged" in file.name]
    assert str(kept[0]) in told
    assert save_setting(places, "theme", "nord") == ""
    assert [file.read_text() for file in kept] == [damaged]
    assert load_settings(places, {}).problems == []


def test_a_link_into_dotfiles_stays_a_link(places: Locations, tmp_path: Path) -> None:
    target = tmp_path / "dotfiles" / "gpt-tui.toml"
    write(target, "seed = 1\n")
    places.settings_file.parent.mkdir()
    places.settings_file.symlink_to(target)
    save_setting(places, "seed", 2)
    assert places.settings_file.is_symlink()
    assert target.read_text() == "seed = 2\n"


def test_a_wrong_value_is_never_saved(places: Locations) -> None:
    save_setting(places, "seed", 1)
    with pytest.raises(ConfigError, match="whole number"):
        save_setting(places, "seed", "x")
    with pytest.raises(ConfigError, match="Did you mean 'seed'"):
        save_setting(places, "sed", 2)
    assert places.settings_file.read_text() == "seed = 1\n"


def test_a_directory_that_cannot_be_made_is_told(places: Locations) -> None:
    places.settings_file.parent.write_text("a file where the home should be")
    with pytest.raises(ConfigError, match="cannot be written"):
        save_setting(places, "seed", 1)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("seed", "none", None),
        ("seed", "", None),
        ("max_new_tokens", "2e3", 2000),
        ("stop", "END", ("END",)),
        ("stop", "", ()),
        ("chain", "", ""),
        ("keymap", {"app.quit": "f10"}, {"app.quit": "f10"}),
    ],
)
def test_text_becomes_the_settings_type(name: str, given: object, expected: object) -> None:
    assert check_setting(name, given) == expected


def test_saving_keeps_what_a_person_wrote_around_it(places: Locations) -> None:
    places.settings_file.parent.mkdir(parents=True, exist_ok=True)
    places.settings_file.write_text('# mine\nchain = "top_k=3" # why\nseed = 1\n\n[keymap]\n"a.b" = "f8"\n')
    save_setting(places, "seed", 4)
    save_setting(places, "threads", 2)
    text = places.settings_file.read_text()
    assert text == '# mine\nchain = "top_k=3" # why\nseed = 4\n\nthreads = 2\n[keymap]\n"a.b" = "f8"\n'
    save_setting(places, "seed", None)
    assert "seed" not in places.settings_file.read_text()
    # several lines for one value: written anew, and the text of before is kept
    places.settings_file.write_text('# mine\nstop = [\n  "a",\n]\n')
    save_setting(places, "stop", ("b",))
    assert load_settings(places, {}).settings.stop == ("b",)
    (kept,) = places.settings_file.parent.glob("settings.toml.before-*")
    assert kept.read_text().startswith("# mine")


def test_presets_of_all_files_are_read_before_the_chain_that_names_one(places: Locations) -> None:
    write(places.settings_file, 'chain = "wild"\n\n[presets]\ncalm = "top_p = 0.8"\nboth = "greedy"\n')
    write(places.project_file, '[[presets.wild]]\nstage = "top_k"\nk = 5\n[[presets.both]]\nstage = "top_p"\n')
    loaded = load_settings(places, {})
    assert loaded.problems == []
    assert dict(loaded.settings.presets) == {"calm": "top_p=0.8", "both": "top_p=0.95", "wild": "top_k=5"}
    assert str(loaded.settings.parsed_chain()) == "top_k=5"
    assert str(load_settings(places, {}, {"chain": "calm"}).settings.parsed_chain()) == "top_p=0.8"
    save_setting(places, "chain", "calm")
    assert load_settings(places, {}).settings.chain == "calm"


def test_a_wrong_preset_is_told_and_left_out_and_the_others_stay(places: Locations) -> None:
    lines = ['good = "top_k=5"', 'broken = "tpo_k=5"', '"a,b" = "greedy"', 'top_k = "greedy"', "number = 5"]
    write(places.settings_file, "seed = 1\n[presets]\n" + "\n".join(lines))
    loaded = load_settings(places, {})
    assert dict(loaded.settings.presets) == {"good": "top_k=5"}
    assert len(loaded.problems) == 4
    assert all(f"{places.settings_file}, line 2: presets: " in problem for problem in loaded.problems)
    assert "Did you mean 'top_k'?" in loaded.problems[0]
    write(places.settings_file, 'presets = "greedy"\n')
    assert "must be a table" in load_settings(places, {}).problems[0]


def test_a_decoder_is_checked_by_name_without_torch(places: Locations) -> None:
    write(places.settings_file, 'decoder = "bean=4"\n')
    assert "Did you mean 'beam'?" in load_settings(places, {}).problems[0]
    assert load_settings(places, {}, {"decoder": "draft : model=x"}).settings.decoder == "draft : model=x"
    with pytest.raises(ConfigError, match="no preset 'llamacpp'"):
        load_settings(places, {}, {"chain": "llamacpp"})
