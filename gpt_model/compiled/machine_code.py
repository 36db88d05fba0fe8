"""The compiled forward pass as a function to call: from the user's cache, or compiled now, once for this machine.

Loading takes LLVM's loader and a few milliseconds; numba, which made the code, is not imported.
"""

import ctypes
import fcntl
import functools
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import llvmlite.binding as llvm

from gpt_model.cache_directory import cache_directory
from gpt_model.compiled.cpu import cpu_key
from gpt_model.errors import GptError
from gpt_model.lifeline import lifeline

_KEPT = 4
_PATIENCE = 120.0
"""Seconds for which a process waits for what another one compiles."""
_LINKING = threading.Lock()
_MADE: dict[str, tuple[str, bytes]] = {}
"""What this process has compiled: without a disk it is nowhere else."""


class Entry:
    """Compiled code, called with the address of a table (layout.py) and a number: other threads run meanwhile."""

    def __init__(self, address: int) -> None:
        self.address = address
        # numba's own calling convention: where the result goes, where an error's description goes, the arguments
        kind = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
        self._native = kind(address)

    def __call__(self, table: int, number: int) -> None:
        nothing = (ctypes.c_void_p * 2)()
        place = ctypes.addressof(nothing)
        if status := self._native(place, place + 8, table, number):
            raise RuntimeError(f"the compiled code ended with status {status}")


class CompileError(GptError):
    """The code could not be compiled here."""


def compile_missing(names: Sequence[str], tell: Callable[[str], None]) -> None:
    """Compile the entries that the cache lacks, beside each other, and tell how far that is.

    Raises:
        CompileError: numba is missing or does not work here.
    """
    missing = [name for name in dict.fromkeys(names) if _read(name) is None]
    if not missing:
        return
    _require_numba()
    tell("Compiling for this CPU, once.")
    # The lifeline is left first: who gives up waits for no compiler.
    with ThreadPoolExecutor() as pool, lifeline() as line:
        works = [pool.submit(_compile, name, line) for name in missing]
        try:
            for done, work in enumerate(as_completed(works), start=1):
                work.result()
                if done < len(missing):
                    tell(f"Compiling for this CPU, once: {done} of {len(missing)}.")
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@functools.cache
def load_entry(name: str) -> Entry:
    """Return an entry (entry.py), compiled for this machine if it was not before.

    Raises:
        CompileError: numba is missing or does not work here.
    """
    if (code := _read(name)) is None:
        _require_numba()
        with lifeline() as line:
            code = _compile(name, line)
    with _LINKING:
        return _link(*code)


def _require_numba() -> None:
    if importlib.util.find_spec("numba") is None:
        raise CompileError("numba is not installed")


def _read(name: str) -> tuple[str, bytes] | None:
    """Return an entry from this process, or from the cache; None when it is in neither, or damaged."""
    if name in _MADE:
        return _MADE[name]
    try:
        return _parse((_directory() / f"{name}.o").read_bytes())
    except OSError:
        return None


def _parse(content: bytes) -> tuple[str, bytes] | None:
    """Return the symbol and the object file of what entry.py has written; None when it is damaged."""
    about, _, code = content.partition(b"\n")
    try:
        symbol, digest = json.loads(about)
        return (symbol, code) if hashlib.sha256(symbol.encode() + code).hexdigest() == digest else None
    except (ValueError, TypeError, AttributeError):
        return None


def _compile(name: str, line: int) -> tuple[str, bytes]:
    """Compile an entry in a process that ends when nobody holds the lifeline, unless another just does so."""
    with _turn(name):
        if (code := _read(name)) is None:
            code = _compiled(name, line)
    return _MADE.setdefault(name, code)


@contextmanager
def _turn(name: str) -> Iterator[None]:
    """Wait while another process compiles the same, but not for ever. Without a disk nobody knows of another."""
    with ExitStack() as held:
        with suppress(OSError):
            _directory().mkdir(parents=True, exist_ok=True)
            lock = held.enter_context((_directory() / f".lock-{name}").open("w"))
            until = time.monotonic() + _PATIENCE
            while time.monotonic() < until and threading.main_thread().is_alive():  # who gives up waits for nobody
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(0.1)
        yield


def _compiled(name: str, line: int) -> tuple[str, bytes]:
    # numba's settings change the code that it makes, but not the name under which it is kept
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    with tempfile.TemporaryDirectory(prefix="gpt-tui-") as room:
        made = Path(room) / name
        command = [sys.executable, "-P", "-m", "gpt_model.compiled.entry", name, str(made)]
        done = subprocess.run(command, stdin=line, capture_output=True, text=True, check=False, env=environment)
        code = _parse(made.read_bytes()) if made.is_file() else None
        if done.returncode or code is None:
            why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise CompileError(f"numba does not work here ({why})")
        _keep(made, _directory() / f"{name}.o")
    return code


def _link(symbol: str, code: bytes) -> Entry:
    engine = _engine()
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    if not (place := engine.get_function_address(symbol)):
        raise CompileError(f"the compiled code has no {symbol}")
    return Entry(place)


@functools.cache
def _engine() -> llvm.ExecutionEngine:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple().create_target_machine(jit=True)
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), target)


@functools.cache
def code_version() -> str:
    """Return what tells machine code of these very sources, for this very CPU."""
    sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return f"{hashlib.sha256(sources).hexdigest()[:12]}-{cpu_key()}"


@functools.cache
def _directory() -> Path:
    return cache_directory() / "compiled" / code_version()


def _keep(made: Path, file: Path) -> None:
    """Move code into the cache, and forget what older versions left. Without a disk it is compiled every time."""
    staging = file.with_name(f".tmp-{os.getpid()}-{file.name}")
    with suppress(OSError):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(made, staging)
            staging.rename(file)
        finally:
            with suppress(OSError):  # where nothing can be written, nothing can be removed
                staging.unlink(missing_ok=True)
        file.parent.touch()
        versions = sorted(file.parent.parent.iterdir(), key=lambda path: path.stat().st_mtime)
        for old in versions[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True)
