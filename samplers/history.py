"""Which of a text's tokens a penalty looks at, and what stays where a ban would take everything."""

import math
from typing import TYPE_CHECKING

from samplers.errors import ChainError
from samplers.rows import on_cpu
from samplers.stage import Context

if TYPE_CHECKING:
    from torch import Tensor

SCOPES = ("output", "all")


def check_scope(stage: str, scope: str) -> None:
    """Refuse a scope that there is not.

    Raises:
        ChainError: it is neither "output" nor "all".
    """
    if scope not in SCOPES:
        raise ChainError(f"{stage}: scope = {scope}: must be output (what was written) or all (the prompt too).")


def seen(context: Context, scope: str, window: int) -> "Tensor":
    """Return the tokens (B, n) that count: of the output or of all, the last `window` of them (0: every one)."""
    tokens = context.tokens if scope == "all" else context.tokens[:, context.prompt_length :]
    return tokens[:, -window:] if window else tokens


def out_of(logits: "Tensor", tokens: "Tensor", which: "Tensor") -> "Tensor":
    """Return logits (B, V) without those of tokens (B, n) that `which` (B, n) says; a row is never emptied."""
    banned = logits.new_zeros(logits.shape).scatter_add(1, tokens, which.to(logits.dtype)) > 0  # (B, V)
    return never_empty(logits.masked_fill(banned, -math.inf), logits)


def never_empty(left: "Tensor", logits: "Tensor") -> "Tensor":
    """Return what is left of logits (B, V); of a row of which nothing is, its best token, with what ties with it."""
    empty = left.amax(dim=-1, keepdim=True) == -math.inf  # (B, 1)
    if on_cpu(logits) and not bool(empty.any()):
        return left
    return logits.where(empty & (logits == logits.amax(dim=-1, keepdim=True)), left)
