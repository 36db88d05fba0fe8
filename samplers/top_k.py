"""Top-k."""

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from samplers.rows import Rows, RowsStage
from samplers.stage import Context, Param

_REACH = 8
"""Nats below the best in which the k-th largest is looked for before all of a row is."""


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
        if not rows.on_cpu:
            return rows.keep(rows.logits.topk(self.k, dim=-1).values[..., -1:] / rows.divisor)
        kept = [_largest(rows.raw(row), top, self.k) for row, top in enumerate(rows.raw_tops)]
        thresholds = [lowest / rows.divisor for lowest, _ in kept]
        # divided, what is just below may come to the same
        return rows.keep(thresholds, [values for _, values in kept] if rows.divisor == 1.0 else None)


def _largest(values: Any, top: float, k: int) -> tuple[float, Any]:
    """Return the k-th largest of values (n,), or -inf where there are fewer, and those that are as large.

    Args:
        values: of a row.
        top: the largest of them.
        k: at least 1.
    """
    if len(values) <= k:
        return -math.inf, values
    near = values[(values >= top - _REACH).nonzero()[0]]
    if len(near) < k:
        near = values.copy()
    near.partition(len(near) - k)
    lowest = near[len(near) - k]
    return float(lowest), near[near >= lowest]
