"""Top-nσ."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from samplers.rows import Rows, RowsStage
from samplers.stage import Context, Param

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TopNSigma(RowsStage):
    """Keep what lies within n standard deviations of the best logit: z ≥ max z - n·σ.

    σ is that of all candidates' logits, over their number (not less one); what is out already does not count.
    Tang et al. 2024, "Top-nσ: Not All Logits Are You Need", arXiv 2411.07641. The same tokens at every temperature.
    """

    name: ClassVar[str] = "top_n_sigma"
    n: Annotated[float, Param(0.0, 10.0, 0.05, off=0.0, help="standard deviations below the best; 0 keeps all")] = 1.0

    def on(self, rows: Rows, context: Context) -> Rows:
        return rows if self.n <= 0.0 else rows.keep((rows.best.double() - self.n * _deviation(rows)).float())


def _deviation(rows: Rows) -> "Tensor":
    """Return σ (B, 1) in float64: that of two logits is then exact, and so is a cut at two of them."""
    infinity = float("inf")
    if rows.on_cpu:
        found = []
        for row in range(rows.shape[0]):
            values = rows.alive(row)
            found.append(float(values[values > -infinity].astype("float64").std()))
        return rows.best.double().new_tensor(found)[:, None]
    logits = rows.dense.double()
    alive = logits > -infinity
    count = alive.sum(dim=-1, keepdim=True)
    mean = logits.where(alive, 0.0).sum(dim=-1, keepdim=True) / count
    return ((logits - mean).square().where(alive, 0.0).sum(dim=-1, keepdim=True) / count).sqrt()
