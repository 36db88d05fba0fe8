"""The compiled forward pass as a function to call: from the user's cache, or compiled now, once for this machine.

Loading takes LLVM's loader and a few milliseconds; numba, which made the code, is not imported.
"""

import ctypes
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
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import llvmlite.binding as llvm
import platformdirs

from gpt_model.compiled.cpu import cpu_key
from gpt_model.errors import GptError

_KEPT = 4
_LINKING = threading.Lock()


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
    """Compile the entries that the cache lacks, beside each other.

    Raises:
        CompileError: numba is missing or does not work here.
    """
    missing = [name for name in names if _read(name) is None]
    if missing:
        tell("Compiling for this CPU, once.")
        with ThreadPoolExecutor() as pool:
            list(pool.map(_compile, missing))


@functools.cache
def load_entry(name: str) -> Entry:
    """Return an entry (entry.py), compiled for this machine if it was not before.

    Raises:
        CompileError: numba is missing or does not work here.
    """
    code = _read(name) or _compile(name)
    with _LINKING:
        return _link(*code)


def _read(name: str) -> tuple[str, bytes] | None:
    """Return the symbol and the object file of an entry from the cache; None when it is not there, or damaged."""
    try:
        about, _, code = (_directory() / f"{name}.o").read_bytes().partition(b"\n")
        symbol, digest = json.loads(about)
    except (OSError, ValueError):
        return None
    return (symbol, code) if hashlib.sha256(code).hexdigest() == digest else None


@functools.cache
def _compile(name: str) -> tuple[str, bytes]:
    if importlib.util.find_spec("numba") is None:
        raise CompileError("numba is not installed")
    with tempfile.TemporaryDirectory(prefix="gpt-tui-") as room:
        made = Path(room) / name
        command = [sys.executable, "-P", "-m", "gpt_model.compiled.entry", name, str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not made.is_file():
            why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise CompileError(f"numba does not work here ({why})")
        _keep(made, _directory() / f"{name}.o")
        about, _, code = made.read_bytes().partition(b"\n")
        return json.loads(about)[0], code


def _link(symbol: str, code: bytes) -> Entry:
    engine = _engine()
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return Entry(engine.get_function_address(symbol))


@functools.cache
def _engine() -> llvm.ExecutionEngine:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple().create_target_machine(jit=True)
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), target)


@functools.cache
def _directory() -> Path:
    """Return where machine code of these very sources, for this very CPU, is kept."""
    sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    name = f"{hashlib.sha256(sources).hexdigest()[:12]}-{cpu_key()}"
    return platformdirs.user_cache_path("gpt-tui") / "compiled" / name


def _keep(made: Path, file: Path) -> None:
    """Move code into the cache, and forget what older versions left. Without a disk it is compiled every time."""
    staging = file.with_name(f".tmp-{os.getpid()}-{file.name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(made, staging)
        staging.rename(file)
        file.parent.touch()
        versions = sorted(file.parent.parent.iterdir(), key=lambda path: path.stat().st_mtime)
        for old in versions[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True)
    except OSError:
        staging.unlink(missing_ok=True)
