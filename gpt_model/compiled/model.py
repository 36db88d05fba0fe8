"""CompiledGPT: a packed model with the compiled decode step, in the place of a GPT where text is generated on a CPU."""

import contextlib
import itertools
from pathlib import Path

import numba
import numpy as np
import torch
from torch import Tensor

from gpt_model.compiled import decode_step
from gpt_model.compiled.packing import PackedModel, attention_width, head_width, matrix_shapes, padded, vector_sizes
from gpt_model.compiled.simd import HAS_FLOAT16 as HAS_FLOAT16
from gpt_model.compiled.teamwork import Team, clear, new_board
from gpt_model.errors import GenerationError

_COLUMNS = 256
"""Tokens of a prompt that are read at a time: more would only need more memory."""


class CompiledCache:
    """Keys and values of rows that begin alike: what stands before `shared` is stored once."""

    def __init__(self, shape: decode_step.Shape, rows: int) -> None:
        self._shape = shape
        # Rows a little longer than the context: loops run over its end, and a power of two crowds one set of a cache.
        span = padded(shape.block_size) + 80
        # Memory is taken only where it is written to. Zeros, because 0 × what lies ahead must be 0.
        self.keys = np.zeros((shape.n_layer, rows, shape.n_head, shape.head_width, span), np.float32)
        self.values = np.zeros((shape.n_layer, rows, shape.n_head, span, shape.head_width), np.float32)
        self.length = 0
        self.shared = 0

    @property
    def rows(self) -> int:
        """How many sequences it holds."""
        return int(self.keys.shape[1])

    @property
    def room(self) -> int:
        """Positions that still fit."""
        return self._shape.block_size - self.length

    def expand(self, batch_size: int) -> "CompiledCache":
        """Return a cache in which the one sequence of this one begins `batch_size` sequences."""
        wide = CompiledCache(self._shape, batch_size)
        wide.keys[:, 0, :, :, : self.length] = self.keys[:, 0, :, :, : self.length]
        wide.values[:, 0, :, : self.length] = self.values[:, 0, :, : self.length]
        wide.length = wide.shared = self.length
        return wide


class CompiledGPT:
    """A GPT that reads tokens by the compiled step. Not for two threads at once."""

    def __init__(self, packed: PackedModel, threads: int) -> None:
        self.config = packed.config
        self.packed = packed
        self.device = torch.device("cpu")
        self._team = Team(threads)
        self._shape = _shape(packed)
        self._weights = _weights(packed)
        self._scratch: dict[int, decode_step.Scratch] = {}
        self._board = new_board(7 * self.config.n_layer + 3)
        self._calls = itertools.count(1)

    def is_warm(self) -> bool:
        """Return whether the code for this precision is in the machine's cache, so that `warm_up` takes no time."""
        return self._mark().exists()

    def warm_up(self) -> None:
        """Compile, or load what was compiled, and read one token."""
        self.next_logits(torch.zeros(1, 1, dtype=torch.long))
        if not self.is_warm():
            with contextlib.suppress(OSError):
                self._mark().touch()

    def _mark(self) -> Path:
        return Path(numba.config.CACHE_DIR) / f"{self.packed.dtype}.compiled"

    @property
    def threads(self) -> int:
        """Threads that compute together."""
        return self._team.threads

    def new_cache(self, batch_size: int = 1) -> CompiledCache:
        """Return an empty cache for sequences of up to block_size tokens."""
        return CompiledCache(self._shape, batch_size)

    def next_logits(self, ids: Tensor, cache: CompiledCache | None = None) -> Tensor:
        """Return the logits (B, V) float32 of the token after ids (B, T), which follow what is in the cache.

        Raises:
            GenerationError: the sequence is longer than block_size.
        """
        return self._logits(ids, cache or self.new_cache(ids.shape[0]), last_only=True)[:, -1]

    def __call__(self, ids: Tensor, cache: CompiledCache | None = None) -> Tensor:
        """Return logits (B, T, V) for ids (B, T).

        Raises:
            GenerationError: the sequence is longer than block_size.
        """
        return self._logits(ids, cache or self.new_cache(ids.shape[0]), last_only=False)

    def _logits(self, ids: Tensor, cache: CompiledCache, last_only: bool) -> Tensor:
        numbers = ids.numpy()
        rows, length = numbers.shape
        if length > cache.room:
            raise GenerationError(
                f"{cache.length + length} tokens do not fit: this model has {self.config.block_size} positions."
            )
        logits = np.empty((rows, 1 if last_only else length, self._shape.vocab_rows), np.float32)
        if rows * length <= _COLUMNS:
            self._run(numbers, 0, cache, cache.length, logits, last_only)
        else:  # a row at a time, its columns in slabs
            for row, begin in itertools.product(range(rows), range(0, length, _COLUMNS)):
                part = numbers[row : row + 1, begin : begin + _COLUMNS]
                target = logits[row : row + 1] if last_only else logits[row : row + 1, begin : begin + part.shape[1]]
                self._run(part, row, cache, cache.length + begin, target, last_only)
        cache.length += length
        return torch.from_numpy(logits)[:, :, : self.config.vocab_size]

    def _run(
        self, ids: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]", row: int, cache: CompiledCache, past: int,
        logits: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]", last_only: bool,
    ) -> None:  # fmt: skip
        columns = ids.size
        call = next(self._calls)
        clear(self._board, call)
        self._team.run(
            decode_step.forward, self._board, call, self._team.threads, self._shape, self._weights,
            self._scratch_for(columns), cache.keys, cache.values, np.ascontiguousarray(ids), row, past, cache.shared,
            logits.reshape(-1, logits.shape[-1]), last_only,
        )  # fmt: skip

    def _scratch_for(self, columns: int) -> decode_step.Scratch:
        size = columns if columns <= 16 else _COLUMNS
        if size not in self._scratch:
            s = self._shape
            widths = (s.width, s.width, 3 * s.attention, s.attention, s.inner, s.width)
            self._scratch[size] = decode_step.Scratch(*(np.zeros((size, width), np.float32) for width in widths))
        return self._scratch[size]


def _shape(packed: PackedModel) -> decode_step.Shape:
    config = packed.config
    return decode_step.Shape(
        config.n_layer, config.n_head, config.n_embd, padded(config.n_embd), config.n_embd // config.n_head,
        head_width(config), attention_width(config), padded(config.inner), padded(config.vocab_size, 4),
        config.block_size, config.layer_norm_epsilon,
    )  # fmt: skip


def _weights(packed: PackedModel) -> decode_step.Weights:
    config = packed.config
    sizes = [rows * columns for rows, columns in matrix_shapes(config)]
    matrix_at = np.cumsum([0, *sizes * config.n_layer])[:-1].reshape(config.n_layer, len(sizes))
    vectors = [*vector_sizes(config) * config.n_layer, *[padded(config.n_embd)] * 2]
    starts = np.cumsum([config.block_size * padded(config.n_embd), *vectors])[:-1]
    vector_at = np.zeros((config.n_layer + 1, len(vector_sizes(config))), np.int64)
    vector_at.reshape(-1)[: len(starts)] = starts
    return decode_step.Weights(
        packed.head, packed.head_scales, packed.matrices, packed.scales, packed.vectors, matrix_at, vector_at
    )
