"""Progress: how far a run has come. Saved with every checkpoint and shown in the status. Knows no torch."""

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

    def to_state(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return asdict(self) | {"train_loss": vars(self.train_loss).copy()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Progress":
        """Return what `to_state` was called on."""
        return cls(**state | {"train_loss": Smoothed(**state["train_loss"])})
