"""Progress: how far a run has come. Saved with every checkpoint and shown in the status. Knows no torch."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gpt_model.smoothing import Smoothed


@dataclass
class Progress:
    """The numbers of a run that its weights and its optimizer do not hold."""

    step: int = 0
    """Updates made."""
    train_loss: Smoothed = field(default_factory=Smoothed)
    val_loss: float | None = None
    best_val_loss: float | None = None
    best_step: int | None = None
    evaluated_at: int = -1
    """The step of the latest evaluation, so that a resumed run neither repeats nor misses one."""
    sampled_at: int = -1
    elapsed_seconds: float = 0.0

    def measure(self, val_loss: float) -> bool:
        """Take in a validation loss of this step; return whether it is the best so far."""
        self.evaluated_at, self.val_loss = self.step, val_loss
        # Compared so that what is no number is never the best.
        is_best = val_loss < (math.inf if self.best_val_loss is None else self.best_val_loss)
        if is_best:
            self.best_val_loss, self.best_step = val_loss, self.step
        return is_best

    def catch_up(self, events: Sequence[dict[str, Any]]) -> None:
        """Take in evaluations of this step that were made after its checkpoint was saved, from the events since."""
        for event in events:
            if event.get("step") == self.step and "val_loss" in event:
                self.measure(float(event["val_loss"]))

    def to_state(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return asdict(self) | {"train_loss": vars(self.train_loss).copy()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Progress":
        """Return what `to_state` was called on."""
        return cls(**state | {"train_loss": Smoothed(**state["train_loss"])})
