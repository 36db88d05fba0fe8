"""Packed weights: a GPT's numbers in the order and precision in which the compiled decode step reads them.

int8 and int4 share a float32 scale in groups of 128 along the input, which isolates outliers better than a scale a row;
int4 keeps the head in int8. They lie in blocks of 32 rows, four inputs after four, as integer_tile.py reads them;
other precisions lie row by row. Knows no file; packed_files.py does.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gpt_model.compiled.layout import GROUP, QUAD, ROWS, PackedDtype
from gpt_model.compiled.memory import Array, aligned_zeros, joined
from gpt_model.compiled.sizes import Sizes
from gpt_model.config import ModelConfig
from gpt_model.errors import CheckpointError
from gpt_model.model import GPT

_ELEMENTS = {
    "float32": np.float32, "float16": np.int16, "bfloat16": np.uint16, "int8": np.int8, "int4": np.uint8,
}  # fmt: skip
"""What a number is stored as; 16 bits as whole numbers, for numpy has no bfloat16."""
_MATRICES = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


class RangeError(CheckpointError):
    """A weight is too large for the precision."""


@dataclass(frozen=True)
class PackedModel:
    """The arrays that `decode_step.Weights` describes, and what they were made of."""

    config: ModelConfig
    dtype: PackedDtype
    head: Array
    head_scales: Array | None
    matrices: Array
    scales: Array | None
    vectors: Array

    @property
    def sizes(self) -> Sizes:
        """Their sizes."""
        return Sizes(self.config, self.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays = (self.head, self.head_scales, self.matrices, self.scales, self.vectors)
        return sum(each.nbytes for each in arrays if each is not None)

    @property
    def bytes_per_token(self) -> int:
        """Bytes that must be read for one token: everything but the positions' table."""
        return self.nbytes - self.config.block_size * self.sizes.width * 4


def pack(config: ModelConfig, state: Mapping[str, Tensor], dtype: PackedDtype) -> PackedModel:
    """Return a model's weights, given under GPT's names, in a precision.

    Raises:
        RangeError: a weight does not fit into float16.
        CheckpointError: a weight is no finite number; looked for in float16 alone.
    """
    weights = {name: tensor.detach().to("cpu", torch.float32) for name, tensor in state.items()}
    sizes = Sizes(config, dtype)
    table = _enlarge(weights["wte.weight"], sizes.vocab_rows, sizes.width)
    head, head_scales = _convert([table], table.numel(), "int8" if dtype == "int4" else dtype)
    count = config.n_layer * sum(rows * columns for rows, columns in sizes.matrices)
    matrices, scales = _convert(_matrices(sizes, weights), count, dtype)
    vectors = joined([each.reshape(-1).numpy() for each in _vectors(sizes, weights)])
    for array in (head, head_scales, matrices, scales, vectors):
        if array is not None:
            array.flags.writeable = False
    return PackedModel(config, dtype, head, head_scales, matrices, scales, vectors)


