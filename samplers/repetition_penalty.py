"""Repetition penalty."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from samplers.history import check_scope, seen
from samplers.rows import Rows, RowsStage
from samplers.stage import Context, Param


@dataclass(frozen=True)
class RepetitionPenalty(RowsStage):
    """Make tokens that were there less likely: z' = z / r where z > 0, z · r where z ≤ 0, once for each token.

    Keskar et al. 2019, "CTRL", arXiv 1909.05858, section 4.1. Below 1 repetition is favoured.
    """

    name: ClassVar[str] = "repetition_penalty"
    penalty: Annotated[float, Param(0.1, 10.0, 0.05, off=1.0, help="divides what is positive; 1 is off")] = 1.1
    scope: Annotated[str, Param(0, 0, help="which tokens count: output, or all with the prompt")] = "output"
    window: Annotated[int, Param(0, 1_000_000, 1, log=True, help="the last so many of them; 0 is all")] = 0

    def __post_init__(self) -> None:
        check_scope(self.name, self.scope)

    def on(self, rows: Rows, context: Context) -> Rows:
        tokens = seen(context, self.scope, self.window)
        if self.penalty == 1.0 or tokens.shape[1] == 0:
            return rows
        logits = rows.dense
        if logits.device.type != "cpu":
            scores = logits.gather(1, tokens)
            # a token that was there twice is written twice, with the same number
            return Rows(logits.scatter(1, tokens, (scores / self.penalty).where(scores > 0, scores * self.penalty)))
        penalised = logits.clone()
        for row, ids in zip(penalised.numpy(), tokens.numpy(), strict=True):
            scores = row[ids]
            up = scores <= 0
            scores[~up] /= self.penalty
            scores[up] *= self.penalty
            row[ids] = scores
        return Rows(penalised)
