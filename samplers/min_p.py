"""Min-p."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

from samplers.rows import Rows, RowsStage, Step
from samplers.stage import Context, Param


@dataclass(frozen=True)
class MinP(RowsStage):
    """Keep every token at least p times as likely as the best one: z ≥ max z + ln p.

    Nguyen et al. 2025, "Turning Up the Heat: Min-p Sampling", arXiv 2407.01082, section 3.
    """

    name: ClassVar[str] = "min_p"
    p: Annotated[float, Param(0.0, 1.0, 0.01, off=0.0, help="share of the best token's probability; 0 keeps all")] = (
        0.05
    )

    def on(self, rows: Rows, context: Context) -> Rows:
        return rows if self.p <= 0.0 else rows.keep(rows.below_best(-math.log(self.p)))

    def step(self, context: Context) -> Step | None:
        return Step("near", -math.log(self.p)) if self.p > 0.0 else None
