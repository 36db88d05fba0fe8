"""CompiledPolarFactor: the polar factors of matrices on a CPU, compiled. Knows no optimizer."""

import numpy as np
import torch
from torch import Tensor

from gpt_model.compiled.cpu import LANES
from gpt_model.compiled.memory import address
from gpt_model.compiled.shared import shared_entry
from gpt_model.polar import POLYNOMIALS, ROUNDING, TINY, PolarFactor

_SMALL = 2**18
"""Numbers of a matrix whose products are too small to be shared by threads."""


def pays(count: int, short: int, long: int) -> bool:
    """Whether so many matrices (short, long) are known here, and are computed faster than by torch."""
    is_shared = short * long <= _SMALL or count >= torch.get_num_threads()
    return is_shared and short % LANES == 0 and long % LANES == 0


class CompiledPolarFactor(PolarFactor):
    """What polar.PolarFactor is, of matrices that one thread each computes.

    On two cores a third of the time of torch's batched products: those go through all matrices each time, know nothing
    of symmetry, and are MKL's, which leaves half of another maker's CPU idle.
    """

    def __init__(self, count: int, short: int, long: int) -> None:
        """Make room for `count` matrices (short, long) for which it pays."""
        self._count, self._short, self._long = count, short, long
        step, side = ((width // LANES | 1) * LANES for width in (long, short))
        self._room_size = 2 * short * step + (long + 4 * short) * side
        self._terms = np.array([*POLYNOMIALS, (ROUNDING, TINY, 0)], np.float32)

    def replace(self, matrices: Tensor) -> None:
        """Put the polar factors of matrices (count, short, long) in their place, nearly. Those of zeros are zeros."""
        threads = min(torch.get_num_threads(), self._count)
        entry = shared_entry("polar")
        with entry.lock:
            entry.call(
                self._count, threads, self._count, self._short, self._long, matrices.data_ptr(),
                address(self._terms), len(POLYNOMIALS), entry.room(threads, self._room_size), self._room_size,
            )  # fmt: skip
