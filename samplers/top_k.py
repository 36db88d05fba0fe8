"""Top-k."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from samplers.stage import Context, Param

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TopK:
    """Keep the k most likely tokens: z ≥ the k-th largest z, ties kept.

    Fan, Lewis and Dauphin 2018, "Hierarchical Neural Story Generation", arXiv 1805.04833, section 5.3.
    """

    name: ClassVar[str] = "top_k"
    k: Annotated[int, Param(0, 100_000, 1, off=0, log=True, help="how many tokens stay; 0 keeps all")] = 40

    def __call__(self, logits: "Tensor", context: Context) -> "Tensor":
        if not 0 < self.k < logits.shape[-1]:
            return logits
        threshold = logits.topk(self.k, dim=-1).values[..., -1:]  # (B, 1)
        return logits.masked_fill(logits < threshold, float("-inf"))
