"""Min-p."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from samplers.stage import Context, Param

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class MinP:
    """Keep every token at least p times as likely as the best one: z ≥ max z + ln p.

    Nguyen et al. 2025, "Turning Up the Heat: Min-p Sampling", arXiv 2407.01082, section 3.
    """

    name: ClassVar[str] = "min_p"
    p: Annotated[float, Param(0.0, 1.0, 0.01, off=0.0, help="share of the best token's probability; 0 keeps all")] = (
        0.05
    )

    def __call__(self, logits: "Tensor", context: Context) -> "Tensor":
        if self.p <= 0.0:
            return logits
        threshold = logits.amax(dim=-1, keepdim=True) + math.log(self.p)  # (B, 1)
        return logits.masked_fill(logits < threshold, float("-inf"))
