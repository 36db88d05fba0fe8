"""Top-k."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from samplers.rows import Rows, RowsStage, Step
from samplers.stage import Context, Param


@dataclass(frozen=True)
class TopK(RowsStage):
    """Keep the k most likely tokens: z ≥ the k-th largest z, ties kept.

    Fan, Lewis and Dauphin 2018, "Hierarchical Neural Story Generation", arXiv 1805.04833, section 5.3.
    """

    name: ClassVar[str] = "top_k"
    k: Annotated[int, Param(0, 100_000, 1, off=0, log=True, help="how many tokens stay; 0 keeps all")] = 40

    def on(self, rows: Rows, context: Context) -> Rows:
        if not 0 < self.k < rows.shape[1]:
            return rows
        # what is out already is below what the k-th largest of all would be, or the k-th is out too
        if not rows.on_cpu:
            return rows.keep(rows.logits.topk(self.k, dim=-1).values[..., -1:] / rows.divisor)
        lowest = [self._lowest(rows, row) for row in range(rows.shape[0])]
        if rows.divisor != 1.0:  # divided, what is just below may come to the same
            return rows.keep([each / rows.divisor for each in lowest])
        return rows.keep(lowest, [rows.head(row).down_to(each) for row, each in enumerate(lowest)])

    def _lowest(self, rows: Rows, row: int) -> float:
        """Return the k-th largest logit of a row on a CPU, before the division."""
        values = rows.head(row).values
        values = (values if len(values) >= self.k else rows.raw(row)).copy()
        place = len(values) - self.k
        values.partition(place)
        return float(values[place])

    def step(self, context: Context) -> Step | None:
        return Step("most", self.k) if self.k > 0 else None
