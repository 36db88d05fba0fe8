"""CompiledGPT: a packed model with the compiled decode step, in the place of a GPT where text is generated on a CPU."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gpt_model.compiled import layout as at
from gpt_model.compiled.cpu import may_use_matrix_unit
from gpt_model.compiled.drawer import Drawer
from gpt_model.compiled.machine_code import load_entry
from gpt_model.compiled.memory import address, aligned_zeros
from gpt_model.compiled.packing import PackedModel
from gpt_model.compiled.sizes import Sizes, padded
from gpt_model.compiled.team import Board, Team, clear, new_board
from gpt_model.errors import GenerationError

Numbers = np.ndarray[Any, np.dtype[Any]]


class CompiledCache:
    """Keys and values of rows that begin alike: what stands before `shared` is stored once (attention.py: how)."""

    def __init__(self, sizes: Sizes, rows: int) -> None:
        self._sizes = sizes
        size, span = (sizes.config.n_layer, rows, sizes.config.n_head), sizes.span
        # Memory is taken only where it is written to. Zeros, because 0 × what lies ahead must be 0.
        self.keys = aligned_zeros((*size, span // at.BLOCK, sizes.head, at.BLOCK))
        self.values = aligned_zeros((*size, span, sizes.head))
        self.places = address(self.keys), address(self.values)
        self.length = 0
        self.shared = 0

    @property
    def rows(self) -> int:
        """How many sequences it holds."""
        return int(self.keys.shape[1])

    @property
    def room(self) -> int:
        """Positions that still fit."""
        return self._sizes.config.block_size - self.length

    def expand(self, batch_size: int) -> "CompiledCache":
        """Return a cache in which the one sequence of this one begins `batch_size` sequences."""
        wide = CompiledCache(self._sizes, batch_size)
        blocks, shared = self.length // at.BLOCK, self.length // at.BLOCK * at.BLOCK
        wide.keys[:, 0, :, :blocks] = self.keys[:, 0, :, :blocks]
        wide.values[:, 0, :, :shared] = self.values[:, 0, :, :shared]
        # the block that is not yet full is each row's own
        wide.keys[:, :, :, blocks] = self.keys[:, :1, :, blocks]
        wide.values[:, :, :, shared : self.length] = self.values[:, :1, :, shared : self.length]
        wide.length, wide.shared = self.length, shared
        return wide

    def select(self, rows: list[int]) -> "CompiledCache":
        """Return a cache of these of its sequences; one may be named several times."""
        if self.rows == 1:
            return self.expand(len(rows))
        chosen = CompiledCache(self._sizes, len(rows))
        blocks, shared = self.shared // at.BLOCK, self.shared
        chosen.keys[:, 0, :, :blocks] = self.keys[:, 0, :, :blocks]
        chosen.values[:, 0, :, :shared] = self.values[:, 0, :, :shared]
        end = -(-self.length // at.BLOCK)
        chosen.keys[:, :, :, blocks:end] = self.keys[:, rows, :, blocks:end]
        chosen.values[:, :, :, shared : self.length] = self.values[:, rows, :, shared : self.length]
        chosen.length, chosen.shared = self.length, shared
        return chosen


@dataclass(frozen=True)
class _Begun:
    """What the helpers are at work on."""

    ids: Tensor
    cache: CompiledCache
    past: int
    logits: Tensor
    table: Board
    alive: object

    def is_for(self, ids: Tensor, cache: CompiledCache) -> bool:
        """Whether `next_logits` would do the same."""
        return cache is self.cache and cache.length == self.past and torch.equal(ids, self.ids)


class CompiledGPT:
    """A GPT that reads tokens by the compiled step. Not for two threads at once.

    Args:
        packed: the weights.
        threads: how many compute together.
        ahead: whether another may `begin` where only one computes.

    Raises:
        CompileError: the code cannot be compiled here.
    """

    def __init__(self, packed: PackedModel, threads: int, ahead: bool = False) -> None:
        self.config = packed.config
        self.packed = packed
        self.device = torch.device("cpu")
        self._entry = load_entry(packed.dtype)
        self.draw = Drawer(self.config.vocab_size)
        self.finite = self.draw.finite
        self.threads = threads
        self._board = new_board(at.phases(self.config.n_layer))
        self._calls = itertools.count(1)
        self._kept = _tables(packed)
        self._table = _table(packed, self._kept, threads)
        self._point(at.BOARD, self._board)
        helpers = max(threads - 1, int(ahead))
        self._own(at.UNPACKED, (1 + helpers, at.ROWS, packed.sizes.widest))
        self._own(at.UNIT_ROOM, (1 + helpers, at.UNIT_SIZE), np.uint8)
        self._own(at.SCORES, (1 + helpers, 4, packed.sizes.span))
        self._team = Team(self._entry, helpers, (packed, self._kept, self._board))
        self._begun: _Begun | None = None
        self._vocab_rows = packed.sizes.vocab_rows
        self._columns = 0

    def _own(self, place: int, size: tuple[int, ...], kind: type[np.generic] = np.float32) -> Numbers:
        """Return an array of zeros; its address is noted."""
        self._kept[place] = aligned_zeros(size, kind)
        self._point(place, self._kept[place])
        return self._kept[place]

    def _point(self, place: int, array: Numbers) -> None:
        self._table[place] = address(array)

    def new_cache(self, batch_size: int = 1) -> CompiledCache:
        """Return an empty cache for sequences of up to block_size tokens."""
        return CompiledCache(self.packed.sizes, batch_size)

    def next_logits(self, ids: Tensor, cache: CompiledCache | None = None) -> Tensor:
        """Return the logits (B, V) float32 of the token after ids (B, T), which follow what is in the cache.

        Raises:
            GenerationError: the sequence is longer than block_size.
        """
        rows, length = ids.shape
        cache = cache or self.new_cache(rows)
        if rows * length > at.MOST_COLUMNS:
            return self._logits(ids, cache, last_only=True)[:, -1]
        self._check_room(cache, length)
        begun = self._begun
        if begun is not None and begun.is_for(ids, cache):
            self._finish()
            logits = begun.logits
        else:
            logits = torch.empty((rows, self._vocab_rows))
            self._run(ids, 0, cache, cache.length, logits, True)
        cache.length += length
        return logits if self._vocab_rows == self.config.vocab_size else logits[:, : self.config.vocab_size]

    def begin(self, ids: Tensor, cache: CompiledCache) -> None:
        """Have other cores begin with what `next_logits` will be asked for next, if there are any.

        It is only a guess: whatever else is asked for next is right too.
        """
        if self._team.helpers and ids.numel() <= at.MOST_COLUMNS and ids.shape[1] <= cache.room:
            self._finish()
            logits = torch.empty((ids.shape[0], self._vocab_rows))
            table, alive = self._prepare(ids, 0, cache, cache.length, logits, True)
            self._team.begin(table)
            self._begun = _Begun(ids, cache, cache.length, logits, table, alive)

    def _finish(self) -> None:
        """Take part in what was begun, until it is done."""
        if self._begun is not None:
            self._team.join(self._begun.table)
            self._begun = None

    def __call__(self, ids: Tensor, cache: CompiledCache | None = None) -> Tensor:
        """Return logits (B, T, V) for ids (B, T).

        Raises:
            GenerationError: the sequence is longer than block_size.
        """
        return self._logits(ids, cache or self.new_cache(ids.shape[0]), last_only=False)

    def _logits(self, ids: Tensor, cache: CompiledCache, last_only: bool) -> Tensor:
        rows, length = ids.shape
        self._check_room(cache, length)
        logits = torch.empty((rows, 1 if last_only else length, self._vocab_rows))
        if rows * length <= at.MOST_COLUMNS:
            self._run(ids, 0, cache, cache.length, logits, last_only)
        else:
            for row, begin, part in _slabs(ids):
                target = logits[row : row + 1] if last_only else logits[row : row + 1, begin : begin + part.shape[1]]
                self._run(part, row, cache, cache.length + begin, target, last_only)
        cache.length += length
        return logits[:, :, : self.config.vocab_size]

    def read(self, ids: Tensor, cache: CompiledCache | None = None) -> tuple[Tensor, Tensor]:
        """Return the last block's normalised output (B, T, C) for ids (B, T), and what `next_logits` returns.

        Raises:
            GenerationError: the sequence is longer than block_size.
        """
        rows, length = ids.shape
        cache = cache or self.new_cache(rows)
        self._check_room(cache, length)
        logits = torch.empty((rows, self._vocab_rows))
        stream = torch.empty((rows, length, self.config.n_embd))
        whole = rows * length <= at.MOST_COLUMNS
        for row, begin, part in [(0, 0, ids)] if whole else _slabs(ids):
            self._run(part, row, cache, cache.length + begin, logits[row : row + len(part)], True)
            # the pass normalises only what the head needs; the residual stream of all columns stands there yet
            found = torch.from_numpy(self._kept[at.HIDDEN])[: part.numel(), : self.config.n_embd]
            stream[row : row + len(part), begin : begin + part.shape[1]] = found.view(*part.shape, -1)
        cache.length += length
        return self._normalised(stream), logits[:, : self.config.vocab_size]

    def _normalised(self, stream: Tensor) -> Tensor:
        """Return the final LayerNorm of the residual stream (B, T, C)."""
        width, places = self.config.n_embd, self._kept[at.VECTOR_AT][self.config.n_layer, :2].tolist()
        gain, bias = (torch.from_numpy(self._kept[at.VECTORS][place : place + width].copy()) for place in places)
        return F.layer_norm(stream, (width,), gain, bias, self.config.layer_norm_epsilon)

    def _check_room(self, cache: CompiledCache, length: int) -> None:
        if length > cache.room:
            raise GenerationError(
                f"{cache.length + length} tokens do not fit: this model has {self.config.block_size} positions."
            )

    def _run(self, ids: Tensor, row: int, cache: CompiledCache, past: int, logits: Tensor, last_only: bool) -> None:
        self._finish()
        table, _alive = self._prepare(ids, row, cache, past, logits, last_only)
        if self.threads > 1:
            self._team.begin(table)
        self._team.join(table)

    def _prepare(
        self, ids: Tensor, row: int, cache: CompiledCache, past: int, logits: Tensor, last_only: bool
    ) -> tuple[Board, object]:
        """Return the next call's table, and what must be there until it is done."""
        self._make_room(ids.numel())
        ids = ids.contiguous()
        call = next(self._calls)
        clear(self._board, call)
        table = self._table.copy()
        table[at.CALL :] = (
            call, *cache.places, cache.rows, ids.data_ptr(), *ids.shape, row, past, cache.shared, logits.data_ptr(),
            last_only, ids.numel() > 1 and may_use_matrix_unit(),
        )  # fmt: skip
        return table, (ids, logits, cache)

    def _make_room(self, columns: int) -> None:
        """Have numbers in passing for so many columns; the padding of each must be zero."""
        if columns <= self._columns:
            return
        self._columns = min(at.MOST_COLUMNS, padded(2 * columns, at.SIDE))
        sizes = self.packed.sizes
        width, attention, inner = sizes.width, sizes.attention, sizes.inner
        for place, size in (
            (at.HIDDEN, width), (at.NORMED, width), (at.QKV, 3 * attention), (at.MIXED, attention),
            (at.INNER_OUT, inner), (at.OUT, width),
        ):  # fmt: skip
            self._own(place, (self._columns, size))
        if sizes.integer:
            for first, size in ((at.NORMED_WHOLE, width), (at.MIXED_WHOLE, attention), (at.INNER_WHOLE, inner)):
                self._own(first, (self._columns, size), np.int16)
                self._own(first + 1, (self._columns, size // at.GROUP))
                self._own(first + 2, (2, self._columns, size), np.uint8)
        self._table[at.COLUMNS] = self._columns


def _slabs(ids: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """Yield what is too much for one call: a row at a time, its columns in slabs."""
    for row, begin in itertools.product(range(ids.shape[0]), range(0, ids.shape[1], at.MOST_COLUMNS)):
        yield row, begin, ids[row : row + 1, begin : begin + at.MOST_COLUMNS]


def _tables(packed: PackedModel) -> dict[int, Numbers]:
    """Return the arrays that a call's table points to, by their places in it."""
    config = packed.config
    sizes = packed.sizes
    numbers = [rows * columns for rows, columns in sizes.matrices]
    matrix_at = np.cumsum([0, *numbers * config.n_layer])[:-1].reshape(config.n_layer, len(numbers))
    vectors = [*sizes.vectors * config.n_layer, *[sizes.width] * 2]
    starts = np.cumsum([config.block_size * sizes.width, *vectors])[:-1]
    vector_at = np.zeros((config.n_layer + 1, len(sizes.vectors)), np.int64)
    vector_at.reshape(-1)[: len(starts)] = starts
    arrays = {
        at.TABLE: packed.head, at.TABLE_SCALES: packed.head_scales, at.MATRICES: packed.matrices,
        at.SCALES: packed.scales, at.VECTORS: packed.vectors, at.MATRIX_AT: matrix_at.astype(np.int64),
        at.VECTOR_AT: vector_at, at.EPSILON: np.array([config.layer_norm_epsilon], np.float32),
    }  # fmt: skip
    return {place: np.ascontiguousarray(array) for place, array in arrays.items() if array is not None}


def _table(packed: PackedModel, arrays: dict[int, Numbers], threads: int) -> Numbers:
    """Return the part of a call's table that all calls share."""
    config, sizes = packed.config, packed.sizes
    table = np.zeros(at.CALL_SIZE, np.int64)
    for place, value in (
        (at.N_LAYER, config.n_layer), (at.N_HEAD, config.n_head), (at.N_EMBD, config.n_embd), (at.WIDTH, sizes.width),
        (at.HEAD, config.n_embd // config.n_head), (at.HEAD_WIDTH, sizes.head), (at.ATTENTION, sizes.attention),
        (at.INNER, sizes.inner), (at.VOCAB_SIZE, config.vocab_size), (at.VOCAB_ROWS, sizes.vocab_rows),
        (at.SPAN, sizes.span), (at.THREADS, threads),
    ):  # fmt: skip
        table[place] = value
    for place, array in arrays.items():
        table[place] = address(array)
    return table
