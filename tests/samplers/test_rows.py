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
    assert Drawer(300)(Rows(logits()), later, uniforms, 5) == Drawer(300)(Rows(logits()), at_once, uniforms, 5)
    assert draw(Rows(logits()), later, uniforms, 5) == draw(Rows(logits()), at_once, uniforms, 5)


def test_deciding_leaves_the_logits_alone() -> None:
    rows = logits()
    processed = ChainRun(Chain.parse("top_k=3,temperature=0.5"), [1, 2, 3]).process(rows, torch.zeros(3, 1), 1)
    assert not torch.equal(processed.logits, rows)
    assert torch.equal(rows, logits())


MODULES = ("rows", "history", "tfs", "regex", "nucleus")
FILTERS = [
    "top_k=5", "top_p=0.6", "min_p=0.1", "typical=0.7", "top_n_sigma=1", "epsilon=0.01", "eta=0.02", "top_a=0.3",
    "tfs=0.9", "p_less", "top_h=0.5", "xtc:threshold=0.1:probability=1", "repetition_penalty=1.3", "no_repeat_ngram=1",
    "temperature=0.7,top_k=9,top_p=0.8,min_p=0.02", "top_k=30,temperature=0.6,typical=0.9", "mirostat_v2=2",
    "dynamic_temperature=0.5,quadratic=0.2", "adaptive_p=0.4", "min_p=0.02,top_n_sigma=0.8,temperature=1.4,top_h=0.7",
]  # fmt: skip


@pytest.mark.parametrize("text", FILTERS)
def test_what_is_decided_on_a_device_is_what_is_decided_on_a_cpu(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device's tensors are never read before the token; here a CPU's are treated like them."""
    tokens = torch.tensor([[1, 2, 3, 1]]).expand(3, -1)
    here = ChainRun(Chain.parse(text), [1, 2, 3]).process(logits(), tokens, 2)
    for module in MODULES:
        monkeypatch.setattr(f"samplers.{module}.on_cpu", lambda logits: False)
    there = ChainRun(Chain.parse(text), [1, 2, 3]).process(logits(), tokens, 2)
    assert not here.faults + there.faults
    assert torch.equal(here.logits > -math.inf, there.logits > -math.inf)
    torch.testing.assert_close(here.logits, there.logits, rtol=1e-5, atol=1e-5)
    assert isinstance(there.rows.floor, torch.Tensor | None)
