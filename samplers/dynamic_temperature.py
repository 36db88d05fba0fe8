"""Dynamic temperature."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from samplers.greedy import Greedy
from samplers.rows import Rows, RowsStage
from samplers.stage import Context, Param

_LARGEST = 3.4e38


@dataclass(frozen=True)
class DynamicTemperature(RowsStage):
    """Divide the logits by a T that follows the model's doubt: low where it is sure, high where it is not.

    z' = z / T, T = lo + (hi - lo) · (H / ln n)^e with lo = max(0, T₀ - r), hi = T₀ + r, H the entropy and n the number
    of candidates. kalomaze's dynamic temperature, from the llama.cpp family; compare Zhang et al. 2024, "EDT",
    arXiv 2403.14541. What is out already does not count in n; of one candidate T is lo, which changes nothing.
    A T of 0 is greedy. At r = 0 the stage is off, whatever T₀: a constant T is the stage `temperature`.
    """

    name: ClassVar[str] = "dynamic_temperature"
    range: Annotated[float, Param(0.0, 5.0, 0.05, off=0.0, help="how far T goes to both sides; 0 is off")] = 0.5
    temperature: Annotated[float, Param(0.0, 5.0, 0.05, help="the middle of the range of T")] = 1.0
    exponent: Annotated[float, Param(0.0, 10.0, 0.1, help="above 1 T stays low for longer, below 1 it rises early")] = (
        1.0
    )

    def on(self, rows: Rows, context: Context) -> Rows:
        if self.range <= 0.0:
            return rows
        low, high = max(0.0, self.temperature - self.range), self.temperature + self.range
        logits = rows.dense  # (B, V)
        count = (logits > float("-inf")).sum(dim=-1, keepdim=True)  # (B, 1)
        doubt = (rows.entropy / count.clamp(min=2).log()).clamp(0.0, 1.0)  # ln 1 = 0 must not divide
        temperature = low + (high - low) * doubt**self.exponent  # (B, 1)
        # a quotient must not leave float32
        scaled = logits / temperature.clamp(min=1e-5).maximum(rows.best.abs() / _LARGEST)
        if low >= 1e-5:
            return Rows(scaled)
        return Rows(scaled.where(temperature >= 1e-5, Greedy()(logits, context)))
