"""The draw: 20,000 keyed draws a case follow the exact distribution, are independent, and repeat by their seeds.

A case fails by chance once in a million times; a share that is six per cent wrong is all but sure to be seen.
"""

import math

import pytest
import torch
from torch import Tensor

from gpt_model.compiled.drawer import Drawer
from gpt_model.drawing import draw, tell
from samplers import Chain, ChainRun, Rows, keyed_uniform

DRAWS = 20_000
UNIFORMS = [keyed_uniform(11, position) for position in range(DRAWS)]
HISTORY = torch.tensor([[1, 2, 3, 1, 2, 1, 2, 3]])
CHAINS = [
    "",
    "temperature=0.7",
    "temperature=3",
    "top_k=5",
    "top_p=0.8",
    "min_p=0.1",
    "typical=0.7",
    "top_n_sigma=1",
    "eta=0.02",
    "p_less",
    "quadratic=0.5",
    "dynamic_temperature=0.5",
    "repetition_penalty=1.5",
    "frequency_penalty=0.5:scope=all,presence_penalty=0.5:scope=all",
    "no_repeat_ngram=3",
    "dry:multiplier=1:scope=all",
    "mirostat_v2=2",
    "adaptive_p=0.3",
    "repetition_penalty=1.1:scope=all,top_k=40,top_p=0.95,min_p=0.05,temperature=0.8",
]
ROWS = {
    "few": torch.tensor([[2.0, 1.0, 0.0, -1.0, -math.inf, 1.0]]),
    "many": torch.randn(1, 400, generator=torch.Generator().manual_seed(2)) * 2,
    "ties": (torch.randn(1, 90, generator=torch.Generator().manual_seed(3)) * 2).round(),
    "flat": torch.zeros(1, 300),
}


def critical(freedom: int, chance: float = 1e-6) -> float:
    """Return the value that χ² with so many degrees of freedom passes with this chance."""
    low, high = 0.0, 100.0 + 10 * freedom
    for _ in range(80):
        middle = (low + high) / 2
        halves = torch.tensor([freedom / 2, middle / 2], dtype=torch.float64)
        low, high = (middle, high) if float(torch.special.gammaincc(*halves)) > chance else (low, middle)
    return high


def follows(counts: Tensor, expected: Tensor) -> bool:
    """Whether counts (V,) follow what is expected (V,), bins of fewer than five taken together."""
    assert not counts[expected == 0].any(), "a token was drawn that cannot be"
    rare = expected < 5
    observed = torch.cat([counts[~rare], counts[rare].sum()[None]])
    awaited = torch.cat([expected[~rare], expected[rare].sum()[None]])
    if awaited[-1] < 5:  # too little to be told
        observed, awaited = observed[:-1], awaited[:-1]
    statistic = float(((observed - awaited) ** 2 / awaited).sum())
    return len(awaited) < 2 or statistic < critical(len(awaited) - 1)


def all_drawn(logits: Tensor, rows: Rows, uniforms: list[float], compiled: bool) -> Tensor:
    """Return what is drawn from one row (1, V) by many uniform numbers."""
    if compiled:
        drawer, one = Drawer(logits.shape[1]), Rows(rows.dense)
        return torch.tensor([drawer(Rows(logits), one, [uniform], 1)[0].id for uniform in uniforms])
    many = logits.expand(len(uniforms), -1)
    return torch.tensor([each.id for each in draw(Rows(many), Rows(rows.dense.expand(len(uniforms), -1)), uniforms, 1)])


CASES = [(chain, kind, True) for chain in CHAINS for kind in ROWS if chain in CHAINS[:6] or kind in ("many", "ties")]
CASES += [("top_p=0.8", kind, False) for kind in ROWS]


@pytest.mark.parametrize(("chain", "kind", "compiled"), CASES)
def test_draws_follow_the_distribution(chain: str, kind: str, compiled: bool) -> None:
    logits = ROWS[kind]
    rows = ChainRun(Chain.parse(chain), [1]).process(logits, HISTORY, 4).rows
    exact = rows.dense[0].double().softmax(-1)
    drawn = all_drawn(logits, rows, UNIFORMS, compiled)
    assert follows(drawn.bincount(minlength=len(exact)).double(), exact * DRAWS)


def test_a_coin_of_a_stage_falls_as_often_as_it_should() -> None:
    logits = torch.tensor([[2.0, 1.8, 1.5, 0.0, -1.0]])
    chain = Chain.parse("xtc:threshold=0.1:probability=0.3")
    acting = Chain.parse("xtc:threshold=0.1:probability=1")
    seeds = list(range(DRAWS))
    rows = ChainRun(chain, seeds).process(logits.expand(DRAWS, -1), HISTORY.expand(DRAWS, -1), 4).rows
    drawn = draw(Rows(logits.expand(DRAWS, -1)), rows, [keyed_uniform(seed, 8) for seed in seeds], 1)
    cut = ChainRun(acting, [1]).process(logits, HISTORY, 4).logits[0].double().softmax(-1)
    exact = 0.3 * cut + 0.7 * logits[0].double().softmax(-1)
    counts = torch.tensor([each.id for each in drawn]).bincount(minlength=5).double()
    assert follows(counts, exact * DRAWS)


@pytest.mark.parametrize("apart", ["positions", "rows", "places"])
def test_draws_are_independent(apart: str) -> None:
    """Neighbouring positions, neighbouring samples, and a stage's coin beside the draw: a table of pairs."""
    keys = {
        "positions": lambda number: [(5, number, 0), (5, number + 1, 0)],
        "rows": lambda number: [(number, 9, 0), (number + 1, 9, 0)],
        "places": lambda number: [(5, number, 0), (5, number, 1)],
    }
    logits = torch.tensor([[1.0, 0.5, 0.0, -0.5]])
    pairs = [[keyed_uniform(*key) for key in keys[apart](2 * number)] for number in range(DRAWS)]
    first, second = (all_drawn(logits, Rows(logits), list(each), False) for each in zip(*pairs, strict=True))
    exact = logits[0].double().softmax(-1)
    table = (first * 4 + second).bincount(minlength=16).double()
    assert follows(table, (exact[:, None] * exact).flatten() * DRAWS)


def test_a_seed_repeats_its_draws_bit_for_bit_and_another_does_not() -> None:
    logits = ROWS["many"]

    def by(seed: int) -> Tensor:
        return all_drawn(logits, Rows(logits), [keyed_uniform(seed, position) for position in range(500)], True)

    assert torch.equal(by(3), by(3))
    assert not torch.equal(by(3), by(4))


@pytest.mark.parametrize("kind", ROWS)
def test_telling_of_a_token_tells_what_drawing_it_told(kind: str) -> None:
    logits = ROWS[kind].expand(50, -1)
    rows = (
        ChainRun(Chain.parse("min_p=0.05,temperature=0.7"), range(50)).process(logits, HISTORY.expand(50, -1), 4).rows
    )
    drawn = draw(Rows(logits), rows, [keyed_uniform(1, position) for position in range(50)], 5)
    assert tell(Rows(logits), rows, [each.id for each in drawn], 5) == drawn
