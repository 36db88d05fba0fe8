"""Top-k."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from samplers.rows import Rows, RowsStage
from samplers.stage import Context, Param


@dataclass(frozen=True)
class TopK(RowsStage):
    """Keep the k most likely tokens: z ≥ the k-th largest z, ties kept.

    Fan, Lewis and Dauphin 2018, "Hierarchical Neural Story Generation", arXiv 1805.04833, section 5.3.
    """

    name: ClassVar[str] = "top_k"
    k: Annotated[int, Param(0, 100_000, 1, off=0, log=True, help="how many tokens stay; 0 keeps all")] = 40

    def on(self, rows: Rows, context: Context) -> Rows:
        if not 0 < self.k < rows.logits.shape[-1]:
            return rows
        # what is out already is below what the k-th largest of all would be, or the k-th is out too
        kth = rows.logits.topk(self.k, dim=-1).values[..., -1:]  # (B, 1)
        return rows.keep(kth / rows.divisor)
