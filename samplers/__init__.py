"""Decoding strategies as frozen values. Imports nothing of ours and no torch: stages use tensors' own methods."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from samplers.chain import Chain, format_stage, parse_stage
from samplers.chain_run import ChainRun, Memories, Processed, StageAccount
from samplers.discovery import (
    DECODER_GROUP,
    StageEntry,
    entries,
    load_decoder,
    load_stage,
    stage_entries,
    stage_names,
)
from samplers.errors import ChainError, NotFiniteError
from samplers.plan import Plan
from samplers.presets import PRESETS, check_preset, named_chain, preset_of
from samplers.rows import Rows, RowsStage, Step
from samplers.stage import Context, Param, Parameter, Stage, Vocabulary, build, is_off, nudged, parameters
from samplers.uniform import keyed_uniform

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "DECODER_GROUP",
    "PRESETS",
    "Chain",
    "ChainError",
    "ChainRun",
    "Context",
    "Memories",
    "NotFiniteError",
    "Param",
    "Parameter",
    "Plan",
    "Processed",
    "Rows",
    "RowsStage",
    "Stage",
    "StageAccount",
    "StageEntry",
    "Step",
    "Vocabulary",
    "apply",
    "build",
    "check_preset",
    "entries",
    "format_stage",
    "is_off",
    "keyed_uniform",
    "load_decoder",
    "load_stage",
    "named_chain",
    "nudged",
    "parameters",
    "parse_stage",
    "preset_of",
    "stage_entries",
    "stage_names",
]


def apply(
    chain: Chain | str,
    logits: "Tensor",
    tokens: Sequence[Sequence[int]] = ((),),
    prompt_length: int | None = None,
    seed: int = 0,
) -> "Tensor":
    """Return logits as a chain leaves them: for tests and notebooks.

    Args:
        chain: a Chain or its text form.
        logits: (B, V) or (V,); float32 comes out, in the same shape.
        tokens: B rows of the tokens so far, all of one length; one row stands for all.
        prompt_length: how many of them are prompt; all when not given.

    Raises:
        ChainError: the chain cannot be parsed, or a stage breaks its contract (here nothing is bypassed).
    """
    import torch

    rows = logits.detach().float().reshape(-1, logits.shape[-1])  # (B, V)
    history = torch.tensor([list(row) for row in tokens], dtype=torch.long, device=rows.device)
    history = history.expand(rows.shape[0], -1)
    parsed = Chain.parse(chain) if isinstance(chain, str) else chain
    length = history.shape[1] if prompt_length is None else prompt_length
    processed = ChainRun(parsed, range(seed, seed + rows.shape[0])).process(rows, history, length)
    if processed.faults:
        raise ChainError(processed.faults[0].removesuffix("; bypassed for this token"))
    return processed.logits.reshape(logits.shape)
