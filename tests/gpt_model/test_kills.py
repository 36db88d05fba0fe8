"""Workers that are killed at random instants: the harness tells what must hold. By hand it makes hundreds of kills."""

import json
import subprocess
import sys
from pathlib import Path


def test_killed_workers_lose_nothing_that_was_committed(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).parent / "kill_harness.py"), "--kills", "9", "--seed", "4"]
    done = subprocess.run([*command, "--directory", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kills"] >= 9
    assert set(found["finished"]) == {"adamw", "muon"}
