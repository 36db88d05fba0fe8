"""What the tests of training ask a run: its weights, its events, its checkpoints."""

import hashlib

from gpt_model.runs import Run


def weights_hash(run: Run, which: str = "last") -> str:
    return hashlib.sha256((run.checkpoint_path(which) / "model.safetensors").read_bytes()).hexdigest()


def kinds(run: Run) -> list[str]:
    return [event["kind"] for event in run.read_events()[0]]


def steps_of(run: Run) -> list[int]:
    return [saved.step for saved in run.checkpoints()]
