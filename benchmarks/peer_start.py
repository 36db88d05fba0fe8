"""Wall time from the shell to the first token, interleaved: what a person waits for who asks for one completion."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from peer_quiet import least_disturbed

_SHORTEST = """
import sys, torch
from transformers import GPT2LMHeadModel
model = GPT2LMHeadModel.from_pretrained(sys.argv[1])
ids = torch.tensor([[1, 2, 3]])
print(model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, pad_token_id=0)[0, -1].item())
"""


def programs(checkpoint: Path) -> dict[str, list[str]]:
    """Return the command lines by the names of their lines in the table."""
    ours = [sys.executable, "-m", "gpt_tui", "complete", "--max-new-tokens", "1", "--device", "cpu"]
    return {
        "transformers, the shortest script": [sys.executable, "-c", _SHORTEST, str(checkpoint)],
        "gpt-tui complete, the same checkpoint": [*ours, "Hello", "-m", str(checkpoint)],
        "gpt-tui complete, the bundled model": [*ours, "ROMEO:", "-m", "shakespeare-mini"],
        "python -c 'import torch', for comparison": [sys.executable, "-c", "import torch; print(1)"],
    }


def measure_start(
    checkpoint: Path, work: Path, environment: Mapping[str, str], rounds: int
) -> dict[str, list[float] | str]:
    """Return for each program its seconds, or why it failed. One more round than asked for warms the files' cache."""
    told: dict[str, list[float] | str] = {}
    for number in range(rounds + 1):
        for name, command in programs(checkpoint).items():
            before = told.setdefault(name, [])
            if isinstance(before, str):
                continue
            seconds, _ = least_disturbed(partial(seconds_to_first_byte, command, work, environment))
            if isinstance(seconds, str):
                told[name] = seconds
            elif number:
                before.append(seconds)
    return told


def seconds_to_first_byte(command: list[str], work: Path, environment: Mapping[str, str]) -> float | str:
    """Run a program until it says something; return the seconds, or the last line of its complaint."""
    with tempfile.TemporaryFile() as complaint:
        began = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaint, cwd=work, env=environment) as child:
            assert child.stdout is not None
            child.stdout.read(1)
            seconds = time.perf_counter() - began
            child.stdout.read()
        if child.returncode == 0:
            return seconds
        complaint.seek(0)
        lines = complaint.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {child.returncode}"
