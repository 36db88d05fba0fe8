"""Epsilon sampling."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

from samplers.rows import Rows, RowsStage
from samplers.stage import Context, Param


@dataclass(frozen=True)
class Epsilon(RowsStage):
    """Keep every token of at least the probability ε: p_i ≥ ε; where there is none, the best.

    Hewitt, Manning and Liang 2022, "Truncation Sampling as Language Model Desmoothing", arXiv 2210.15191, section 3.3.
    """

    name: ClassVar[str] = "epsilon"
    epsilon: Annotated[float, Param(0.0, 1.0, 1e-4, off=0.0, log=True, help="the least probability; 0 keeps all")] = (
        6e-4
    )

    def on(self, rows: Rows, context: Context) -> Rows:
        return rows if self.epsilon <= 0.0 else rows.keep(rows.log_total + math.log(self.epsilon))
