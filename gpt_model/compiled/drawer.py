"""Drawer: the compiled first look and draw in the place of drawing.finite and draw, for logits on the CPU."""

import math

import numpy as np
from torch import Tensor

from gpt_model.compiled import layout as at
from gpt_model.compiled.cpu import LANES
from gpt_model.compiled.machine_code import load_entry
from gpt_model.compiled.memory import address, aligned_zeros
from gpt_model.compiled.sizes import padded
from gpt_model.drawing import Drawn
from samplers import NotFiniteError, Rows
from samplers.head import MOST, REACH, Look, Moments, head_of
from samplers.plan import Plan
from samplers.rows import Threshold, numbers

_KINDS = {"penalise": at.PENALISE, "most": at.MOST, "mass": at.MASS, "near": at.NEAR, "divide": at.DIVIDE}


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
        self._steps = np.zeros((at.MOST_STEPS, 2), np.float64)
        self._ids, self._values, self._changed = (np.zeros(MOST, kind) for kind in (np.int64, np.float32, np.float32))
        self._scratch = address(self._ids), address(self._values)
        self._reach = np.array([REACH], np.float32)
        self._told = np.zeros(0, np.float64)
        self._processed: Tensor | None = None
        self._table = np.zeros(at.DRAW_SIZE, np.int64)
        for place, array in (
            (at.UNIFORM, self._uniform), (at.SHARE, self._share), (at.FEW, self._few), (at.CUTS, self._cuts),
            (at.KNOWN, self._known), (at.STEPS, self._steps), (at.CHANGED, self._changed), (at.REACH, self._reach),
        ):  # fmt: skip
            self._table[place] = address(array)
        self._table[at.SIZE], self._table[at.MOST_HEADS] = vocab_size, MOST
        self._start = address(self._table)

    def finite(self, logits: Tensor) -> Rows:
        """Return logits (B, V) as rows at which nobody has looked yet: whoever does finds NaN and +inf, if any.

        Raises:
            NotFiniteError: not here; whoever looks, or draws.
        """
        return Rows(logits, look=_Looker(self, logits))

    def look(self, logits: Tensor) -> list[Look]:
        """Look at logits (B, V).

        Raises:
            NotFiniteError: a row holds NaN or +inf, or no finite number.
        """
        logits = logits.contiguous()
        looks = []
        for row in range(logits.shape[0]):
            self._table[at.RAW] = logits.data_ptr() + row * 4 * logits.shape[1]
            self._table[at.HEAD_IDS], self._table[at.HEAD_VALUES] = self._scratch
            self._scan(self._start, 0)
            log_total, entropy, lowest, top, found = self._known.tolist()
            if math.isnan(top):
                raise NotFiniteError
            size = int(found)
            head = head_of(self._ids[:size].copy(), self._values[:size].copy(), lowest)
            looks.append(Look(top, head, Moments(log_total, entropy)))
        return looks

    def __call__(self, before: Rows, chosen: Rows | Plan, uniforms: list[float], candidates: int) -> list[Drawn]:
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
            self._tell_look(before.look(row))
            if not self._tell_steps(before, chosen, row):
                self._tell_left(chosen.decided, row)
            self._entry(self._start, 0)
            if self._told[0] == at.UNKNOWN:
                self._tell_left(chosen.decided, row)
                self._tell_look(before.look(row))
                self._table[at.RAW] = raw.data_ptr() + row * 4 * size
                self._entry(self._start, 0)
            token, p_model, p_chain, rank, entropy, *rest = self._told.tolist()
            if token == at.NOT_FINITE:
                raise NotFiniteError
            told = tuple(zip(map(int, rest[::3]), rest[1::3], rest[2::3], strict=True))[:candidates]
            drawn.append(Drawn(int(token), p_model, p_chain, int(rank), entropy, told))
        return drawn

    def _tell_look(self, look: Look | None) -> None:
        """Put what is known of a row before the chain where the compiled code finds it; it looks itself otherwise."""
        table = self._table
        table[at.LOOKED] = look is not None
        if look is None:
            table[at.HEAD_IDS], table[at.HEAD_VALUES] = self._scratch
            return
        _, head, moments = look
        table[at.HEADS], table[at.HEAD_IDS], table[at.HEAD_VALUES] = (
            len(head.ids), address(head.ids), address(head.values),
        )  # fmt: skip
        self._known[:3] = moments.log_total, moments.entropy, head.lowest

    def _tell_steps(self, before: Rows, chosen: Rows | Plan, row: int) -> bool:
        """Put what is to be decided on a row where the compiled code finds it; return whether it can be."""
        if isinstance(chosen, Rows) or chosen.before is not before:
            return False
        count = len(chosen.steps)
        if not 0 < count <= at.MOST_STEPS:
            return False
        for place, (_, _, step) in enumerate(chosen.steps):
            self._steps[place] = _KINDS[step.kind], step.number
            if step.tokens is not None:
                tokens = step.tokens
                self._table[at.TOKENS] = tokens.data_ptr() + row * tokens.stride(0) * tokens.element_size()
                self._table[at.TOKEN_COUNT] = tokens.shape[1]
        self._table[at.STEP_COUNT] = count
        return True

    def _tell_left(self, chosen: Rows, row: int) -> None:
        """Put what is left of a row after the chain where the compiled code finds it."""
        self._table[at.STEP_COUNT] = 0
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


class _Looker:
    """A look at logits that is made once, when it is asked for."""

    def __init__(self, drawer: Drawer, logits: Tensor) -> None:
        self._drawer, self._logits = drawer, logits
        self._found: list[Look] | None = None

    def __call__(self) -> list[Look]:
        if self._found is None:
            self._found = self._drawer.look(self._logits)
        return self._found


def _number(floor: Threshold | None, row: int) -> float:
    """Return a row's floor; none is below everything."""
    return -math.inf if floor is None else numbers(floor)[row]
