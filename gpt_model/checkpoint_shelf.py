"""The checkpoints of one run: saved, linked as last and best, pruned, and found again after a crash."""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from gpt_model.checkpoint import load_model_and_tokenizer, load_training_state, save_checkpoint
from gpt_model.errors import CheckpointError, DamageError
from gpt_model.manifest import MANIFEST, require_manifest, verify
from gpt_model.model import GPT
from gpt_model.runs import Run, SavedCheckpoint
from gpt_model.tokenizer import Tokenizer

_ASIDE = "left-"
"""Begins the names of checkpoints whose steps were given up when the run went back."""
_DAMAGED = "damaged-"
"""Begins the names of those that are not what was saved."""


class CheckpointShelf:
    """The checkpoints/ directory of a run, for whoever holds its lock."""

    def __init__(self, run: Run, on_trouble: Callable[[str], object] = lambda message: None) -> None:
        self._run = run
        self._directory = run.directory / "checkpoints"
        self._on_trouble = on_trouble
        """Is told, once, when `last` or `best` cannot be made: they are for people, and no checkpoint needs them."""
        self._troubled = False

    def sweep(self) -> None:
        """Delete what a worker that was killed left half written or half deleted."""
        for path in self._directory.glob(".*"):
            if path.is_symlink():  # was to become last or best
                path.unlink(missing_ok=True)
            elif path.name.startswith((".tmp-", ".gone-")):
                shutil.rmtree(path, ignore_errors=True)

    def save(self, step: int, model: GPT, tokenizer: Tokenizer, state: Mapping[str, Any]) -> None:
        """Commit the checkpoint of a step.

        Raises:
            CheckpointError: the disk refuses; earlier checkpoints are untouched.
        """
        save_checkpoint(self._directory / f"step-{step:08d}", model, tokenizer, state)

    def prune(self, keep: int, best_step: int | None) -> None:
        """Delete all but the newest `keep` checkpoints and the best one, and what was set aside; 0 keeps all.

        What was set aside stays until training has come as far again.
        """
        if not keep:
            return
        saved = self._run.checkpoints()
        for each in saved[:-keep]:
            if not each.is_best and each.step != best_step:
                self._delete(each.path)
        for path in self._directory.glob(f"{_ASIDE}*"):
            step = path.name.removeprefix(_ASIDE).partition("-")[0]
            if step.isdecimal() and saved and int(step) <= saved[-1].step:
                self._delete(path)

    def set_aside_after(self, step: int) -> None:
        """Put the checkpoints of later steps where no resume takes them up.

        The highest first: killed in between, a run goes on from a checkpoint that was to be left, and loses nothing.
        """
        for saved in reversed(self._run.checkpoints()):
            if saved.step > step:
                with contextlib.suppress(OSError):
                    saved.path.rename(saved.path.with_name(f"{_ASIDE}{saved.step:08d}-{time.time_ns()}"))
        self.link(None)

    def link(self, best_step: int | None) -> None:
        """Have `last` name the newest checkpoint, and `best` that of `best_step`, or none that is gone."""
        saved = {each.step: each.path for each in self._run.checkpoints()}
        try:
            if saved:
                self._link("last", saved[max(saved)], saved.values())
            if best_step in saved:
                self._link("best", saved[best_step], saved.values())
            for name in ("best", "last"):
                link = self._directory / name
                if link.is_symlink() and not link.exists():
                    link.unlink(missing_ok=True)
        except OSError as error:
            if not self._troubled:
                self._troubled = True
                self._on_trouble(
                    f"The links last and best in {self._directory} cannot be made: {error.strerror or error}. "
                    "The checkpoints are kept and found without them."
                )

    def _delete(self, path: Path) -> None:
        # Renamed first: a deletion that is cut short leaves no checkpoint that only looks whole.
        gone = path.with_name(f".gone-{path.name}")
        with contextlib.suppress(OSError):
            path.rename(gone)
            shutil.rmtree(gone)

    def require_whole(self, checkpoint: Path) -> None:
        """Refuse a checkpoint that is not what was saved.

        Raises:
            DamageError: it is damaged.
            CheckpointError: it cannot be looked at.
        """
        require_manifest(checkpoint)
        verify(checkpoint)

    def newest_whole(self) -> Path | None:
        """Return the newest checkpoint that is what was saved; None when there is none.

        Raises:
            CheckpointError: one cannot be looked at.
        """
        for each in reversed(self._run.checkpoints()):
            with contextlib.suppress(DamageError):
                self.require_whole(each.path)
                return each.path
        return None

    def load_newest(self, on_damage: Callable[[str], object]) -> tuple[GPT, Tokenizer, dict[str, Any]] | None:
        """Return the newest checkpoint that is whole, with its training state; None when there was never one.

        Damaged ones that are newer are set aside under another name and told to `on_damage`. When none is whole all
        keep their names, so that nobody ever takes the run for one that has not begun.

        Raises:
            CheckpointError: there are checkpoints and none is whole, or one cannot be read though it is not damaged.
        """
        damaged: list[tuple[SavedCheckpoint, DamageError]] = []
        for each in reversed(self._run.checkpoints()):
            try:
                require_manifest(each.path)  # loading compares with it
                found = *load_model_and_tokenizer(each.path), load_training_state(each.path)
            except DamageError as error:
                damaged.append((each, error))
                continue
            for bad, why in damaged:
                with contextlib.suppress(OSError):
                    bad.path.rename(bad.path.with_name(f"{_DAMAGED}{bad.path.name}-{time.time_ns()}"))
                on_damage(f"Checkpoint {bad.step:,} was set aside. {why}")
            return found
        before = sum(1 for _ in self._directory.glob(f"{_DAMAGED}*"))
        if count := len(damaged) + before:
            reason = str(damaged[-1][1]) if damaged else f"They are set aside as damaged in {self._directory}."
            raise CheckpointError(
                f"None of the {count} checkpoints of the run '{self._run.name}' can be read. {reason} Begin a new run."
            )
        return None

    def _link(self, name: str, target: Path, saved: Collection[Path]) -> None:
        link, fresh = self._directory / name, self._directory / f".{name}-{os.getpid()}"
        if link.is_symlink() and link.readlink() == Path(target.name):
            return
        if not link.is_symlink() and link.is_dir():
            seal = _seal_of(link)  # of a copy that has followed the link: a whole checkpoint, which stands here twice
            if seal and any(seal == _seal_of(each) for each in saved):
                self._delete(link)
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target.name)
        fresh.replace(link)


def _seal_of(checkpoint: Path) -> bytes:
    try:
        return (checkpoint / MANIFEST).read_bytes()
    except OSError:
        return b""
