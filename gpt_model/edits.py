"""Edits: settings that were changed while a run was running, found again in its events. Knows no torch.

A checkpoint holds the settings of its step. What was set after it is made again at the same steps when training goes on
from it, so that the weights become those of a run that was never interrupted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Edit:
    """Settings that are changed when so many updates are made."""

    step: int
    settings: dict[str, Any]


def find_edits(events: Sequence[dict[str, Any]]) -> list[Edit]:
    """Return the edits that are still to come among the events since a checkpoint, in the order of their steps.

    Going back to a step makes void what was set there and after it.
    """
    edits: list[Edit] = []
    for event in events:
        if event.get("kind") == "rewind" and "to" in event:
            edits = [edit for edit in edits if edit.step < event["to"]]
        elif event.get("kind") == "edit" and isinstance(event.get("settings"), dict):
            edits.append(Edit(int(event["step"]), event["settings"]))
    return sorted(edits, key=lambda edit: edit.step)  # stable: of one step the later edit stays the later one
