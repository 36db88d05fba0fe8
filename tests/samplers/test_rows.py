"""Rows: what is decided first and carried out later is what was carried out at once, to the bit."""

import itertools
import math

import pytest
import torch

from gpt_model.compiled.drawer import Drawer
from gpt_model.drawing import draw
from samplers import Chain, ChainRun, Context, Rows

STAGES = ["min_p=0.1", "temperature=0.7", "top_k=5", "top_p=0.6", "temperature=1.7", "min_p=0.02"]


def logits(size: int = 300) -> torch.Tensor:
    rows = torch.randn(3, size, generator=torch.Generator().manual_seed(3)) * 3
    rows[1, 7:20] = rows[1, 7]  # equals at a cut
    rows[2, 50:] = -math.inf
    return rows


@pytest.mark.parametrize("stages", list(itertools.permutations(STAGES, 3)), ids=",".join)
def test_a_chain_decided_is_a_chain_carried_out(stages: tuple[str, ...]) -> None:
    chain = Chain.parse(",".join(stages))
    tokens = torch.zeros(3, 4, dtype=torch.long)
    decided = ChainRun(chain, [1, 2, 3]).process(logits(), tokens, 4).rows
    step = logits()
    for stage in chain:
        step = stage(step, Context(tokens, 4))
    assert torch.equal(decided.dense, step)
    assert torch.equal(decided.best, step.amax(-1, keepdim=True))
    uniforms = [0.1, 0.5, 0.99]
    at_once, later = Rows(step), decided
    assert Drawer(300)(logits(), later, uniforms, 5) == Drawer(300)(logits(), at_once, uniforms, 5)
    assert draw(logits(), later, uniforms, 5) == draw(logits(), at_once, uniforms, 5)


def test_deciding_leaves_the_logits_alone() -> None:
    rows = logits()
    processed = ChainRun(Chain.parse("top_k=3,temperature=0.5"), [1, 2, 3]).process(rows, torch.zeros(3, 1), 1)
    assert not torch.equal(processed.logits, rows)
    assert torch.equal(rows, logits())
