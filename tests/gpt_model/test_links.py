"""The links last and best: where there can be none, or a copy has followed them, no checkpoint is lost by that."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from run_facts import kinds, steps_of

from gpt_model.runs import Run, Status
from gpt_model.update import Updater

pytest_plugins = ["tiny_runs"]

MakeRun = Callable[..., Run]
TrainHere = Callable[..., Status]


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the second evaluation the best."""
    values = iter([3.0, 1.0, 2.0, 2.0, 2.0])
    monkeypatch.setattr(Updater, "evaluate", lambda self, batches, broken_off: next(values))


def refuse(link: Path, target: str) -> None:
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.usefixtures("losses")
def test_on_a_disk_without_links_the_best_is_kept_and_found(
    make_run: MakeRun, train_here: TrainHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "symlink_to", refuse)
    run = make_run(eval_interval=4, checkpoint_interval=2, keep_checkpoints=2)
    assert train_here(run).state == "finished"
    assert steps_of(run) == [8, 18, 20]
    assert run.checkpoint_path("best").name == "step-00000008"
    told = [event["message"] for event in run.read_events()[0] if event["kind"] == "fail"]
    assert len(told) == 1
    assert "cannot be made: Operation not permitted" in told[0]


@pytest.mark.usefixtures("losses")
def test_a_run_that_was_copied_through_its_links_goes_on(
    make_run: MakeRun, train_here: TrainHere, tmp_path: Path
) -> None:
    run = make_run(eval_interval=4, checkpoint_interval=2, keep_checkpoints=2, max_steps=10)
    train_here(run)
    copy = Run.at(Path(shutil.copytree(run.directory, tmp_path / "copied")))  # which follows them
    folder = copy.directory / "checkpoints"
    assert (folder / "best").is_dir()
    assert not (folder / "best").is_symlink()
    assert copy.checkpoint_path("best") == folder / "step-00000008"
    assert train_here(copy).state == "finished"
    assert (folder / "best").readlink() == Path("step-00000008")
    assert (folder / "last").readlink() == Path("step-00000010")
    assert "fail" not in kinds(copy)
    assert {path.name for path in folder.iterdir()} == {
        *(f"step-{step:08d}" for step in steps_of(copy)),
        "best",
        "last",
    }


def test_a_directory_in_the_place_of_a_link_that_is_no_copy_is_left_alone(
    make_run: MakeRun, train_here: TrainHere
) -> None:
    run = make_run(checkpoint_interval=10)
    mine = run.directory / "checkpoints" / "last" / "mine.txt"
    mine.parent.mkdir()
    mine.touch()
    assert train_here(run).state == "finished"
    assert mine.exists()
    assert kinds(run).count("fail") == 1
    assert run.checkpoint_path("last").name == "step-00000020"
