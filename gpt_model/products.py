"""Products: how a model's matrices are multiplied, by torch; compiled/training_products.py has another way.

Knows no model.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_COLUMNS = 4096
"""Of a vocabulary, so many at a time on a CPU: oneDNN's bfloat16 takes half as long again for all of them at once."""


class Products:
    """Products as torch computes them."""

    def linear(self, hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return hidden (…, C) @ weight (W, C)ᵀ + bias (W,)."""
        return F.linear(hidden, weight, bias)

    def head(self, weight: Tensor) -> "HeadProducts":
        """Return the products of a head's matrix (V, C) with chunks of rows, none of which brings a gradient back."""
        return HeadProducts(weight)


class HeadProducts:
    """The three products of a head and some of its rows: logits, and what comes back of them."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def logits(self, rows: Tensor) -> Tensor:
        """Return rows (R, C) @ weight (V, C)ᵀ."""
        return torch.mm(rows, self.weight.t())

    def back(self, logits: Tensor) -> Tensor:
        """Return logits (R, V) @ weight (V, C)."""
        return torch.mm(logits, self.weight)

    def add_gradient(self, total: Tensor, logits: Tensor, rows: Tensor, is_first: bool) -> None:
        """Add logits (R, V)ᵀ @ rows (R, C) to total (V, C), which holds nothing yet if this is the first."""
        if total.dtype == logits.dtype:
            torch.addmm(total, logits.t(), rows, beta=0 if is_first else 1, out=total)
            return
        at_once = _COLUMNS if total.device.type == "cpu" else len(total)
        for first in range(0, len(total), at_once):
            columns = slice(first, first + at_once)
            part = total[columns]
            (part.copy_ if is_first else part.add_)(torch.mm(logits[:, columns].t(), rows))
