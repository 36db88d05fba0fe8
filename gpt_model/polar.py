"""PolarFactor: U·Vᵀ of matrices U·S·Vᵀ, approached by products alone. Knows no optimizer.

Odd polynomials of a matrix, with the coefficients that are best at each iteration: Amsel et al. 2025, "The Polar
Express", arXiv 2505.16932, algorithm 1.
"""

import torch
from torch import Tensor

POLYNOMIALS = (
    (8.219101105846397, -23.401956720536173, 17.1581989432209),
    (4.0048760591489705, -2.9223467745083918, 0.5491185267263443),
    (3.5235614361928396, -2.6398035290594577, 0.5272128341911072),
    (2.51152716635273, -1.8524483560830063, 0.4388326355802108),
)
"""(a, b, c) of a·X + b·(X·Xᵀ)·X + c·(X·Xᵀ)²·X: the paper's algorithm for singular values from 0.003 to 1.

They come to lie within 0.79 and 1.21, those below 0.003 lower. A fifth iteration would bring them nearer to 1, which
the loss does not show.
"""
ROUNDING = 1.01
"""Matrices begin below 1 by this factor: rounding may lift a singular value above 1, where polynomials may explode."""
TINY = 1e-7
"""What their norm is raised by: zeros stay zeros."""


class PolarFactor:
    """The polar factors of as many matrices of one shape as it was made for. It keeps the room that they take.

    In float32 on a CPU, where products in bfloat16 can be a hundred times slower; in bfloat16 on a GPU.
    """

    def __init__(self, count: int, short: int, long: int, device: torch.device) -> None:
        """Make room for `count` matrices (short, long), of which the second number is not the smaller one."""
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self._matrices = [torch.empty(count, short, long, device=device, dtype=dtype) for _ in range(2)]
        self._squares = [torch.empty(count, short, short, device=device, dtype=dtype) for _ in range(4)]
        # Half the products where it pays. bfloat16 is too coarse for it: a square's error is not a matrix's.
        self._by_squares = dtype == torch.float32 and long >= 2 * short

    def replace(self, matrices: Tensor) -> None:
        """Put the polar factors of matrices (count, short, long) in their place, nearly. Those of zeros are zeros."""
        norms = torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True)  # at least the largest singular value
        now, after = self._matrices
        torch.div(matrices, norms * ROUNDING + TINY, out=now)
        if self._by_squares:
            torch.bmm(self._factor(now), now, out=after)
            matrices.copy_(after)
            return
        square, polynomial, *_ = self._squares
        for a, b, c in POLYNOMIALS:
            torch.bmm(now, now.mT, out=square)
            torch.baddbmm(square, square, square, beta=b, alpha=c, out=polynomial)
            torch.baddbmm(now, polynomial, now, beta=a, out=after)
            now, after = after, now
        matrices.copy_(now)

    def _factor(self, matrices: Tensor) -> Tensor:
        """Return what matrices (count, short, long) are to be multiplied with: (count, short, short).

        The iteration of `replace` on X·Xᵀ in the place of X. With B = a + b·X·Xᵀ + c·(X·Xᵀ)², the next X is B·X and
        its square B·X·Xᵀ·B, where all factors commute.
        """
        square, polynomial, factor, spare = self._squares
        torch.bmm(matrices, matrices.mT, out=square)
        for iteration, (a, b, c) in enumerate(POLYNOMIALS):
            torch.baddbmm(square, square, square, beta=b, alpha=c, out=polynomial)
            polynomial.diagonal(dim1=1, dim2=2).add_(a)
            if iteration == 0:
                factor.copy_(polynomial)
            else:
                torch.bmm(polynomial, factor, out=spare)
                factor, spare = spare, factor
            if iteration < len(POLYNOMIALS) - 1:
                torch.bmm(square, polynomial, out=spare)
                torch.bmm(spare, polynomial, out=square)
        return factor
