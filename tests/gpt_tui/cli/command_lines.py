"""What the tests of the command line call what they are given."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """What a command line left behind."""

    code: int
    out: str
    err: str


TINY = {
    "n_layer": 1, "n_head": 1, "n_embd": 16, "block_size": 16, "batch_size": 4, "max_steps": 20, "eval_interval": 10,
    "eval_batches": 2, "checkpoint_interval": 10, "sample_interval": 0, "threads": 1, "warmup_steps": 0,
}  # fmt: skip
"""A run that is over in a second."""

Cli = Callable[..., Outcome]
Start = Callable[..., "subprocess.Popen[bytes]"]
