"""Temperature."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from samplers.greedy import Greedy
from samplers.rows import Rows, RowsStage, Step
from samplers.stage import Context, Param


@dataclass(frozen=True)
class Temperature(RowsStage):
    """Divide the logits by T: below 1 the likely gets likelier, above 1 the rare gets its chance; 0 is greedy.

    z' = z / T (Ackley, Hinton and Sejnowski 1985, "A learning algorithm for Boltzmann machines").
    """

    name: ClassVar[str] = "temperature"
    breaks_ties: ClassVar[bool] = True  # at 0
    temperature: Annotated[float, Param(0.0, 5.0, 0.05, off=1.0, help="divides the logits; 0 is greedy")] = 0.8

    def on(self, rows: Rows, context: Context) -> Rows:
        # Below 1e-5 the quotient leaves float32: the limit, greedy, is what is meant.
        if self.temperature < 1e-5:
            return Rows(Greedy()(rows.dense, context))
        return rows.divide(self.temperature)

    def step(self, context: Context) -> Step | None:
        return Step("divide", self.temperature) if self.temperature >= 1e-5 else None
