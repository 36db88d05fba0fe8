"""A harness that takes the disk away from workers: full, read-only, and killed while it is so.

unshare -rm python tests/gpt_model/disk_harness.py [--troubles 40] [--seed 1]

The run lies in a tmpfs of 4 MB (the mount is this process's own, hence unshare), which is filled and emptied at random
instants while a worker trains. The worker's log lies there too. What must hold is what kill_harness.py says of
checkpoints and weights; what could not be told when it was due is told later, unless the worker is killed before; and
no worker that was not killed ends but by its own decision.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from kill_harness import Harness, check

from gpt_model.checkpoint import load_model_and_tokenizer, load_training_state
from gpt_model.runs import ALIVE, Run


class DiskHarness(Harness):
    """Runs on a disk that comes and goes."""

    sends_edit = False  # on a full disk a change is refused, and this sender would not send it again

    def trouble(self, troubles: int) -> dict[str, int]:
        """Fill the disk that often, kill every third worker meanwhile, and compare what comes out; return counts."""
        straight = self.train_undisturbed("adamw")
        counts = {"filled": 0, "killed": 0, "failed": 0, "read-only": 0, "checkpoints refused": 0}
        self.runs = disk = self.directory / "disk"
        disk.mkdir()
        _mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk))
        try:
            while counts["filled"] < troubles:
                run = self.create(f"troubled-{counts['filled']}", "adamw")
                while run.status().state != "finished":
                    self._trouble(run, disk, counts)
                refused = [event for event in run.read_events()[0] if "Training goes on." in event["message"]]
                counts["checkpoints refused"] += len(refused)
                self.compare_weights(run, straight)
                run.remove()
        finally:
            subprocess.run(["umount", str(disk)], check=True)
        return counts

    def open_log(self, run: Run) -> int:
        """Open the log where a launched worker has it; elsewhere when the disk lets nobody write."""
        try:
            return os.open(run.directory / "log.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        except OSError:
            return super().open_log(run)

    def _trouble(self, run: Run, disk: Path, counts: dict[str, int]) -> None:
        before = max((each.step for each in run.checkpoints()), default=0)
        if self.luck.random() < 0.2:
            _mount("-o", "remount,ro", str(disk))
            pid = self.fork(run)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            _mount("-o", "remount,rw", str(disk))
            counts["read-only"] += 1
            check(code in (1, 2), run, f"on a read-only disk the worker ended with {code}")
        pid = self.fork(run)
        time.sleep(self.luck.uniform(0.0, 0.5))
        ballast = disk / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        counts["filled"] += 1
        if self.luck.random() < 0.34:
            time.sleep(self.luck.uniform(0.0, 0.3))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            counts["killed"] += 1
            ballast.unlink()
        else:
            code = _exit_code(pid, self.luck.uniform(0.0, 0.3))
            ballast.unlink()
            if code is None:
                code = _exit_code(pid, 60.0)
            check(code in (0, 1), run, f"on a full disk the worker ended with {code}")
        status = run.status()
        check(status.state not in ALIVE, run, f"the state is {status.state}")
        counts["failed"] += status.state == "failed"
        for each in run.checkpoints():
            load_model_and_tokenizer(each.path)
            load_training_state(each.path)
        reached = max((each.step for each in run.checkpoints()), default=0)
        check(reached >= before, run, f"the newest checkpoint went back from {before} to {reached}")


def _exit_code(pid: int, seconds: float) -> int | None:
    """Wait for a child for so many seconds; return how it ended, or None when it has not."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.0005)
    return None


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def main() -> None:
    """Make trouble and tell what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--troubles", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, help="An empty one; without it, one that is deleted.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="troubles-") as directory:
        counts = DiskHarness(options.directory or Path(directory), options.seed).trouble(options.troubles)
    print(json.dumps(counts | {"seconds": round(time.monotonic() - began)}))


if __name__ == "__main__":
    sys.exit(main())
