"""Names of checkpoints: a path, a model, RUN, RUN:best, RUN:last, RUN:STEP, or nothing at all."""

import os
from pathlib import Path

import pytest

from gpt_model.config import ModelConfig, RunConfig, TrainConfig
from gpt_model.errors import CheckpointError
from gpt_model.runs import Run
from gpt_tui.checkpoint_names import list_checkpoints, resolve_checkpoint
from gpt_tui.locations import BUNDLED, Locations, bundled_model, find_locations


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Locations:
    """A home and an empty working directory of the test's own."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return find_locations({"GPT_TUI_HOME": str(tmp_path / "home")})


def make_checkpoint(path: Path, saved_at: float = 1000.0) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    os.utime(path / "config.json", (saved_at, saved_at))
    return path


def make_run(places: Locations, name: str, steps: tuple[int, ...] = (100, 200, 300), best: int | None = 200) -> Run:
    run = Run.create(places.runs, RunConfig(ModelConfig(), TrainConfig()), name)
    for step in steps:
        make_checkpoint(run.directory / "checkpoints" / f"step-{step:08d}", saved_at=step)
    if best is not None:
        (run.directory / "checkpoints" / "best").symlink_to(f"step-{best:08d}")
    return run


@pytest.mark.parametrize(
    ("name", "step"), [("bard", 200), ("bard:", 200), ("bard:best", 200), ("bard:last", 300), ("bard:100", 100)]
)
def test_a_run_and_which_of_its_checkpoints(places: Locations, name: str, step: int) -> None:
    run = make_run(places, "bard")
    found = resolve_checkpoint(name, places)
    assert found.path == run.directory / "checkpoints" / f"step-{step:08d}"
    assert found.label == name


def test_a_run_without_a_best_one_means_its_last(places: Locations) -> None:
    run = make_run(places, "bard", best=None)
    assert resolve_checkpoint("bard", places).path == run.directory / "checkpoints" / "step-00000300"


def test_a_step_that_is_not_there_is_told_with_those_that_are(places: Locations) -> None:
    make_run(places, "bard")
    with pytest.raises(CheckpointError, match=r"no checkpoint '150'\. It has: best, last, 100, 200, 300"):
        resolve_checkpoint("bard:150", places)


def test_a_run_without_checkpoints_is_told(places: Locations) -> None:
    make_run(places, "young", steps=(), best=None)
    with pytest.raises(CheckpointError, match="'young' has no checkpoint yet"):
        resolve_checkpoint("young", places)


def test_a_run_whose_configuration_is_damaged_is_an_unusable_checkpoint(places: Locations) -> None:
    run = make_run(places, "bard")
    (run.directory / "config.toml").write_text("model = = 1")
    with pytest.raises(CheckpointError, match=r"config\.toml"):
        resolve_checkpoint("bard:last", places)


def test_a_model_by_name(places: Locations) -> None:
    path = make_checkpoint(places.models / "gpt2")
    assert resolve_checkpoint("gpt2", places).path == path


def test_a_name_goes_before_a_path_and_a_dot_slash_makes_it_a_path(places: Locations) -> None:
    model, here = make_checkpoint(places.models / "gpt2"), make_checkpoint(Path("gpt2").absolute())
    assert resolve_checkpoint("gpt2", places).path == model
    assert resolve_checkpoint("./gpt2", places).path == here


def test_a_path_is_made_absolute(places: Locations) -> None:
    here = make_checkpoint(Path("out/best").absolute())
    found = resolve_checkpoint("out/best", places)
    assert (found.path, found.label) == (here, "best")
    Path("weights.pth").write_bytes(b"x")
    assert resolve_checkpoint("weights.pth", places).path == Path("weights.pth").absolute()


def test_the_path_of_a_run_means_the_runs_best_one(places: Locations) -> None:
    run = make_run(places, "bard")
    found = resolve_checkpoint(str(run.directory), places)
    assert found.path == run.directory / "checkpoints" / "step-00000200"


def test_nothing_means_the_bundled_model_until_there_is_another(places: Locations) -> None:
    assert resolve_checkpoint("", places).path == bundled_model()
    assert resolve_checkpoint("", places).label == BUNDLED
    run = make_run(places, "bard")
    assert resolve_checkpoint("", places).path == run.directory / "checkpoints" / "step-00000300"
    model = make_checkpoint(places.models / "newer", saved_at=301.0)
    assert resolve_checkpoint("", places).path == model
    assert resolve_checkpoint(BUNDLED, places).path == bundled_model()


@pytest.mark.parametrize(("asked", "nearest"), [("brad", "bard"), ("brad:best", "bard"), ("shakespear", BUNDLED)])
def test_an_unknown_name_is_told_with_the_nearest_one(places: Locations, asked: str, nearest: str) -> None:
    make_run(places, "bard")
    with pytest.raises(CheckpointError, match=f"no checkpoint '{asked}'.*Did you mean '{nearest}"):
        resolve_checkpoint(asked, places)


@pytest.mark.parametrize("asked", ["~nobody-of-that-name/x", "a" * 5000, "no\0thing", "../nothing", ":best"])
def test_what_can_be_no_name_is_a_sentence_too(places: Locations, asked: str) -> None:
    with pytest.raises(CheckpointError):
        resolve_checkpoint(asked, places)


def test_the_list_is_newest_first_and_ends_with_the_bundled_model(places: Locations) -> None:
    make_run(places, "bard")
    make_checkpoint(places.models / "gpt2", saved_at=250.0)
    make_checkpoint(places.models / ".tmp-gpt2-1")
    (places.models / "empty").mkdir()
    assert [each.label for each in list_checkpoints(places)] == ["bard:last", "gpt2", "bard:best", BUNDLED]


def test_every_listed_name_is_found_again(places: Locations) -> None:
    make_run(places, "bard")
    make_checkpoint(places.models / "gpt2")
    for each in list_checkpoints(places):
        assert resolve_checkpoint(each.label, places) == each
