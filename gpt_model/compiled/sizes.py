"""Sizes: a packed model's widths. Widths are padded with zeros, so that loops run over whole groups. Knows no torch."""

from dataclasses import dataclass
from functools import cached_property

from gpt_model.compiled.layout import BLOCK, GROUP, ROWS, PackedDtype
from gpt_model.config import ModelConfig

_STEP = 16  # float32 and 16-bit weights know no groups: whole vectors
_HEAD_STEP = 32


@dataclass(frozen=True)
class Sizes:
    """The padded sizes of a model in a precision."""

    config: ModelConfig
    dtype: PackedDtype

    @property
    def integer(self) -> bool:
        """Whether the weights are whole numbers with scales."""
        return self.dtype in ("int8", "int4")

    def _padded(self, size: int) -> int:
        return padded(size, GROUP if self.integer else _STEP)

    @cached_property
    def width(self) -> int:
        """Of the residual stream."""
        return self._padded(self.config.n_embd)

    @cached_property
    def inner(self) -> int:
        """Of the MLP."""
        return self._padded(self.config.inner)

    @cached_property
    def head(self) -> int:
        """Of an attention head."""
        return padded(self.config.n_embd // self.config.n_head, _HEAD_STEP)

    @cached_property
    def attention(self) -> int:
        """Of all heads side by side."""
        return self._padded(self.config.n_head * self.head)

    @cached_property
    def widest(self) -> int:
        """Of a matrix's inputs."""
        return max(self.width, self.attention, self.inner)

    @cached_property
    def vocab_rows(self) -> int:
        """Rows of the embedding."""
        return padded(self.config.vocab_size, ROWS)

    @cached_property
    def span(self) -> int:
        """Positions of a cache's row: loops run over the context's end."""
        return padded(self.config.block_size, _STEP) + 4 * BLOCK

    @cached_property
    def matrices(self) -> tuple[tuple[int, int], ...]:
        """(out, in) of a layer's four: queries, keys and values; attention's projection; fc; the MLP's projection."""
        qkv, inner = (3 * self.attention, self.width), (self.inner, self.width)
        return qkv, (self.width, self.attention), inner, inner[::-1]

    @cached_property
    def vectors(self) -> tuple[int, ...]:
        """Of a layer's eight: norm 1, qkv and projection biases, norm 2, fc and MLP biases."""
        width = self.width
        return width, width, 3 * self.attention, width, width, width, self.inner, width


def padded(size: int, multiple: int) -> int:
    """Return the next multiple."""
    return -(-size // multiple) * multiple