def expected_arrays(sizes: Sizes) -> dict[str, tuple[type, int]]:
    """Return the arrays of a packed model by name: what a number is stored as, and how many there are."""
    config, dtype = sizes.config, sizes.dtype
    head = sizes.vocab_rows * sizes.width
    matrices = config.n_layer * sum(rows * columns for rows, columns in sizes.matrices)
    vectors = config.block_size * sizes.width + config.n_layer * sum(sizes.vectors) + 2 * sizes.width
    kinds: dict[str, tuple[type, int]] = {
        "head": (_ELEMENTS["int8" if dtype == "int4" else dtype], head),
        "matrices": (_ELEMENTS[dtype], matrices // 2 if dtype == "int4" else matrices),
        "vectors": (np.float32, vectors),
    }
    if sizes.integer:
        kinds |= {"head_scales": (np.float32, head // GROUP), "scales": (np.float32, matrices // GROUP)}
    return kinds


def unpack(packed: PackedModel) -> GPT:
    """Return a torch model of the packed numbers, in float32: what they mean where nothing can compute with them."""
    config = packed.config
    with torch.device("meta"):
        model = GPT(config)
    sizes = packed.sizes
    width = sizes.width
    head_dtype: PackedDtype = "int8" if packed.dtype == "int4" else packed.dtype
    wide = _restore(packed.head, packed.head_scales, (sizes.vocab_rows, width), head_dtype)
    state = {"wte.weight": wide[: config.vocab_size, : config.n_embd]}
    at = 0
    vectors = torch.from_numpy(packed.vectors.copy())
    state["wpe.weight"] = vectors[: config.block_size * width].reshape(-1, width)[:, : config.n_embd]
    vector_at = config.block_size * width
    for layer in range(config.n_layer):
        for name, (rows, columns) in zip(_MATRICES, sizes.matrices, strict=True):
            begin, end = (place // (2 if packed.dtype == "int4" else 1) for place in (at, at + rows * columns))
            scales = None if packed.scales is None else packed.scales[at // GROUP : (at + rows * columns) // GROUP]
            matrix = _restore(packed.matrices[begin:end], scales, (rows, columns), packed.dtype)
            at += rows * columns
            state[f"h.{layer}.{name}.weight"] = _shrink(sizes, name, matrix)
        for name, size in zip(_VECTORS, sizes.vectors, strict=True):
            value = vectors[vector_at : vector_at + size]
            vector_at += size
            if name == "attn.c_attn.bias":
                value = _join_heads(sizes, value[:, None])[:, 0]
            state[f"h.{layer}.{name}"] = value[: config.inner if name == "mlp.c_fc.bias" else None]
    for name in ("ln_f.weight", "ln_f.bias"):
        state[name] = vectors[vector_at : vector_at + width]
        vector_at += width
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    trimmed = {name: tensor[tuple(slice(size) for size in shapes[name])].contiguous() for name, tensor in state.items()}
    model.load_state_dict(trimmed, assign=True)
    return model.eval().requires_grad_(False)


_VECTORS = (
    "ln_1.weight", "ln_1.bias", "attn.c_attn.bias", "attn.c_proj.bias",
    "ln_2.weight", "ln_2.bias", "mlp.c_fc.bias", "mlp.c_proj.bias",
)  # fmt: skip


def _matrices(sizes: Sizes, weights: dict[str, Tensor]) -> Iterator[Tensor]:
    qkv, projection, fc, mlp_projection = sizes.matrices
    for layer in range(sizes.config.n_layer):
        name = f"h.{layer}."
        yield _enlarge(_part_heads(sizes, weights[name + "attn.c_attn.weight"]), *qkv)
        by_head = weights[name + "attn.c_proj.weight"].T  # (in, out): the inputs are heads
        yield _enlarge(_pad_heads(sizes, by_head).T, *projection)
        yield _enlarge(weights[name + "mlp.c_fc.weight"], *fc)
        yield _enlarge(weights[name + "mlp.c_proj.weight"], *mlp_projection)


def _vectors(sizes: Sizes, weights: dict[str, Tensor]) -> Iterator[Tensor]:
    yield _enlarge(weights["wpe.weight"], sizes.config.block_size, sizes.width)
    for layer in range(sizes.config.n_layer):
        for name, size in zip(_VECTORS, sizes.vectors, strict=True):
            value = weights[f"h.{layer}.{name}"][:, None]
            yield _enlarge(_part_heads(sizes, value) if name == "attn.c_attn.bias" else value, size, 1)
    for name in ("ln_f.weight", "ln_f.bias"):
        yield _enlarge(weights[name][:, None], sizes.width, 1)


def _enlarge(matrix: Tensor, rows: int, columns: int) -> Tensor:
    """Return a matrix with zeros below and to the right."""
    return torch.nn.functional.pad(matrix, (0, columns - matrix.shape[1], 0, rows - matrix.shape[0]))


def _pad_heads(sizes: Sizes, rows: Tensor) -> Tensor:
    """Return rows (n_head × head, X) with every head's rows padded, and zeros behind the last: (attention, X)."""
    by_head = rows.reshape(sizes.config.n_head, -1, rows.shape[1])
    wide = torch.nn.functional.pad(by_head, (0, 0, 0, sizes.head - by_head.shape[1])).flatten(0, 1)
    return _enlarge(wide, sizes.attention, rows.shape[1])


def _part_heads(sizes: Sizes, rows: Tensor) -> Tensor:
    """Return the rows of queries, keys and values (3 C, X), each as `_pad_heads` does."""
    return torch.cat([_pad_heads(sizes, part) for part in torch.split(rows, sizes.config.n_embd)])


def _join_heads(sizes: Sizes, rows: Tensor) -> Tensor:
    """Undo `_part_heads`, or `_pad_heads` for rows of one part."""
    kept = []
    for part in torch.split(rows, sizes.attention):
        by_head = part[: sizes.config.n_head * sizes.head].reshape(sizes.config.n_head, sizes.head, -1)
        kept.append(by_head[:, : sizes.config.n_embd // sizes.config.n_head].flatten(0, 1))
    return torch.cat(kept)


def _shrink(sizes: Sizes, name: str, matrix: Tensor) -> Tensor:
    if name == "attn.c_attn":
        return _join_heads(sizes, matrix)
    return _join_heads(sizes, matrix.T).T if name == "attn.c_proj" else matrix


def _convert(matrices: "Iterator[Tensor] | list[Tensor]", count: int, dtype: PackedDtype) -> tuple[Array, Array | None]:
    """Return matrices of `count` numbers in all, one after another, as one flat array, and its scales."""
    numbers = aligned_zeros((count // 2 if dtype == "int4" else count,), _ELEMENTS[dtype])
    scales = aligned_zeros((count // GROUP,)) if dtype in ("int8", "int4") else None
    at = group = 0
    for matrix in matrices:  # one at a time, so that a large model is never there twice
        flat = matrix.reshape(-1)
        if scales is not None:
            levels, factors = _quantise(flat.reshape(-1, GROUP), dtype)
            raw, ordered = _interleave(levels.reshape(matrix.shape), factors.reshape(len(matrix), -1), dtype)
            scales[group : group + len(ordered)] = ordered
            group += len(ordered)
        elif dtype == "float32":
            raw = flat.numpy()
        else:
            short = flat.to(getattr(torch, dtype))
            if dtype == "float16" and not torch.isfinite(short).all():
                if not torch.isfinite(flat).all():
                    raise CheckpointError(
                        "The weights are not finite, so the model is broken. Open another checkpoint."
                    )
                raise RangeError("The weights are too large for float16. Choose another dtype: bfloat16 or float32.")
            raw = short.view(torch.int16).numpy().view(_ELEMENTS[dtype])
        numbers[at : at + len(raw)] = raw
        at += len(raw)
    return numbers, scales


def _quantise(groups: Tensor, dtype: PackedDtype) -> tuple[Tensor, Tensor]:
    """Return groups (N, 128) as whole numbers (N, 128) int8, and their scales (N,).

    int8: the largest magnitude is ±127. int4: the largest is -8, so that all sixteen values are used, as in ggml's
    Q4_0.
    """
    if dtype == "int8":
        scale = groups.abs().amax(dim=1) / 127
        return (groups / scale.clamp(min=1e-30)[:, None]).round().to(torch.int8), scale
    scale = groups.gather(1, groups.abs().argmax(dim=1, keepdim=True))[:, 0] / -8
    safe = torch.where(scale == 0, torch.ones_like(scale), scale)
    return (groups / safe[:, None]).round().clamp(-8, 7).to(torch.int8), scale


def _interleave(levels: Tensor, scales: Tensor, dtype: PackedDtype) -> tuple[Array, Array]:
    """Return numbers (rows, inputs) and scales (rows, groups), flat, as integer_tile.py reads them.

    A block of 32 rows lies quad of inputs by quad of inputs, each quad row by row; its scales group by group. Of two
    quads, int4 puts the first into the low halves of 128 bytes and the second into the high halves; it is read as 16
    times the number, so its scale is a sixteenth.
    """
    rows, inputs = levels.shape
    quads = levels.reshape(rows // ROWS, ROWS, inputs // QUAD, QUAD).transpose(1, 2)  # (blocks, quads, 32, 4)
    scales = scales.reshape(rows // ROWS, ROWS, -1).transpose(1, 2)
    if dtype == "int8":
        return quads.reshape(-1).numpy(), scales.reshape(-1).numpy()
    both = quads.reshape(-1, 2, QUAD * ROWS)
    nibbles = (both[:, 0] & 15) | (both[:, 1] << 4)
    return nibbles.reshape(-1).numpy().view(np.uint8), (scales / 16).reshape(-1).numpy()


def _restore(numbers: Array, scales: Array | None, shape: tuple[int, int], dtype: PackedDtype) -> Tensor:
    """Return the float32 matrix (rows, inputs) that packed numbers stand for."""
    raw = torch.from_numpy(numbers.copy() if dtype != "bfloat16" else numbers.view(np.int16).copy())
    if dtype == "float32":
        return raw.reshape(shape)
    if dtype in ("float16", "bfloat16"):
        return raw.view(getattr(torch, dtype)).float().reshape(shape)
    if dtype == "int4":
        nibbles = raw.view(torch.int8).reshape(-1, 1, QUAD * ROWS)
        raw = torch.cat([(nibbles << 4), (nibbles >> 4) << 4], dim=1)
    assert scales is not None
    rows, inputs = shape
    levels = raw.reshape(rows // ROWS, inputs // QUAD, ROWS, QUAD).transpose(1, 2).reshape(rows, -1, GROUP)
    factors = torch.from_numpy(scales.copy()).reshape(rows // ROWS, -1, ROWS).transpose(1, 2).reshape(rows, -1, 1)
    return (levels.float() * factors).reshape(shape)
