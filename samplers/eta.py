"""Eta sampling."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

from samplers.rows import Rows, RowsStage
from samplers.stage import Context, Param


@dataclass(frozen=True)
class Eta(RowsStage):
    """Keep every token of at least the probability η, which is lower where the model doubts more.

    p_i ≥ min(ε, √ε · e^-H) with H the entropy in nats; where there is none, the best. Hewitt, Manning and Liang 2022,
    "Truncation Sampling as Language Model Desmoothing", arXiv 2210.15191, section 4.
    """

    name: ClassVar[str] = "eta"
    epsilon: Annotated[float, Param(0.0, 1.0, 1e-4, off=0.0, log=True, help="the highest η; 0 keeps all")] = 2e-3

    def on(self, rows: Rows, context: Context) -> Rows:
        if self.epsilon <= 0.0:
            return rows
        log_epsilon = math.log(self.epsilon)
        return rows.keep(rows.log_total + (0.5 * log_epsilon - rows.entropy).clamp(max=log_epsilon))
