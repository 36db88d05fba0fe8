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
from collections.abc import Callable
from pathlib import Path

import llvmlite.binding as llvm
import platformdirs

from gpt_model.compiled.cpu import cpu_key
from gpt_model.errors import GptError

_KEPT = 4
Entry = Callable[[int, int], None]
"""Called with the address of a table (layout.py) and the number of the thread; it lets other threads run meanwhile."""


class CompileError(GptError):
    """The code could not be compiled here."""


def is_compiled(name: str) -> bool:
    """Return whether an entry's code is in the cache."""
    return (_directory() / f"{name}.o").is_file()


@functools.cache
def load_entry(name: str) -> Entry:
    """Return an entry (draw, linger or a precision's forward pass), compiled for this machine if it was not before.

    Raises:
        CompileError: numba is missing or does not work here.
    """
    file = _directory() / f"{name}.o"
    if file.is_file():
        return _link(file.read_bytes())
    if importlib.util.find_spec("numba") is None:
        raise CompileError("numba is not installed")
    with tempfile.TemporaryDirectory(prefix="gpt-tui-") as room:
        made = Path(room) / file.name
        command = [sys.executable, "-m", "gpt_model.compiled.entry", name, str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not made.is_file():
            why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise CompileError(f"numba does not work here ({why})")
        _keep(made, file)
        return _link(made.read_bytes())


def _link(data: bytes) -> Entry:
    name, _, code = data.partition(b"\n")
    engine = _engine()
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    address = engine.get_function_address(json.loads(name))
    # numba's own calling convention: where the result goes, where an error's description goes, the arguments
    native = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(address)

    def entry(table: int, thread: int) -> None:
        nothing = (ctypes.c_void_p * 2)()
        place = ctypes.addressof(nothing)
        if status := native(place, place + 8, table, thread):
            raise RuntimeError(f"the compiled forward pass ended with status {status}")

    return entry


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
