"""Repetition penalty."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from samplers.history import check_scope, seen
from samplers.rows import Rows, RowsStage, Step
from samplers.stage import Context, Param

if TYPE_CHECKING:
    pass

_LARGEST = 3.4028234663852886e38
"""Of float32."""


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
        if self.penalty > 1.0 and rows.on_cpu and rows.untouched:
            return rows.lower(tokens.numpy(), self._lowered)
        logits = rows.dense
        scores = logits.gather(1, tokens)  # (B, n)
        divided, multiplied = scores / self.penalty, scores * self.penalty
        # of the two the one that the formula names is the smaller for r > 1, and the larger for r < 1
        penalised = divided.minimum(multiplied) if self.penalty > 1.0 else divided.maximum(multiplied)
        # what leaves float32 stays its largest number: neither certain nor out
        penalised = penalised.clamp(-_LARGEST, _LARGEST).where(scores > -math.inf, scores)
        # a token that was there twice is written twice, with the same number
        return Rows(logits.scatter(1, tokens, penalised))

    def _lowered(self, scores: Any) -> Any:
        """Return the penalised logits of a numpy array."""
        import numpy as np  # here, for this storey is imported where nothing is computed

        with np.errstate(over="ignore"):
            penalised = np.minimum(scores / self.penalty, scores * self.penalty)
        return np.where(scores > -math.inf, np.maximum(penalised, -_LARGEST), scores)

    def step(self, context: Context) -> Step | None:
        return Step("penalise", self.penalty, seen(context, self.scope, self.window)) if self.penalty > 1.0 else None
