"""A chain at work: memories, switches, and stages that misbehave."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import pytest
import torch
from torch import Tensor

from samplers import Chain, ChainRun, Context, Param, keyed_uniform
from samplers.temperature import Temperature
from samplers.top_k import TopK

ROW = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
TOKENS = torch.tensor([[7, 8]])


@dataclass(frozen=True)
class Misbehaving:
    """Does what no stage may do."""

    name: ClassVar[str] = "misbehaving"
    how: Annotated[str, Param(0, 0, help="which sin")] = "raise"

    def __call__(self, logits: Tensor, context: Context) -> Tensor:
        if self.how == "raise":
            raise RuntimeError("on purpose")
        if self.how == "change":
            logits.fill_(-math.inf)
        sins = {
            "empty": torch.full_like(logits, -math.inf),
            "nan": logits * math.nan,
            "inf": logits + math.inf,
            "shape": logits[:, :2],
            "type": logits.double(),
            "none": None,
            "change": torch.full_like(logits, math.nan),
        }
        return sins[self.how]


@dataclass(frozen=True)
class Remembering:
    """Removes the token that was drawn last."""

    name: ClassVar[str] = "remembering"

    def start(self) -> int:
        return -1

    def after(self, memory: int, token: int, logits_in: Tensor, logits_out: Tensor) -> int:
        return token

    def __call__(self, logits: Tensor, context: Context) -> Tensor:
        return logits if context.memory < 0 else logits.index_fill(1, torch.tensor([context.memory]), -math.inf)


@pytest.mark.parametrize("how", ["raise", "empty", "nan", "inf", "shape", "type", "none", "change"])
def test_a_misbehaving_stage_is_bypassed_named_and_switched_off_after_three(how: str) -> None:
    run = ChainRun(Chain((Misbehaving(how), TopK(2))), [0])
    for strike in (1, 2, 3):
        processed = run.process(ROW.clone(), TOKENS, 1)
        assert processed.logits.tolist() == [[-math.inf, -math.inf, 2.0, 3.0]]
        assert len(processed.faults) == 1
        assert "misbehaving" in processed.faults[0]
        assert ("switched off" in processed.faults[0]) == (strike == 3)
    assert run.process(ROW.clone(), TOKENS, 1).faults == ()


def test_a_stage_with_memory_sees_its_own_rows_and_keeps_it_through_a_switch() -> None:
    run = ChainRun(Chain((Remembering(),)), [0, 1])
    rows = ROW.repeat(2, 1)
    run.process(rows, TOKENS.repeat(2, 1), 1)
    run.after(0, 3)
    run.after(1, 0)
    run.switch(Chain((TopK(4), Remembering())))
    kept = run.process(rows, TOKENS.repeat(2, 1), 1).logits
    assert kept.isinf().tolist() == [[False, False, False, True], [True, False, False, False]]


def test_the_account_tells_what_each_stage_left() -> None:
    processed = ChainRun(Chain((TopK(2), Temperature(0.5))), [0]).process(ROW, TOKENS, 1, account=True)
    first, second = processed.accounts[0]
    assert (first.stage, first.kept) == ("top_k=2", 2)
    assert first.mass == pytest.approx(ROW.softmax(-1)[0, 2:].sum().item())
    assert (second.stage, second.kept) == ("temperature=0.5", 2)
    assert (first.threshold, second.threshold) == (2.0, None)


def test_the_account_tells_what_is_off_and_no_cut_where_an_earlier_one_was_higher() -> None:
    chain = Chain((TopK(2), TopK(0), TopK(3), Temperature(0.5), TopK(1)))
    processed = ChainRun(chain, [0, 1]).process(ROW.repeat(2, 1), TOKENS.repeat(2, 1), 1, account=True)
    for accounts in processed.accounts:
        assert [each.off for each in accounts] == [False, True, False, False, False]
        assert [each.threshold for each in accounts] == [2.0, None, None, None, 6.0]
    assert [each.dense[0].tolist().count(-math.inf) for each in processed.left] == [2, 2, 2, 2, 3]


def test_keyed_uniforms_depend_on_their_key_alone_and_are_spread_evenly() -> None:
    assert keyed_uniform(1, 2) == keyed_uniform(1, 2)
    assert (
        len({keyed_uniform(seed, position, place) for seed in range(9) for position in range(9) for place in range(3)})
        == 243
    )
    draws = torch.tensor([keyed_uniform(5, position) for position in range(20_000)], dtype=torch.float64)
    counts = torch.histc(draws.float(), 20, 0, 1)
    assert ((counts - 1000) ** 2 / 1000).sum() < 66  # χ² with 19 degrees of freedom: 1e-6
    pairs = torch.corrcoef(torch.stack([draws[:-1], draws[1:]]))[0, 1]
    assert abs(pairs) < 0.035
