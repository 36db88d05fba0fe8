"""Top-k."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from samplers.rows import Rows, RowsStage
from samplers.stage import Context, Param

if TYPE_CHECKING:
    from torch import Tensor

_GROUPS = 64
"""Rows are looked at in so many numbers at a time."""


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
        return rows.keep(_kth_largest(rows.logits, self.k) / rows.divisor)


def _kth_largest(logits: "Tensor", k: int) -> "Tensor":
    """Return the k-th largest (B, 1) of logits (B, V)."""
    vocab_size = logits.shape[-1]
    lanes = vocab_size // _GROUPS
    if logits.device.type != "cpu" or lanes < 4 * k:
        return logits.topk(k, dim=-1).values[..., -1:]
    found = []
    for row in logits.numpy():
        # k of these maxima are at least as large as the k-th of them: so are as many logits, and none below matters
        maxima = row[: lanes * _GROUPS].reshape(_GROUPS, lanes).max(axis=0)
        maxima.partition(lanes - k)
        large = row[(row >= maxima[lanes - k]).nonzero()[0]]
        large.partition(len(large) - k)
        found.append(float(large[len(large) - k]))
    return logits.new_tensor(found)[:, None]
