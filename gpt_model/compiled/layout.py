"""Where every number of a packed model stands, and how one call is told to the compiled code. Knows no torch."""

from typing import Literal, get_args

from gpt_model.config import ModelConfig

PackedDtype = Literal["float32", "float16", "bfloat16", "int8", "int4"]
PACKED_DTYPES: tuple[PackedDtype, ...] = get_args(PackedDtype)

GROUP = 64
"""Numbers that share a scale, and the multiple to which widths are padded."""
ROWS = 32
"""Rows of a matrix that are multiplied at a time."""
MOST_COLUMNS = 256
"""Tokens of a prompt that are read at a time: more would only need more memory."""
BLOCK = 16
"""Positions of a cache whose keys lie together."""
QUAD = 4
"""Neighbouring inputs that lie together in a block of integer rows."""
SIDE = 16
"""Columns that the matrix unit takes at a time."""
_HEAD_MULTIPLE = 32  # two vectors at least
UNIT_SIZE = 4 * SIDE * SIDE * 4 + SIDE * ROWS * 4 + 64
"""Bytes that a thread needs for the matrix unit: sums, results, and its configuration."""

# A call is a table of whole numbers, each in its place: sizes, and the addresses of arrays.
(
    N_LAYER, N_HEAD, N_EMBD, WIDTH, HEAD, HEAD_WIDTH, ATTENTION, INNER, VOCAB_SIZE, VOCAB_ROWS, SPAN, EPSILON,
    TABLE, TABLE_SCALES, MATRICES, SCALES, VECTORS, MATRIX_AT, VECTOR_AT,
    THREADS, BOARD, HIDDEN, NORMED, QKV, MIXED, INNER_OUT, OUT, UNPACKED, SCORES,
    NORMED_WHOLE, NORMED_SCALES, NORMED_PLANES, MIXED_WHOLE, MIXED_SCALES, MIXED_PLANES,
    INNER_WHOLE, INNER_SCALES, INNER_PLANES, UNIT_ROOM, TOPS, COLUMNS,
    # and what changes from call to call
    CALL, KEYS, VALUES, SLOTS, IDS, IDS_ROWS, IDS_LENGTH, FIRST_ROW, PAST, SHARED, LOGITS, LAST_ONLY, MATRIX_UNIT,
    CALL_SIZE,
) = range(55)  # fmt: skip

# So is the draw of one row.
RAW, PROCESSED, CUTS, SIZE, UNIFORM, CANDIDATES, SHARE, FEW, TOLD, DRAW_SIZE = range(10)
FEW_TOKENS = 64
"""So many tokens are sorted at the end of a draw."""

LINGER_TURNS = 15_000
"""Turns, of some 50 ns, that a thread stays awake for the next token: to wake it would cost a tenth of one."""

LINE = 16
"""int64 numbers of a phase on a board: what is taken and what is finished, in cache lines of their own."""


def vocab_rows(config: ModelConfig) -> int:
    """Return the padded rows of the embedding."""
    return padded(config.vocab_size, ROWS)


def phases(n_layer: int) -> int:
    """Return how many phases a forward pass has."""
    return 7 * n_layer + 3


def span(block_size: int) -> int:
    """Return the positions of a cache's row: loops run over the context's end."""
    return padded(block_size) + 4 * BLOCK


def widest(config: ModelConfig) -> int:
    """Return the widest input of a matrix."""
    return max(padded(config.n_embd), attention_width(config), padded(config.inner))


def padded(size: int, multiple: int = GROUP) -> int:
    """Return the next multiple."""
    return -(-size // multiple) * multiple


def head_width(config: ModelConfig) -> int:
    """Return the padded width of an attention head."""
    return padded(config.n_embd // config.n_head, _HEAD_MULTIPLE)


def attention_width(config: ModelConfig) -> int:
    """Return the padded width of all heads side by side."""
    return padded(config.n_head * head_width(config))


def matrix_shapes(config: ModelConfig) -> tuple[tuple[int, int], ...]:
    """Return the padded (out, in) of a layer's four matrices."""
    width, inner, attention = padded(config.n_embd), padded(config.inner), attention_width(config)
    return (3 * attention, width), (width, attention), (inner, width), (width, inner)


def vector_sizes(config: ModelConfig) -> tuple[int, ...]:
    """Return the padded sizes of a layer's vectors: norm 1, qkv and projection biases, norm 2, fc and MLP biases."""
    width, inner = padded(config.n_embd), padded(config.inner)
    return width, width, 3 * attention_width(config), width, width, width, inner, width
