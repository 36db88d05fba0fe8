"""Top-p, or nucleus sampling."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from samplers.rows import Rows, RowsStage
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
        if self.p >= 1.0:
            return rows
        rows = Rows(rows.dense)
        ordered, _ = rows.logits.sort(dim=-1, descending=True)  # (B, V)
        # float64: 50,000 float32 terms drift by more than the tail of a peaked row.
        probabilities = ordered.double().softmax(dim=-1)
        mass_before = probabilities.cumsum(dim=-1) - probabilities
        kept = (mass_before < self.p).sum(dim=-1, keepdim=True).clamp(min=1)  # (B, 1)
        return rows.keep(ordered.gather(-1, kept - 1))
