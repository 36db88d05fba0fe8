"""head_loss: the head and its cross-entropy, in chunks of rows: no tensor of all logits. Knows no model.

At GPT-2's vocabulary the logits of 16 × 128 tokens are 400 MB, and log-softmax, its gradient and the head's backward
would each hold as much. Here a chunk's logits turn into their own gradient in place and are used up at once, as in
Hsu et al. 2024, "Liger Kernel", arXiv 2410.10989, section 3.2. Shapes: N rows, C width, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gpt_model.products import Products

_LOGITS = 2**26
"""float32 logits of a chunk: 256 MiB. With fewer rows the products leave a tenth of the machine's rate unused."""
_LOW_LOGITS = 2**27
"""Logits of a chunk in a lower precision: 256 MiB. The weight's gradient is rounded once a chunk, so few of them."""
_SLICE = 2**22
"""Of which so many at a time are float32."""


RowLosses = Callable[[Tensor, Tensor, float, bool], Tensor]
"""See `row_losses`."""


def row_losses(logits: Tensor, targets: Tensor, z_loss: float, in_place: bool) -> Tensor:
    """Return the losses (R,), in nats, of targets (R,) under logits (R, V); see head_loss for the z-loss.

    The logits' room is used up; if asked, their gradient is left in it.
    """
    rows = torch.arange(len(logits), device=logits.device)
    right = logits[rows, targets]
    # In place is safe: a row's maximum and sum are known before its first number is written.
    log_probabilities = torch.log_softmax(logits, dim=-1, out=logits)
    log_right = log_probabilities[rows, targets]
    normaliser = right - log_right  # (R,): the logarithm of the sum of exponentials
    if in_place:
        gradient = log_probabilities.exp_()
        if z_loss:
            gradient.mul_((1 + 2 * z_loss * normaliser)[:, None])
        gradient[rows, targets] -= 1
    return z_loss * normaliser.square() - log_right


def head_loss(
    hidden: Tensor, weight: Tensor, targets: Tensor, z_loss: float = 0.0, softcap: float = 0.0,
    products: Products | None = None, row_losses: RowLosses = row_losses,
) -> Tensor:  # fmt: skip
    """Return the mean cross-entropy, in nats a row, of targets (N,) int64 under hidden (N, C) @ weight (V, C)ᵀ.

    Under autocast the three products are computed in its precision; statistics and the loss are float32 always.

    Args:
        hidden: What the head reads, (N, C).
        weight: The head's matrix, (V, C).
        targets: The row's right column, (N,).
        z_loss: Weight of the mean squared log-normaliser, which is added (Chowdhery et al. 2022, arXiv 2204.02311,
            section 5).
        softcap: Logits are pressed between ± this by a tanh (Gemma 2, arXiv 2408.00118, section 2); 0 leaves them.
        products: How matrices are multiplied; torch's way when not given.
        row_losses: What computes as `row_losses` does.
    """
    head = _Head(hidden, weight, z_loss, softcap, products or Products(), row_losses)
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        return _HeadLoss.apply(hidden, weight, targets, head)  # type: ignore[no-any-return, no-untyped-call]
    return head.loss(hidden, weight, targets)


