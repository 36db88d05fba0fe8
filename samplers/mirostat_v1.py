"""Mirostat, first version."""

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from samplers.mirostat_v2 import learned
from samplers.rows import Rows
from samplers.stage import Context, Param

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class MirostatV1:
    """Hold the text's surprise at τ bits a token by a top-k whose k follows from Zipf's law as it shows in the row.

    With the m best tokens the exponent is estimated, ŝ = Σ tᵢ bᵢ / Σ tᵢ², tᵢ = ln((i + 1) / i), bᵢ = ln(pᵢ / pᵢ₊₁), and
    k = (ε · 2^μ / (1 - n^-ε))^(1/ŝ), ε = ŝ - 1, n the size of the vocabulary; the k best stay, ties with the last of
    them kept. After the draw μ ← μ - η · (s - τ), s being the drawn token's surprise among those that were kept, as in
    llama.cpp; μ begins at 2τ. Basu et al. 2021, "Mirostat", arXiv 2007.14966, algorithm 1.
    """

    name: ClassVar[str] = "mirostat_v1"
    tau: Annotated[float, Param(0.0, 20.0, 0.1, help="bits a token that are aimed at")] = 5.0
    eta: Annotated[float, Param(0.0, 1.0, 0.01, help="how fast μ learns")] = 0.1
    m: Annotated[int, Param(2, 10_000, 1, log=True, help="tokens from which the law is estimated")] = 100

    def start(self) -> float:
        return 2 * self.tau

    def after(self, memory: float, token: int, logits_in: "Tensor", logits_out: "Tensor") -> float:
        return learned(memory, token, logits_out, self.tau, self.eta)

    def __call__(self, logits: "Tensor", context: Context) -> "Tensor":
        count = int((logits > -math.inf).sum())
        if count < 2:
            return logits
        head = logits.topk(min(self.m, count), dim=-1).values[0].double()  # (m,)
        k = _k(head.tolist(), logits.shape[-1], context.memory)
        return logits if k >= count else Rows(logits).keep(logits.topk(k, dim=-1).values[:, -1:]).dense


def _k(head: list[float], size: int, mu: float) -> int:
    """Return how many tokens stay, of a vocabulary of this size in which `head` are the best logits."""
    steps = [math.log((place + 2) / (place + 1)) for place in range(len(head) - 1)]
    falls = [before - after for before, after in itertools.pairwise(head)]
    exponent = sum(t * b for t, b in zip(steps, falls, strict=True)) / sum(t * t for t in steps)
    if exponent <= 1e-6:  # flat: no law
        return size
    epsilon = exponent - 1
    # ε / (1 - n^-ε), which is 1 / ln n where ε is 0
    share = 1 / math.log(size) if abs(epsilon) < 1e-9 else epsilon / -math.expm1(-epsilon * math.log(size))
    logarithm = (math.log(share) + mu * math.log(2)) / exponent
    return size if logarithm >= math.log(size) else max(int(math.exp(logarithm)), 1)
