"""Edits: settings that were changed after a run began, found again in its events. Knows no torch.

A checkpoint holds the settings of its step. What was set after it is made again at the same steps when training goes on
from it, so that the weights become those of a run that was never interrupted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gpt_model.config import TrainConfig
from gpt_model.mailbox import apply_live_settings


@dataclass(frozen=True)
class Edit:
    """Settings that are changed when so many updates are made."""

    step: int
    settings: dict[str, Any]


def find_edits(events: Sequence[dict[str, Any]]) -> list[Edit]:
    """Return the edits that are still to come among the events since a checkpoint, in the order of their steps.

    Going back to a step makes void what was set there and after it. What was set while nobody trained (`at_rest`) holds
    from its step on: earlier edits of the same settings that would come later are void.
    """
    edits: list[Edit] = []
    for event in events:
        if event.get("kind") == "rewind" and "to" in event:
            edits = [edit for edit in edits if edit.step < event["to"]]
        elif event.get("kind") == "edit" and isinstance(event.get("settings"), dict):
            step, settings = int(event["step"]), event["settings"]
            if event.get("at_rest"):
                edits = [edit if edit.step < step else _without(edit, settings) for edit in edits]
            edits.append(Edit(step, settings))
    # stable: of one step the later edit stays the later one
    return sorted((edit for edit in edits if edit.settings), key=lambda edit: edit.step)


def settings_after(train: TrainConfig, events: Sequence[dict[str, Any]]) -> TrainConfig:
    """Return the settings with which a run that began with `train` will go on, by all its events."""
    for edit in find_edits(events):
        train = apply_live_settings(train, edit.settings)
    return train


def describe_changes(before: TrainConfig, after: TrainConfig, changes: dict[str, Any]) -> str:
    """Return changes of settings in words, as in "grad_clip 1.0 → 0.5"."""
    return ", ".join(f"{name} {getattr(before, name)} → {getattr(after, name)}" for name in changes)


def _without(edit: Edit, settings: dict[str, Any]) -> Edit:
    return Edit(edit.step, {name: value for name, value in edit.settings.items() if name not in settings})
