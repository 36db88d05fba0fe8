"""Drawer: the compiled first look and draw in the place of drawing.finite and draw, for logits on the CPU."""

import math

import numpy as np
from torch import Tensor

from gpt_model.compiled import layout as at
from gpt_model.compiled.cpu import LANES
from gpt_model.compiled.machine_code import load_entry
from gpt_model.compiled.memory import address, aligned_zeros
from gpt_model.compiled.sizes import padded
from gpt_model.drawing import Drawn, finite
from samplers import Rows
from samplers.head import MOST, REACH, head_of
from samplers.rows import Moments, Threshold, numbers


class Drawer:
    """Looks at rows of one length, and draws from them. Not for two threads at once.

    Raises:
        CompileError: the code cannot be compiled here.
    """

    def __init__(self, vocab_size: int) -> None:
        self._scan, self._entry = load_entry("scan"), load_entry("draw")
        self._uniform = np.zeros(1, np.float64)
        self._cuts = np.zeros(3, np.float32)
        self._share = aligned_zeros((padded(vocab_size, LANES),))
        self._few = np.zeros((at.FEW_TOKENS, 2), np.float64)
        self._known = np.zeros(5, np.float64)
        self._ids, self._values = np.zeros(MOST, np.int64), np.zeros(MOST, np.float32)
        self._told = np.zeros(0, np.float64)
        self._processed: Tensor | None = None
        self._table = np.zeros(at.DRAW_SIZE, np.int64)
        for place, array in (
            (at.UNIFORM, self._uniform), (at.SHARE, self._share), (at.FEW, self._few), (at.CUTS, self._cuts),
            (at.KNOWN, self._known), (at.HEAD_IDS, self._ids), (at.HEAD_VALUES, self._values),
        ):  # fmt: skip
            self._table[place] = address(array)
        self._table[at.SIZE], self._table[at.MOST] = vocab_size, MOST
        self._start = address(self._table)

    def finite(self, logits: Tensor) -> Rows:
        """Return what drawing.finite does for logits (B, V); of each row the head and the sums are known already."""
        logits = logits.contiguous()
        start, step = logits.data_ptr(), 4 * logits.shape[1]
        tops, heads, moments = [], [], []
        self._cuts[0] = REACH
        for row in range(logits.shape[0]):
            self._table[at.RAW] = start + row * step
            self._scan(self._start, 0)
            log_total, entropy, lowest, top, count = self._known.tolist()
            if math.isnan(top):
                return finite(logits)
            tops.append(top)
            moments.append(Moments(log_total, entropy))
            size = int(count)
            heads.append(head_of(self._ids[:size].copy(), self._values[:size].copy(), lowest))
        return Rows(logits, top=tops, heads=heads, moments=moments)

    def __call__(self, before: Rows, chosen: Rows, uniforms: list[float], candidates: int) -> list[Drawn]:
        """Return what drawing.draw returns for the same arguments."""
        size = before.shape[1]
        count = min(max(candidates, 1), size)
        if len(self._told) != 5 + 3 * count:
            self._told = np.zeros(5 + 3 * count, np.float64)
            self._table[at.CANDIDATES], self._table[at.TOLD] = count, address(self._told)
        raw = before.logits.contiguous()
        drawn = []
        for row, uniform in enumerate(uniforms):
            self._uniform[0] = uniform
            self._table[at.RAW] = raw.data_ptr() + row * 4 * size
            self._tell_known(before, row)
            self._tell_left(chosen, row)
            self._entry(self._start, 0)
            token, p_model, p_chain, rank, entropy, *rest = self._told.tolist()
            told = tuple(zip(map(int, rest[::3]), rest[1::3], rest[2::3], strict=True))[:candidates]
            drawn.append(Drawn(int(token), p_model, p_chain, int(rank), entropy, told))
        return drawn

    def _tell_known(self, before: Rows, row: int) -> None:
        """Put what is known of a row before the chain where the compiled code finds it."""
        moments, head = before.known_moments(row), before.known_head(row)
        if moments is None or head is None:
            self._table[at.HEADS] = -1
            return
        size = len(head.ids)
        self._table[at.HEADS] = size
        self._ids[:size], self._values[:size] = head.ids, head.values
        self._known[:3] = moments.log_total, moments.entropy, head.lowest

    def _tell_left(self, chosen: Rows, row: int) -> None:
        """Put what is left of a row after the chain where the compiled code finds it."""
        few = chosen.few(row)
        if few is not None and len(few[0]) <= at.FEW_TOKENS:
            size = len(few[0])
            self._table[at.ALIVE] = size
            self._few[:size, 0], self._few[:size, 1] = few[1], few[0]
            return
        self._table[at.ALIVE] = -1
        self._cuts[:] = _number(chosen.floor, row), chosen.divisor, _number(chosen.last_floor, row)
        processed = chosen.logits.contiguous()
        self._processed = processed  # held until it is read
        self._table[at.PROCESSED] = processed.data_ptr() + row * 4 * processed.shape[1]


def _number(floor: Threshold | None, row: int) -> float:
    """Return a row's floor; none is below everything."""
    return -math.inf if floor is None else numbers(floor)[row]
