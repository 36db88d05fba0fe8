"""P-less sampling."""

from dataclasses import dataclass
from typing import Any, ClassVar

from samplers.rows import Rows, RowsStage
from samplers.stage import Context


@dataclass(frozen=True)
class PLess(RowsStage):
    """Keep every token at least as likely as two draws are to be equal: p_i ≥ Σ p²; there is nothing to set.

    Tan et al. 2025, "p-less Sampling: A Robust Hyperparameter-Free Approach for LLM Decoding", arXiv 2509.23234,
    section 3. The best is never below Σ p², and stays where rounding says otherwise.
    """

    name: ClassVar[str] = "p_less"

    def on(self, rows: Rows, context: Context) -> Rows:
        if rows.on_cpu:
            found = [_threshold(rows.alive(row)) for row in range(rows.shape[0])]
            return rows.keep(rows.logits.new_tensor(found)[:, None])
        return rows.keep(rows.log_total + rows.probabilities.square().sum(dim=-1, keepdim=True).log())


def _threshold(values: Any) -> float:
    """Return ln Σ p² + ln Σ exp z of one row (n,), which is ln of Σ exp 2z / Σ exp z."""
    import numpy as np  # here, for this storey is imported where nothing is computed

    best = values.max()
    with np.errstate(over="ignore"):  # what is out of reach of float32 weighs nothing
        weights = np.exp(values - best)
    return float(best) + float(np.log(np.square(weights).sum(dtype=np.float64) / weights.sum(dtype=np.float64)))
