"""Drawer: the compiled draw in the place of drawing.draw, for logits on the CPU."""

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from gpt_model.compiled import layout as at
from gpt_model.compiled.cpu import LANES
from gpt_model.compiled.machine_code import load_entry
from gpt_model.compiled.memory import address, aligned_zeros
from gpt_model.compiled.sizes import padded
from gpt_model.drawing import Drawn
from samplers import Rows
from samplers.rows import Threshold, numbers


class Drawer:
    """Draws from rows of one length.

    Raises:
        CompileError: the code cannot be compiled here.
    """

    def __init__(self, vocab_size: int) -> None:
        self._entry = load_entry("draw")
        self._uniform = np.zeros(1, np.float64)
        self._cuts = np.zeros(3, np.float32)
        self._share = aligned_zeros((padded(vocab_size, LANES),))
        self._few = np.zeros((at.FEW_TOKENS, 2), np.float64)
        self._told = np.zeros(0, np.float64)
        self._table = np.zeros(at.DRAW_SIZE, np.int64)
        for place, array in (
            (at.UNIFORM, self._uniform), (at.SHARE, self._share), (at.FEW, self._few),
            (at.CUTS, self._cuts),
        ):  # fmt: skip
            self._table[place] = address(array)
        self._table[at.SIZE] = vocab_size
        self._start = address(self._table)

    def __call__(self, raw: Tensor, chosen: Rows, uniforms: list[float], candidates: int) -> list[Drawn]:
        """Return what drawing.draw returns for the same arguments."""
        count = min(max(candidates, 1), raw.shape[1])
        if len(self._told) != 5 + 3 * count:
            self._told = np.zeros(5 + 3 * count, np.float64)
            self._table[at.CANDIDATES], self._table[at.TOLD] = count, address(self._told)
        before, after = raw.contiguous(), chosen.logits.contiguous()
        floors, last_floors = _numbers(chosen.floor, len(uniforms)), _numbers(chosen.last_floor, len(uniforms))
        places, step = (before.data_ptr(), after.data_ptr()), 4 * raw.shape[1]
        drawn = []
        for row, uniform in enumerate(uniforms):
            self._uniform[0] = uniform
            self._cuts[:] = floors[row], chosen.divisor, last_floors[row]
            self._table[at.RAW], self._table[at.PROCESSED] = (place + row * step for place in places)
            self._entry(self._start, 0)
            token, p_model, p_chain, rank, entropy, *rest = self._told.tolist()
            told = tuple(zip(map(int, rest[::3]), rest[1::3], rest[2::3], strict=True))[:candidates]
            drawn.append(Drawn(int(token), p_model, p_chain, int(rank), entropy, told))
        return drawn


def _numbers(floor: Threshold | None, rows: int) -> Sequence[float]:
    """Return a floor as numbers; none is below everything."""
    return [-math.inf] * rows if floor is None else numbers(floor)