class _HeadLoss(torch.autograd.Function):
    """The loss, whose gradients are computed on the way forward: they need nothing that comes after."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, head: "_Head") -> Tensor:
        for_hidden, for_weight = ctx.needs_input_grad[:2]
        hidden_gradient = torch.empty_like(hidden, memory_format=torch.contiguous_format) if for_hidden else None
        weight_gradient = torch.empty_like(weight, memory_format=torch.contiguous_format) if for_weight else None
        loss = head.loss(hidden, weight, targets, hidden_gradient, weight_gradient)
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        # In place: a second backward through the same graph is refused by autograd, not answered wrongly.
        if gradient.device.type != "cpu" or gradient.item() != 1.0:  # elsewhere, asking would wait for the device
            for each in (hidden_gradient, weight_gradient):
                if each is not None:
                    each.mul_(gradient)
        return hidden_gradient, weight_gradient, None, None


class _Head:
    """How one call computes: its precision, its chunks and what is added to the cross-entropy."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, z_loss: float, softcap: float, products: Products,
        row_losses: RowLosses,
    ) -> None:  # fmt: skip
        self._z_loss, self._softcap, self._products, self._row_losses = z_loss, softcap, products, row_losses
        kind = hidden.device.type
        self._dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        self._slice = max(_SLICE // weight.shape[0], 1)
        """Rows of which float32 logits are held at a time, where the chunk's are not."""

    @torch.no_grad()
    def loss(
        self, hidden: Tensor, weight: Tensor, targets: Tensor,
        hidden_gradient: Tensor | None = None, weight_gradient: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Return the loss, a float32 scalar; write the gradients into the tensors that are given for them."""
        with torch.autocast(hidden.device.type, enabled=False):
            return self._loss(hidden, weight, targets, hidden_gradient, weight_gradient)

    def _loss(
        self, hidden: Tensor, weight: Tensor, targets: Tensor,
        hidden_gradient: Tensor | None, weight_gradient: Tensor | None,
    ) -> Tensor:  # fmt: skip
        count, total = hidden.shape[0], hidden.new_zeros((), dtype=torch.float32)
        with_gradient = hidden_gradient is not None or weight_gradient is not None
        low_hidden, low_weight = hidden.to(self._dtype), weight.to(self._dtype)
        products = self._products.head(low_weight)
        size = self._rows(count, weight.shape[0])
        share = (hidden / count).to(self._dtype) if weight_gradient is not None else None  # (N, C)
        wide = hidden.new_empty((0, weight.shape[0]))
        if self._dtype != torch.float32:
            wide = hidden.new_empty((min(self._slice, size), weight.shape[0]), dtype=torch.float32)
        for first in range(0, count, size):
            rows = slice(first, min(first + size, count))
            chunk = low_hidden[rows]  # (R, C)
            logits = products.logits(chunk)  # (R, V)
            total += self._turn_into_gradient(logits, wide, targets[rows], with_gradient)
            if hidden_gradient is not None:
                torch.div(products.back(logits), count, out=hidden_gradient[rows])
            if weight_gradient is not None and share is not None:
                products.add_gradient(weight_gradient, logits, share[rows], first == 0)
            del logits  # its room is the next chunk's
        return total / count

    def _rows(self, count: int, width: int) -> int:
        """Return the rows of a chunk: as many in each."""
        most = max((_LOGITS if self._dtype == torch.float32 else _LOW_LOGITS) // width, 1)
        chunks = max(-(-count // most), 1)
        return max(-(-count // chunks), 1)

    def _turn_into_gradient(self, logits: Tensor, wide: Tensor, targets: Tensor, with_gradient: bool) -> Tensor:
        """Return the summed loss of logits (R, V); leave its gradient in them if asked. `wide` is room for float32."""
        total = logits.new_zeros((), dtype=torch.float32)
        size = len(wide) or len(logits)
        for first in range(0, len(logits), size):
            part, target = logits[first : first + size], targets[first : first + size]
            exact = part if part.dtype == torch.float32 else wide[: len(part)].copy_(part)
            total += self._gradient_in_place(exact, target, with_gradient)
            if with_gradient and exact is not part:
                part.copy_(exact)
        return total

    def _gradient_in_place(self, logits: Tensor, targets: Tensor, with_gradient: bool) -> Tensor:
        slope = None
        if self._softcap:
            logits.div_(self._softcap).tanh_()
            slope = 1 - logits.square() if with_gradient else None
            logits.mul_(self._softcap)
        loss = self._row_losses(logits, targets, self._z_loss, with_gradient).sum()
        if slope is not None:
            logits.mul_(slope)
        return loss
