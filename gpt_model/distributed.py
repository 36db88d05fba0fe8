"""Company: the processes that train one run together, and how they find and hear each other. Knows no run, no model.

Rank 0 is the trainer as it always is: it alone has the run directory, decides, and tells the others what to take part
in. The others follow. They are started here by rank 0, or everywhere by torchrun, whose variables are then obeyed:

    torchrun --nnodes 2 --node-rank 0 --nproc-per-node 4 --master-addr HOST --master-port 29500
        -m gpt_model.worker RUN_DIRECTORY  (all on one line; --node-rank is each host's own)
"""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
from torch import distributed
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from gpt_model.errors import RunError
from gpt_model.vigil import Vigil

_PATIENCE = timedelta(days=365)
"""A run may be paused for as long; a process that dies is noticed by its connections, at once, or by the vigil."""
_GATHERING = timedelta(minutes=5)
_FAREWELL_SECONDS = 20.0
_NOTICE_SECONDS = 10.0
"""Within which a process notices by itself that another is gone, unless it waits for that one where nothing tells."""
LOST = "Another process of this run was lost, so this one ends too. Resume the run to go on from its last checkpoint."


@dataclass(frozen=True)
class Company:
    """The processes of a run, seen by one of them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    """Processes on this machine."""
    machine_threads: int = field(default_factory=torch.get_num_threads)
    """CPU threads that torch would take on this machine, before its processes share them."""

    def tell(self, what: str, *arguments: Any) -> None:
        """Tell all other processes what is done next; for rank 0.

        Raises:
            RunError: one of them is gone.
        """
        with together():
            distributed.broadcast_object_list([what, arguments], src=0)

    def hear(self) -> tuple[str, tuple[Any, ...]]:
        """Wait for what rank 0 tells.

        Raises:
            RunError: it is gone.
        """
        told: list[Any] = [None, None]
        with together():
            distributed.broadcast_object_list(told, src=0)
        return told[0], told[1]

    def own_device(self, device: torch.device) -> torch.device:
        """Return this process's device of a kind: every process of a machine has a GPU of its own."""
        if self.size == 1 or str(device) != "cuda":
            return device
        own = torch.device("cuda", self.local_rank)
        torch.cuda.set_device(own)
        return own

    def share_threads(self, threads: int) -> None:
        """Set this process's CPU threads; 0 shares the machine's among its processes."""
        if threads or self.local_size > 1:
            torch.set_num_threads(threads or max(self.machine_threads // self.local_size, 1))


@contextmanager
def together() -> Iterator[None]:
    """Say in a sentence that a process is gone with which something was to be done.

    Raises:
        RunError: it is.
    """
    try:
        yield
    except RuntimeError as error:  # gloo raises no kind of its own
        if not _is_lost(error):
            raise
        raise RunError(LOST) from error


def _is_lost(error: RuntimeError) -> bool:
    signs = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe")
    return isinstance(error, distributed.DistError) or any(sign in str(error).lower() for sign in signs)


@contextmanager
def gather(processes: int, last_words: Callable[[], object]) -> Iterator[Company]:
    """Have a run's processes together, as rank 0; the others are told to end when the context is left.

    Args:
        processes: how many to start on this machine; torchrun's variables, where they are set, decide instead.
        last_words: called before this process is ended because another is lost and waiting for it has no end.

    Raises:
        RunError: they cannot be started, or do not come.
    """
    if "WORLD_SIZE" not in os.environ and processes == 1:
        yield Company()
        return
    followers: list[subprocess.Popen[bytes]] = []
    over = threading.Event()

    def on_loss() -> None:
        """End this process: its main thread waits where nothing tells it that another is lost."""
        try:
            last_words()
        finally:
            for follower in followers:
                follower.kill()  # a frozen one would stay
            os._exit(1)

    try:
        try:
            company = join(on_loss, over) if "WORLD_SIZE" in os.environ else _start(processes, followers, on_loss, over)
        except (OSError, RuntimeError) as error:
            raise RunError(f"The run's {processes} processes did not come together: {error}") from error
        yield company
        over.set()
        company.tell("end")
        for follower in followers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                follower.wait(_FAREWELL_SECONDS)
    finally:
        over.set()
        for follower in followers:
            follower.kill()
            follower.wait()
            if follower.stdin:
                follower.stdin.close()
        if distributed.is_initialized():
            distributed.destroy_process_group()


def join(on_loss: Callable[[], object], over: threading.Event) -> Company:
    """Join the company that the environment names, as torchrun does it.

    Args:
        on_loss: called from another thread when one is lost whose connection stays, as this process then waits for it.
        over: set when the others may go.

    Raises:
        RuntimeError: the others do not come.
        ValueError: a variable is missing.
    """
    distributed.init_process_group(_backend(), timeout=_PATIENCE)
    local = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    company = Company(distributed.get_rank(), distributed.get_world_size(), *local)
    _keep_vigil(company, os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), on_loss, over)
    return company


def _start(
    processes: int, followers: list[subprocess.Popen[bytes]], on_loss: Callable[[], object], over: threading.Event
) -> Company:
    """Start the other processes on this machine and gather with them; they are added to `followers` at once."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the machine's own name need not resolve
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=_GATHERING)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": str(processes)}
    address["LOCAL_WORLD_SIZE"] = str(processes)
    for rank in range(1, processes):
        command = [sys.executable, "-P", "-m", "gpt_model.worker", ".", "--follow"]
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        followers.append(subprocess.Popen(command, stdin=subprocess.PIPE, env=os.environ | address | own))
    threading.Thread(target=_watch, args=(followers, on_loss, over), daemon=True).start()
    shared = PrefixStore("default_pg", store)  # where the others look, who find it through their environment
    distributed.init_process_group(_backend(), store=shared, rank=0, world_size=processes, timeout=_PATIENCE)
    company = Company(0, processes, 0, processes)
    _keep_vigil(company, "127.0.0.1", store.port, on_loss, over)
    return company


def _keep_vigil(company: Company, host: str, port: int, on_loss: Callable[[], object], over: threading.Event) -> None:
    """Have rank 0 watch over the others, and them over it: when it ends, all do."""
    store = TCPStore(host, port, wait_for_workers=False, timeout=_GATHERING)
    Vigil(store, company.rank, range(1, company.size) if company.rank == 0 else [0], on_loss, over)


def _watch(followers: list[subprocess.Popen[bytes]], on_loss: Callable[[], object], over: threading.Event) -> None:
    """End this process when a follower is lost and the rest of it waits for that one for ever."""
    while all(follower.poll() is None for follower in followers):
        if over.wait(1.0):
            return
    if not over.wait(_NOTICE_SECONDS):
        on_loss()


def _backend() -> str:
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
