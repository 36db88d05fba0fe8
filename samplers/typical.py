"""Locally typical sampling."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from samplers.nucleus import fewest
from samplers.rows import Rows, RowsStage
from samplers.stage import Context, Param


@dataclass(frozen=True)
class Typical(RowsStage):
    """Keep the tokens that surprise about as much as the model expects to be surprised, until they reach p together.

    Tokens are taken by |-ln p_i - H|, least first, while the mass before them is below p, ties with the last of them
    kept. Meister et al. 2023, "Locally Typical Sampling", arXiv 2202.00666, section 4. A filter to both sides: the
    best token goes too where it is much likelier than is typical.
    """

    name: ClassVar[str] = "typical"
    p: Annotated[float, Param(0.0, 1.0, 0.01, off=1.0, help="the mass that stays; 1 keeps all")] = 0.95

    def on(self, rows: Rows, context: Context) -> Rows:
        if self.p >= 1.0:
            return rows
        typicality = -(rows.log_probabilities + rows.entropy).abs()  # (B, V), 0 at the best; -inf for what is out
        threshold = fewest(typicality, rows.probabilities, self.p)
        return Rows(rows.dense.masked_fill(typicality < threshold, float("-inf")))
