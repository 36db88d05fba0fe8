"""What a person calls a checkpoint, and where that is: a path, a model's name, RUN, RUN:best, RUN:last, RUN:STEP."""

from dataclasses import dataclass
from pathlib import Path

from gpt_model.errors import CheckpointError, GptError, did_you_mean
from gpt_model.runs import Run, list_runs
from gpt_tui.locations import BUNDLED, Locations, bundled_model


@dataclass(frozen=True)
class ResolvedCheckpoint:
    """A checkpoint with the name to show for it."""

    label: str
    path: Path


def resolve_checkpoint(name: str, locations: Locations) -> ResolvedCheckpoint:
    """Return the checkpoint of a name; an empty one is the newest of all runs and models, else the bundled one.

    A model's or a run's name goes before a path of the same spelling; `./NAME` is always the path.

    Raises:
        CheckpointError: nothing has that name; the nearest one is in the message.
    """
    if not name:
        saved = [each for each in list_checkpoints(locations) if each.label != BUNDLED]
        return max(saved, key=_saved_at) if saved else ResolvedCheckpoint(BUNDLED, bundled_model())
    try:
        found = _find(name, locations)
    except (OSError, RuntimeError) as error:  # a name too long for a path, a directory of others, an unknown ~user
        raise CheckpointError(f"The checkpoint '{name}' cannot be looked up: {str(error).rstrip('.')}.") from error
    except CheckpointError:
        raise
    except GptError as error:
        raise CheckpointError(str(error)) from error
    if found is None:
        known = [run.name for run in list_runs(locations.runs)] + [each.label for each in list_checkpoints(locations)]
        hint = did_you_mean(name.partition(":")[0], {each.partition(":")[0] for each in known})
        raise CheckpointError(f"There is no checkpoint '{name}': neither a model, nor a run, nor a path.{hint}")
    return found


def _find(name: str, locations: Locations) -> ResolvedCheckpoint | None:
    run_name, _, which = name.partition(":")
    if "/" not in name and (locations.models / name / "config.json").is_file():
        return ResolvedCheckpoint(name, locations.models / name)
    if "/" not in run_name and (locations.runs / run_name / "config.toml").is_file():
        return ResolvedCheckpoint(name, Run.open(locations.runs, run_name).checkpoint_path(which))
    if name == BUNDLED:
        return ResolvedCheckpoint(BUNDLED, bundled_model())
    path = Path(name).expanduser().absolute()
    if (path / "config.toml").is_file() and (path / "checkpoints").is_dir():  # a run's directory
        return ResolvedCheckpoint(path.name, Run.at(path).checkpoint_path())
    return ResolvedCheckpoint(path.name, path) if path.exists() else None


def list_checkpoints(locations: Locations) -> list[ResolvedCheckpoint]:
    """Return what can be opened by name: runs (best and last), models, and the bundled one; newest first."""
    found = []
    for run in list_runs(locations.runs):
        for saved in run.checkpoints():
            if saved.is_best:
                found.append(ResolvedCheckpoint(f"{run.name}:best", saved.path))
            if saved.is_last:
                found.append(ResolvedCheckpoint(f"{run.name}:last", saved.path))
    if locations.models.is_dir():
        found += [
            ResolvedCheckpoint(path.name, path)
            for path in locations.models.iterdir()
            if (path / "config.json").is_file() and not path.name.startswith(".")
        ]
    found.sort(key=_saved_at, reverse=True)
    return [*found, ResolvedCheckpoint(BUNDLED, bundled_model())]


def _saved_at(checkpoint: ResolvedCheckpoint) -> float:
    try:
        return (checkpoint.path / "config.json").stat().st_mtime
    except OSError:  # pruned while we looked
        return 0.0
