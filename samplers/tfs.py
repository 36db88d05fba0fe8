"""Tail-free sampling."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from samplers.rows import Rows, RowsStage, on_cpu
from samplers.stage import Context, Param

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TailFree(RowsStage):
    """Cut the tail off where the curve of the sorted probabilities has become straight.

    With p sorted and its second differences |Δ²p_i| = |p_i - 2·p_(i+1) + p_(i+2)| divided by their sum: token i + 1
    stays while the first i of them come to at most z; the best always stays, the last never, unless it ties with one
    that does. Bricken 2019, "Tail Free Sampling", as text-generation-webui has it, but over the candidates only: what
    is out already is no part of the curve. Two candidates have no second difference; they stay.
    """

    name: ClassVar[str] = "tfs"
    z: Annotated[float, Param(0.0, 1.0, 0.01, off=1.0, help="the share of the curvature that stays; 1 keeps all")] = (
        0.95
    )

    def on(self, rows: Rows, context: Context) -> Rows:
        if self.z >= 1.0:
            return rows
        ordered = _descending(rows.dense)  # (B, V)
        if ordered.shape[-1] < 3:
            return rows
        count = (ordered > float("-inf")).sum(dim=-1, keepdim=True)  # (B, 1)
        curvature = ordered.double().softmax(dim=-1).diff().diff().abs()  # (B, V - 2)
        # the differences of three candidates each: the step down to what is out is none of them
        curvature = curvature.where(ordered[:, 2:] > float("-inf"), 0.0).cumsum(dim=-1)
        kept = 1 + (curvature <= self.z * curvature[:, -1:]).sum(dim=-1, keepdim=True)
        kept = kept.minimum(count - 1).where(count > 2, count)
        return rows.keep(ordered.gather(-1, kept - 1))


def _descending(logits: "Tensor") -> "Tensor":
    if not on_cpu(logits):
        return logits.sort(dim=-1, descending=True).values
    import numpy as np  # its sort of values alone is many times quicker than one that returns the order too

    return logits.new_tensor(-np.sort(-logits.numpy(), axis=-1))
