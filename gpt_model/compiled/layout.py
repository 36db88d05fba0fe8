"""How numbers lie in memory, and how a call is told to the compiled code. Knows no model."""

from typing import Literal, get_args

PackedDtype = Literal["float32", "float16", "bfloat16", "int8", "int4"]
PACKED_DTYPES: tuple[PackedDtype, ...] = get_args(PackedDtype)

GROUP = 128
"""Numbers that share a scale, where weights are integers."""
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
UNIT_SIZE = 2 * 4 * SIDE * SIDE * 4 + 2 * SIDE * ROWS * 4 + 64
"""Bytes that a thread needs for the matrix unit: two stages' sums, results, and its configuration."""

# A call is a table of whole numbers, each in its place: sizes, and the addresses of arrays.
(
    N_LAYER, N_HEAD, N_EMBD, WIDTH, HEAD, HEAD_WIDTH, ATTENTION, INNER, VOCAB_SIZE, VOCAB_ROWS, SPAN, EPSILON,
    TABLE, TABLE_SCALES, MATRICES, SCALES, VECTORS, MATRIX_AT, VECTOR_AT,
    THREADS, BOARD, HIDDEN, NORMED, QKV, MIXED, INNER_OUT, OUT, UNPACKED, SCORES,
    NORMED_WHOLE, NORMED_SCALES, NORMED_PLANES, MIXED_WHOLE, MIXED_SCALES, MIXED_PLANES,
    INNER_WHOLE, INNER_SCALES, INNER_PLANES, UNIT_ROOM, COLUMNS,
    # and what changes from call to call
    CALL, KEYS, VALUES, SLOTS, IDS, IDS_ROWS, IDS_LENGTH, FIRST_ROW, PAST, SHARED, LOGITS, LAST_ONLY, MATRIX_UNIT,
    CALL_SIZE,
) = range(54)  # fmt: skip

# So is the draw of one row, and the look at it before.
(
    RAW, PROCESSED, CUTS, SIZE, UNIFORM, CANDIDATES, SHARE, FEW, ALIVE, TOLD, KNOWN, HEAD_IDS, HEAD_VALUES, HEADS,
    MOST_HEADS, STEPS, STEP_COUNT, TOKENS, TOKEN_COUNT, CHANGED, LOOKED, REACH, DRAW_SIZE,
) = range(23)  # fmt: skip
PENALISE, MOST, MASS, NEAR, DIVIDE = range(5)
"""The steps of a plan."""
MOST_STEPS = 16
UNKNOWN, NOT_FINITE = -1, -2
"""What is told in place of a token: that the steps lead further than the head, or that no draw can be made."""
FEW_TOKENS = 64
"""So many tokens are sorted at the end of a draw."""

# And so are the parts of a training step.
(
    GELU_BOARD, GELU_CALL, GELU_ROWS, GELU_WIDTH, GELU_CHUNK_ROWS, GELU_IS_LOW, GELU_INPUT, GELU_BIAS, GELU_OUTPUT,
    GELU_GRADIENT, GELU_SUMS,
) = range(11)  # fmt: skip
(
    HEAD_BOARD, HEAD_CALL, HEAD_THREADS, HEAD_SEQUENCES, HEAD_COUNT, HEAD_LENGTH, HEAD_SIZE, HEAD_IS_LOW, HEAD_LIMIT,
    HEAD_SEED, HEAD_FACTORS, HEAD_INPUT, HEAD_BIAS, HEAD_OUTPUT, HEAD_NORMS, HEAD_GRADIENT, HEAD_SUMS, HEAD_ROOM,
    HEAD_ROOM_SIZE,
) = range(19)  # fmt: skip
(
    DROP_BOARD, DROP_CALL, DROP_COUNT, DROP_NUMBERS, DROP_IS_LOW, DROP_SEED, DROP_LIMIT, DROP_SWELL, DROP_INPUT,
    DROP_OUTPUT,
) = range(10)  # fmt: skip
DROP_ROW, DROP_ROWS = 1024, 16
"""Numbers of a row, and rows that are taken at a time."""
(
    LOSS_BOARD, LOSS_CALL, LOSS_ROWS, LOSS_WIDTH, LOSS_CHUNK_ROWS, LOSS_IN_PLACE, LOSS_LOGITS, LOSS_TARGETS, LOSS_Z,
    LOSS_LOSSES,
) = range(10)  # fmt: skip
(
    POLAR_BOARD, POLAR_CALL, POLAR_THREADS, POLAR_COUNT, POLAR_SHORT, POLAR_LONG, POLAR_MATRICES, POLAR_TERMS,
    POLAR_ITERATIONS, POLAR_ROOM, POLAR_ROOM_SIZE,
) = range(11)  # fmt: skip
(
    GEMM_BOARD, GEMM_CALL, GEMM_THREADS, GEMM_ROWS, GEMM_COLUMNS, GEMM_INNER, GEMM_BLOCK_ROWS, GEMM_BLOCK_COLUMNS,
    GEMM_A, GEMM_A_ROW, GEMM_A_COLUMN, GEMM_B, GEMM_B_ROW, GEMM_B_COLUMN, GEMM_C, GEMM_C_ROW, GEMM_BIAS, GEMM_IS_NEW,
    GEMM_ROOM, GEMM_ROOM_SIZE,
) = range(20)  # fmt: skip
GEMM_STEPS = 256
"""Steps of a product that are made at a time: two vectors of so many fill two thirds of the nearest cache."""
GEMM_GROUP = GEMM_STEPS + 1
"""Vectors between two groups of packed rows: one more than a group has, or all would meet in one line of a cache."""
SHARED_TABLE = 32
"""Numbers of such a call's table, of which the first two are the board's address and the call's number."""

LINGER_TURNS = 15_000
"""Turns, of some 50 ns, that a thread stays awake for the next token: to wake it would cost a tenth of one."""

LINE = 16
"""int64 numbers of a phase on a board: what is taken and what is finished, in cache lines of their own."""

# What a team's threads watch: two lines for all, then one for each.
JOB_COUNT, JOB_ENTRY, JOB_TABLES, JOB_END = 0, LINE, LINE + 1, LINE + 2
JOB_LINES = 2
JOB_STATE, JOB_SEEN, JOB_WAKE, JOB_OWN = range(4)
ASLEEP, AWAKE, CALLED = range(3)


def phases(n_layer: int) -> int:
    """Return how many phases a forward pass has."""
    return 7 * n_layer + 3
