"""Greedy decoding."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from samplers.stage import Context

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Greedy:
    """Keep only the best token: argmax z, and of equals the one with the lowest id.

    The one stage that does not keep ties: with it, a text must follow from the model alone.
    """

    name: ClassVar[str] = "greedy"
    breaks_ties: ClassVar[bool] = True

    def __call__(self, logits: "Tensor", context: Context) -> "Tensor":
        best = logits.argmax(dim=-1, keepdim=True)  # (B, 1); torch returns the first of equals
        return logits.new_full(logits.shape, float("-inf")).scatter(-1, best, logits.gather(-1, best))
