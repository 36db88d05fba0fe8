"""Whether the compiled parts of a training step are to be had here, and compiling them, once on a machine."""

import functools
import os
from collections.abc import Callable
from contextlib import suppress

from gpt_model.errors import GptError

_PARTS = ("attention", "gemm", "polar", "gelu", "cross_entropy", "dropout")


@functools.cache
def are_compiled() -> bool:
    """Compile what is missing, which takes seconds; return whether all of it can be used."""
    if _is_off():
        return False
    try:
        from gpt_model.compiled.cross_entropy import prepare_cross_entropy
        from gpt_model.compiled.dropout import prepare_dropout
        from gpt_model.compiled.gelu import prepare_gelu
        from gpt_model.compiled.gemm import prepare_gemm
        from gpt_model.compiled.machine_code import CompileError
        from gpt_model.compiled.polar import prepare_polar
        from gpt_model.compiled.training_attention import prepare_attention
    except (ImportError, OSError):  # no numba
        return False
    try:
        _compile(lambda sentence: None)
        for prepare in (
            prepare_attention, prepare_gemm, prepare_polar, prepare_gelu, prepare_cross_entropy, prepare_dropout,
        ):  # fmt: skip
            prepare()
    except CompileError:
        return False
    return True


def compile_parts(tell: Callable[[str], None]) -> None:
    """Compile what is missing, and tell how far that is. Where nothing can be compiled, `are_compiled` says so."""
    if not _is_off():
        with suppress(GptError, ImportError, OSError):
            _compile(tell)


def _is_off() -> bool:
    return os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")


def _compile(tell: Callable[[str], None]) -> None:
    from gpt_model.compiled.machine_code import compile_missing

    compile_missing(_PARTS, tell)
