"""Top-a."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

from samplers.rows import Rows, RowsStage
from samplers.stage import Context, Param


@dataclass(frozen=True)
class TopA(RowsStage):
    """Keep every token whose probability reaches a share of the best one's square: p_i ≥ a · p_max².

    BlinkDL's, from RWKV-LM and KoboldAI: the surer the model, the fewer stay.
    """

    name: ClassVar[str] = "top_a"
    a: Annotated[float, Param(0.0, 1.0, 0.01, off=0.0, help="share of the best probability's square; 0 keeps all")] = (
        0.2
    )

    def on(self, rows: Rows, context: Context) -> Rows:
        if self.a <= 0.0:
            return rows
        # ln(a · p_max²) + ln Σ exp z, in an order that does not leave float32
        return rows.keep(rows.best + (rows.best - rows.log_total) + math.log(self.a))
