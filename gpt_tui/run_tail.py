"""RunTail: one run as a viewer sees it, read incrementally from its directory. Knows no screen; blocks on files."""

from dataclasses import dataclass, field
from typing import Any

from gpt_model.runs import Run, SavedCheckpoint, Status, extend_metrics


@dataclass
class RunTail:
    """What has been read of a run so far; `read` adds what is new."""

    run: Run
    status: Status = field(default_factory=Status)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    checkpoints: list[SavedCheckpoint] = field(default_factory=list)
    _offsets: list[int] = field(default_factory=lambda: [0, 0, 0])

    def read(self) -> bool:
        """Read on; return whether anything is new."""
        before = (self.status, *self._offsets)
        metrics, self._offsets[0] = self.run.read_metrics(self._offsets[0])
        extend_metrics(self.metrics, metrics)
        events, self._offsets[1] = self.run.read_events(self._offsets[1])
        samples, self._offsets[2] = self.run.read_samples(self._offsets[2])
        self.events += events
        self.samples += samples
        self.status = self.run.status()
        self.checkpoints = self.run.checkpoints()
        return before != (self.status, *self._offsets)

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """Return the steps and values of a metric: train_loss (raw), smoothed or val_loss."""
        points = [(each["step"], each[name]) for each in self.metrics if each.get(name) is not None]
        return [step for step, _ in points], [value for _, value in points]

    def steps_of(self, kind: str) -> list[int]:
        """Return the steps at which events of a kind happened."""
        return [event["step"] for event in self.events if event["kind"] == kind]
