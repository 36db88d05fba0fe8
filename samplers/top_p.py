"""Top-p, or nucleus sampling."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from samplers.nucleus import nucleus
from samplers.rows import Rows, RowsStage, Step
from samplers.stage import Context, Param


@dataclass(frozen=True)
class TopP(RowsStage):
    """Keep the fewest most likely tokens whose probabilities reach p together, ties with the last of them kept.

    With tokens sorted by probability, a token stays while the mass before it is below p; the best always stays.
    Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", arXiv 1904.09751, section 3.1.
    """

    name: ClassVar[str] = "top_p"
    p: Annotated[float, Param(0.0, 1.0, 0.01, off=1.0, help="the mass that stays; 1 keeps all")] = 0.95

    def on(self, rows: Rows, context: Context) -> Rows:
        return rows if self.p >= 1.0 else rows.keep(nucleus(rows, self.p))

    def step(self, context: Context) -> Step | None:
        return Step("mass", self.p) if self.p < 1.0 else None
