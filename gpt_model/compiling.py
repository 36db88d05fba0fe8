"""Whether the compiled parts of training and scoring are to be had here, and compiling them, once on a machine."""

import functools
import os
from collections.abc import Callable
from contextlib import suppress

from gpt_model.errors import GptError

PARTS = ("attention", "gemm", "polar", "gelu", "cross_entropy", "dropout")
"""Those of compiled/training_entries.py; what takes longest to compile first."""


def compile_parts(tell: Callable[[str], None], *parts: str) -> None:
    """Compile those that are missing beside each other, all by default, and tell how far that is.

    Where nothing can be compiled, `is_compiled` says so.
    """
    if _is_off():
        return
    with suppress(GptError, ImportError, OSError):
        from gpt_model.compiled.machine_code import compile_missing

        compile_missing(parts or PARTS, tell)


@functools.cache
def is_compiled(part: str) -> bool:
    """Whether a part can be used; it is compiled if it was not before, which takes seconds."""
    if _is_off():
        return False
    try:
        from gpt_model.compiled.shared import shared_entry

        shared_entry(part)
    except (ImportError, OSError, GptError):  # no numba, or it does not work here
        return False
    return True


def are_compiled() -> bool:
    """Whether all parts can be used; those that are missing are compiled."""
    compile_parts(lambda sentence: None)
    return all(is_compiled(part) for part in PARTS)


def _is_off() -> bool:
    return os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
