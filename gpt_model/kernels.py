"""How a model in training computes its attention and its GELU: by code that is compiled for this CPU, or by torch's."""

import functools
import os

from gpt_model.model import GPT, MLP, CausalSelfAttention


def compile_kernels(model: GPT) -> bool:
    """Have the blocks of a model on a CPU use compiled code, if it is to be had here; return whether they do.

    torch's own takes a quarter of a small model's step. The first time on a machine, compiling takes some seconds.
    """
    mlps = [each for each in model.modules() if isinstance(each, MLP)]
    if not mlps or model.device.type != "cpu" or not _are_compiled():
        return False
    from gpt_model.compiled.gelu import linear_gelu
    from gpt_model.compiled.training_attention import linear_attend

    for mlp in mlps:
        mlp.linear_gelu = linear_gelu
    for attention in model.modules():
        if isinstance(attention, CausalSelfAttention):
            attention.linear_attend = linear_attend
    return True


@functools.cache
def _are_compiled() -> bool:
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return False
    try:
        from gpt_model.compiled.gelu import prepare_gelu
        from gpt_model.compiled.machine_code import CompileError, compile_missing
        from gpt_model.compiled.training_attention import prepare_attention
    except (ImportError, OSError):  # no numba
        return False
    try:
        compile_missing(("gelu", "attention"), lambda told: None)
        prepare_gelu()
        prepare_attention()
    except CompileError:
        return False
    return True
