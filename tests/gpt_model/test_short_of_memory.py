"""When one of several processes has too little memory, all compute the batch in smaller parts; nothing is lost."""

import functools
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("short_of_memory.py")
ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def two_processes(micro_batch_size: int, where: str, room: int) -> dict[str, Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(rank), str(port), str(micro_batch_size), where, str(room)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env=None, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        said, complaint = both[0].communicate(timeout=60)
        both[1].communicate(timeout=60)
    finally:
        for process in both:
            process.kill()
    assert said, complaint
    told: dict[str, Any] = json.loads(said)
    return told


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_all_repeat_the_step_in_smaller_parts_with_the_same_random_numbers(where: str) -> None:
    planned = two_processes(2, "forward", 99)
    surprised = two_processes(4, where, 2)
    assert surprised == planned
    assert surprised["micro_batch_size"] == 2


def test_what_has_no_memory_for_one_sequence_says_so() -> None:
    told = two_processes(4, "forward", 0)
    assert told["error"].startswith("A process of this run has not enough memory for one sequence at a time.")
