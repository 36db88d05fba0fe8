"""Mirostat, second version."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from samplers.rows import Rows
from samplers.stage import Context, Param

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class MirostatV2:
    """Hold the text's surprise at τ bits a token: what surprises more than μ is out, and μ learns of each token.

    Keep -log2 p ≤ μ, the best always; after the draw μ ← μ - η · (s - τ), where s is the drawn token's surprise among
    those that were kept, as in llama.cpp (the paper takes it among all); μ begins at 2τ. Basu et al. 2021, "Mirostat",
    arXiv 2007.14966, section 4 and algorithm 2 of its code.
    """

    name: ClassVar[str] = "mirostat_v2"
    tau: Annotated[float, Param(0.0, 20.0, 0.1, help="bits a token that are aimed at")] = 5.0
    eta: Annotated[float, Param(0.0, 1.0, 0.01, help="how fast μ learns")] = 0.1

    def start(self) -> float:
        return 2 * self.tau

    def after(self, memory: float, token: int, logits_in: "Tensor", logits_out: "Tensor") -> float:
        return learned(memory, token, logits_out, self.tau, self.eta)

    def __call__(self, logits: "Tensor", context: Context) -> "Tensor":
        rows = Rows(logits)
        return rows.keep(rows.log_total - context.memory * math.log(2)).dense


def learned(mu: float, token: int, logits: "Tensor", tau: float, eta: float) -> float:
    """Return μ after a token of logits (V,); one that was out, and was chosen for all that, teaches nothing."""
    surprise = -float(logits.double().log_softmax(dim=-1)[token]) / math.log(2)
    return mu - eta * (surprise - tau) if math.isfinite(surprise) else mu
