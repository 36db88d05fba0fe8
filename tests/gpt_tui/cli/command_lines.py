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


Cli = Callable[..., Outcome]
Start = Callable[..., "subprocess.Popen[bytes]"]
