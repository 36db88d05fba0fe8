"""How a model in training computes its GELU: by code that is compiled for this CPU, or by torch's."""

import functools
import os

from gpt_model.model import GPT, MLP


def compile_activation(model: GPT) -> bool:
    """Have the MLPs of a model on a CPU compute a compiled GELU, if one is to be had here; return whether they do.

    torch's own takes a sixth of a small model's step. The first time on a machine, compiling takes some seconds.
    """
    mlps = [each for each in model.modules() if isinstance(each, MLP)]
    if not mlps or model.device.type != "cpu" or not _is_compiled():
        return False
    from gpt_model.compiled.gelu import linear_gelu

    for mlp in mlps:
        mlp.linear_gelu = linear_gelu
    return True


@functools.cache
def _is_compiled() -> bool:
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return False
    try:
        from gpt_model.compiled.gelu import prepare_gelu
        from gpt_model.compiled.machine_code import CompileError
    except (ImportError, OSError):  # no numba
        return False
    try:
        prepare_gelu()
    except CompileError:
        return False
    return True
