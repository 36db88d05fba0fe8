"""XTC: exclude top choices."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from samplers.rows import Rows, RowsStage
from samplers.stage import Context, Param

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Xtc(RowsStage):
    """Now and then remove the top choices: of the tokens that are likely enough, all but the least likely.

    With the given probability, one coin a row and position: of the tokens with p_i ≥ t, those go that are likelier than
    the least of them; what ties with it stays. p-e-w 2024, text-generation-webui pull request 6335. It removes the best
    token on purpose, and leaves at least one. Two tokens above 0.5 there cannot be.
    """

    name: ClassVar[str] = "xtc"
    threshold: Annotated[float, Param(0.0, 0.5, 0.01, off=0.5, help="from this probability on a token is a choice")] = (
        0.1
    )
    probability: Annotated[float, Param(0.0, 1.0, 0.05, off=0.0, help="how often it acts; 0 is never")] = 0.5

    def on(self, rows: Rows, context: Context) -> Rows:
        count = rows.shape[0]
        if self.threshold >= 0.5 or self.probability <= 0.0:
            return rows
        acts = [context.uniform[row] < self.probability for row in range(count)]
        if not any(acts):
            return rows
        logits = rows.dense  # (B, V)
        ceiling = _least_choice(rows, self.threshold)
        ceiling = ceiling.where(ceiling.new_tensor(acts)[:, None] > 0, math.inf)
        return Rows(logits.masked_fill(logits > ceiling, -math.inf))


def _least_choice(rows: Rows, threshold: float) -> "Tensor":
    """Return the least logit (B, 1) of a token that is likely enough; +inf where none is."""
    logits = rows.dense
    choices = logits > -math.inf
    if threshold > 0.0:
        choices = logits >= rows.log_total + math.log(threshold)
    return logits.where(choices, math.inf).amin(dim=-1, keepdim=True)
