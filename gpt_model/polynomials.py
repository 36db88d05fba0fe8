"""The polynomials that bring a matrix near its polar factor. Knows no torch: compiled code has them as constants.

Amsel et al. 2025, "The Polar Express", arXiv 2505.16932, algorithm 1.
"""

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
