"""Quadratic smoothing."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from samplers.rows import Rows, RowsStage
from samplers.stage import Context, Param

_FARTHEST = -3.4e38
"""Stands for -inf, which times 0 is no number; its square leaves float32, so that it comes out as -inf again."""


@dataclass(frozen=True)
class Quadratic(RowsStage):
    """Bend the logits: what is near the best comes nearer to it, and what is far falls farther.

    With d = z - max z: z' = max z - k·f·d² + s·f·d³, k = (3 - c) / 2, s = (c - 1) / 2 for factor f and curve c, so that
    c = 1 is a parabola. kalomaze's smoothing, from text-generation-webui. A curve above 3 lifts what is very near the
    best above it, as it does there.
    """

    name: ClassVar[str] = "quadratic"
    factor: Annotated[float, Param(0.0, 10.0, 0.01, off=0.0, help="how steeply it falls; 0 is off")] = 0.3
    curve: Annotated[float, Param(1.0, 10.0, 0.1, help="1 is a parabola; above it the far falls faster")] = 1.0

    def on(self, rows: Rows, context: Context) -> Rows:
        if self.factor <= 0.0:
            return rows
        square, cube = (3.0 - self.curve) / 2.0, (self.curve - 1.0) / 2.0
        distance = (rows.dense - rows.best).clamp(min=_FARTHEST)  # (B, V)
        return Rows(rows.best + self.factor * distance.square() * (cube * distance - square))
