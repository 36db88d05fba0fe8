"""Texts in the rows of the compiled model: chosen, repeated and read on; and the hidden states of its pass."""

import pytest
import torch
from test_compiled_model import SHAPES, compiled, distance, ids_for, model_of

from gpt_model.compiled.layout import PACKED_DTYPES, PackedDtype
from gpt_model.compiled.packing import pack, unpack


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("shared", [1, 5, 16, 18, 32, 47])
def test_chosen_rows_go_on_as_if_each_had_been_read_anew(dtype: PackedDtype, shared: int) -> None:
    model = compiled(model_of(SHAPES["even"]), dtype, threads=2)
    pick = torch.Generator().manual_seed(shared)
    new = ids_for(model.config, 64, 64)
    texts = new[:1, :shared]
    cache = model.new_cache()
    model.next_logits(texts, cache)
    at = 0
    for rows in ([0, 0, 0], [2, 0, 2, 1], [1], [0, 0], [1, 0], [0, 0, 1, 1, 0], [4, 4], [0, 1], [1], [0]):
        cache = cache.select(rows)
        texts = texts[rows]
        for _ in range(int(torch.randint(1, 3, (1,), generator=pick)) if shared < 47 else 1):
            at += 1
            texts = torch.cat([texts, new[at : at + 1, : len(rows)].T], dim=1)
            logits = model.next_logits(texts[:, -1:], cache)
            anew = torch.cat([model.next_logits(texts[row : row + 1]) for row in range(len(rows))])
            assert torch.equal(logits, anew)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_choice_leaves_the_chosen_from_as_they_were(dtype: PackedDtype) -> None:
    model = compiled(model_of(SHAPES["long"]), dtype)
    ids = ids_for(model.config, 3, 41)
    narrow = model.new_cache()
    model.next_logits(ids[:1, :30], narrow)
    texts = torch.cat([ids[:1, :30].expand(3, -1), ids[:, 30:]], dim=1)
    wide = narrow.expand(3)
    model.next_logits(texts[:, 30:40], wide)
    chosen = wide.select([2, 1])
    for _ in range(3):
        model.next_logits(ids[:2, :1], chosen)
    assert torch.equal(model.next_logits(texts[:, 40:], wide), model.next_logits(texts))
    assert torch.equal(model.next_logits(ids[:1, 30:35], narrow), model.next_logits(ids[:1, :35]))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", PACKED_DTYPES)
def test_hidden_states_are_the_torch_models(shape: str, dtype: PackedDtype) -> None:
    model = model_of(SHAPES[shape])
    packed = pack(model.config, model.state_dict(), dtype)
    computing = compiled(model, dtype, threads=2)
    ids = ids_for(model.config, 2, model.config.block_size)  # "long" is read in parts
    hidden, logits = computing.read(ids)
    meant, _ = unpack(packed).read(ids)
    assert hidden.shape == (2, model.config.block_size, model.config.n_embd)
    assert distance(hidden, meant) < (1e-5 if packed.scales is None else 1e-4)
    assert torch.equal(logits, computing.next_logits(ids))
    # and the same in pieces, to the bit
    cache = computing.new_cache(2)
    pieces = [computing.read(each, cache)[0] for each in ids.split(7, dim=1)]
    assert torch.equal(torch.cat(pieces, dim=1), hidden)
