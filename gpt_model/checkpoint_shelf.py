"""The checkpoints of one run: saved, linked as last and best, pruned, and found again after a crash."""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gpt_model.checkpoint import MANIFEST, load_model_and_tokenizer, load_training_state, save_checkpoint
from gpt_model.errors import CheckpointError
from gpt_model.model import GPT
from gpt_model.runs import Run
from gpt_model.tokenizer import Tokenizer

_ASIDE = "left-"
"""Begins the names of checkpoints whose steps were given up when the run went back."""


class CheckpointShelf:
    """The checkpoints/ directory of a run, for whoever holds its lock."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._directory = run.directory / "checkpoints"

    def sweep(self) -> None:
        """Delete what a worker that was killed left half written or half deleted."""
        for path in self._directory.glob(".*"):
            if path.is_symlink():  # was to become last or best
                path.unlink(missing_ok=True)
            elif path.name.startswith((".tmp-", ".gone-")):
                shutil.rmtree(path, ignore_errors=True)

    def save(self, step: int, model: GPT, tokenizer: Tokenizer, state: Mapping[str, Any]) -> None:
        """Commit the checkpoint of a step and make it the last one.

        Raises:
            CheckpointError: the disk refuses; earlier checkpoints are untouched.
        """
        path = self._directory / f"step-{step:08d}"
        save_checkpoint(path, model, tokenizer, state)
        self._link("last", path)

    def mark_best(self, step: int) -> None:
        """Make the checkpoint of a step the best one."""
        self._link("best", self._directory / f"step-{step:08d}")

    def prune(self, keep: int) -> None:
        """Delete all but the newest `keep` checkpoints and the best one, and what was set aside; 0 keeps all.

        What was set aside stays until training has come as far again.
        """
        if not keep:
            return
        saved = self._run.checkpoints()
        for each in saved[:-keep]:
            if not each.is_best:
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
        self.repair_links(None)

    def repair_links(self, best_step: int | None) -> None:
        """Have `last` name the newest checkpoint, and `best` that of `best_step`, or none that is gone."""
        saved = self._run.checkpoints()
        if saved:
            self._link("last", saved[-1].path)
        if any(each.step == best_step and not each.is_best for each in saved):
            self.mark_best(best_step or 0)
        for name in ("best", "last"):
            link = self._directory / name
            if link.is_symlink() and not link.exists():
                link.unlink(missing_ok=True)

    def _delete(self, path: Path) -> None:
        # Renamed first: a deletion that is cut short leaves no checkpoint that only looks whole.
        gone = path.with_name(f".gone-{path.name}")
        with contextlib.suppress(OSError):
            path.rename(gone)
            shutil.rmtree(gone)

    def load_newest(self, on_damage: Callable[[str], object]) -> tuple[GPT, Tokenizer, dict[str, Any]] | None:
        """Return the newest checkpoint that is whole, with its training state; None when there was never one.

        A damaged one is set aside under another name and told to `on_damage`.

        Raises:
            CheckpointError: there are checkpoints and none is whole.
        """
        saved = self._run.checkpoints()
        damage = None
        for each in reversed(saved):
            try:
                if not (each.path / MANIFEST).is_file():
                    raise CheckpointError(f"{each.path} has no {MANIFEST}, so nobody knows whether it is whole.")
                return *load_model_and_tokenizer(each.path), load_training_state(each.path)
            except CheckpointError as error:
                damage = error
                with contextlib.suppress(OSError):
                    each.path.rename(each.path.with_name(f"damaged-{each.path.name}-{time.time_ns()}"))
                on_damage(f"Checkpoint {each.step:,} was set aside. {error}")
        if damage is not None:
            raise CheckpointError(
                f"None of the {len(saved)} checkpoints of the run '{self._run.name}' can be read. {damage} "
                "Begin a new run."
            )
        return None

    def _link(self, name: str, target: Path) -> None:
        fresh = self._directory / f".{name}-{os.getpid()}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target.name)
        fresh.replace(self._directory / name)
