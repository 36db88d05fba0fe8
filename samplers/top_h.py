"""Top-h."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from samplers.rows import Rows, RowsStage
from samplers.stage import Context, Param

_CANDIDATES = 100


@dataclass(frozen=True)
class TopH(RowsStage):
    """Keep the most likely tokens whose share of the entropy comes to at most h; of all tokens, the best 100 count.

    With p the softmax over the 100 largest logits, sorted: a token stays while the sum of -p ln p up to and with it is
    at most h · H, ties with the last of them kept; the best always stays. Baghaei Potraghloo et al. 2025, "Top-H
    Decoding", arXiv 2509.02510, in the form of transformers' TopHLogitsWarper.
    """

    name: ClassVar[str] = "top_h"
    h: Annotated[float, Param(0.0, 1.0, 0.01, help="share of the entropy that stays; 1 keeps the best 100")] = 0.4

    def on(self, rows: Rows, context: Context) -> Rows:
        largest = rows.logits.topk(min(_CANDIDATES, rows.logits.shape[-1])).values  # (B, 100), best first
        head = rows.carried_out(largest)  # the cuts and the division keep the order
        log_probabilities = head.double().log_softmax(dim=-1).clamp(min=-1e4)  # 0 × -inf is no number
        entropy = -(log_probabilities.exp() * log_probabilities).cumsum(dim=-1)
        kept = (entropy <= self.h * entropy[:, -1:]).sum(dim=-1, keepdim=True).clamp(min=1)  # (B, 1)
        return rows.keep(head.gather(-1, kept - 1))
