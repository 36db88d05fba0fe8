"""Two hosts train one run: network namespaces joined by a cable, a torchrun in each, beside one process alone.

unshare -rmn python tests/gpt_model/two_hosts.py        (Linux, ip of iproute2; no rights of an administrator needed)

The second host has no run directory: all it needs comes over the network. What must hold: both end, and every loss is
that of one process to 1e-4.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kill_harness import MODEL, TEXT, TRAIN, check

from gpt_model.config import RunConfig
from gpt_model.config_values import apply_settings
from gpt_model.runs import Run

STEPS = 100
ADDRESSES = ("10.71.0.1", "10.71.0.2")


def main() -> None:
    """Train alone and on two hosts, and compare."""
    _ip("link", "set", "lo", "up")
    second = subprocess.Popen(["unshare", "-n", "sleep", "600"])  # a host is whoever has a network of its own
    try:
        time.sleep(0.5)
        _lay_cable(second.pid)
        with tempfile.TemporaryDirectory(prefix="two-hosts-") as directory:
            print(json.dumps(_compare(Path(directory), second.pid)))
    finally:
        second.kill()


def _compare(directory: Path, second: int) -> dict[str, object]:
    (directory / "text.txt").write_text(TEXT, encoding="utf-8")
    sets = {"max_steps": str(STEPS), "dropout": "0.0", "batch_size": "8", "learning_rate": "1e-3"}
    model, train = apply_settings(MODEL, TRAIN, sets)
    config = RunConfig(model, train, files=(str(directory / "text.txt"),))
    alone, together = (Run.create(directory / "runs", config, name) for name in ("alone", "together"))
    subprocess.run([sys.executable, "-m", "gpt_model.worker", str(alone.directory)], check=True)
    hosts = []
    for rank, address in enumerate(ADDRESSES):
        command = [
            sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", f"--node-rank={rank}",
            f"--master-addr={ADDRESSES[0]}", "--master-port=29517", f"--local-addr={address}", "-m",
            "gpt_model.worker", str(together.directory) if not rank else "/nowhere",
        ]  # fmt: skip
        enter = ["nsenter", "-t", str(second), "-n"] if rank else []
        interface = {"GLOO_SOCKET_IFNAME": f"cable{rank}", "OMP_NUM_THREADS": "1"}
        hosts.append(subprocess.Popen([*enter, *command], env=os.environ | interface))
    codes = [host.wait(timeout=300) for host in hosts]
    check(codes == [0, 0], together, f"the hosts ended with {codes}: {together.status().message}")
    told = [[record for record in run.read_metrics()[0] if "train_loss" in record] for run in (alone, together)]
    losses = [[record["train_loss"] for record in records] for records in told]
    check(len(losses[0]) == len(losses[1]) == STEPS, together, f"{[len(each) for each in losses]} losses")
    difference = max(abs(one / other - 1) for one, other in zip(*losses, strict=True))
    check(difference < 1e-4, together, f"the losses differ by {difference:.1e}")
    start = together.read_events()[0][0]["message"]
    check("2 processes" in start, together, start)
    return {"steps": STEPS, "largest relative difference": difference, "hosts": 2}


def _lay_cable(second: int) -> None:
    _ip("link", "add", "cable0", "type", "veth", "peer", "name", "cable1", "netns", str(second))
    _ip("addr", "add", f"{ADDRESSES[0]}/24", "dev", "cable0")
    _ip("link", "set", "cable0", "up")
    inside = ["nsenter", "-t", str(second), "-n", "ip"]
    for arguments in (["link", "set", "lo", "up"], ["addr", "add", f"{ADDRESSES[1]}/24", "dev", "cable1"],
                      ["link", "set", "cable1", "up"]):  # fmt: skip
        subprocess.run([*inside, *arguments], check=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


if __name__ == "__main__":
    main()
