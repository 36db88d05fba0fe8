"""The filters and scales at their edges: off, out already, tied, alone, enormous, in batches, behind other stages."""

import math

import pytest
import torch
from logit_rows import (
    COUNTS,
    MASS,
    NEAR,
    alive,
    applied,
    best,
    cut_after,
    entropy,
    filtered,
    log_probabilities,
    rows_of,
    stage_of,
)

import samplers
from samplers import Context
from samplers.nucleus import fewest

FILTERS = [
    *["typical=0.9", "top_n_sigma=1", "epsilon=0.02", "eta=0.02", "top_a=0.2", "tfs=0.9", "p_less", "top_h=0.4"],
    "xtc=0.05:probability=1",
]
SCALES = ["quadratic=0.3", "quadratic=0.3:curve=4", "dynamic_temperature=0.5", "dynamic_temperature=1"]


@pytest.mark.parametrize("text", FILTERS + SCALES)
def test_a_row_comes_to_the_same_alone_and_in_any_batch(text: str) -> None:
    rows = rows_of(97)[:100]
    together = applied(text, rows)
    assert torch.equal(torch.cat([applied(text, row[None]) for row in rows]), together)
    assert torch.equal(applied(text, rows.flip(0)).flip(0), together)


@pytest.mark.parametrize("text", FILTERS + SCALES)
def test_what_is_out_already_is_as_if_it_were_not_there(text: str) -> None:
    rows = rows_of(97)[alive(rows_of(97)).all(-1)][:300]
    wider = torch.full((300, 190), -math.inf)
    wider[:, 3:100] = rows
    torch.testing.assert_close(applied(text, wider)[:, 3:100], applied(text, rows), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("text", FILTERS + SCALES)
def test_a_single_token_stays_in_a_vocabulary_of_one_or_among_those_that_are_out(text: str) -> None:
    for value in (-7.5, 0.0, 12.0):
        assert alive(applied(text, torch.tensor([[value]]))).tolist() == [[True]]
        masked = torch.tensor([[-math.inf, value, -math.inf]])
        assert alive(applied(text, masked)).tolist() == [[False, True, False]]


@pytest.mark.parametrize("text", [*FILTERS[1:-1], SCALES[0], *SCALES[2:]])
def test_the_best_stays_the_best(text: str) -> None:
    for size in COUNTS:
        rows = rows_of(size)
        result = applied(text, rows)
        # scales may round others up to it
        assert torch.equal(result.gather(-1, rows.argmax(-1, keepdim=True)), best(result))


@pytest.mark.parametrize("text", FILTERS + SCALES)
def test_logits_at_the_ends_of_float32_make_nothing_that_is_no_number(text: str) -> None:
    for values in ([3e38, 0.0, -3e38], [3e38, 3e38, -3e38], [-3e38, -3e38, -math.inf], [3e37, 1.0, -1.0]):
        result = applied(text, torch.tensor([values]))
        assert not result.isinf().logical_and(result > 0).any()


@pytest.mark.parametrize(
    "text",
    [
        *["typical=1", "top_n_sigma=0", "epsilon=0", "eta=0", "top_a=0", "tfs=1", "quadratic=0:curve=2"],
        *["dynamic_temperature=0:temperature=0.5", "xtc:probability=0", "xtc=0.5:probability=1"],
    ],
)
def test_a_stage_that_is_off_changes_nothing(text: str) -> None:
    assert samplers.is_off(stage_of(text))
    for size in COUNTS:
        assert torch.equal(applied(text, rows_of(size)), rows_of(size))


@pytest.mark.parametrize("text", FILTERS + SCALES)
def test_behind_cuts_that_are_decided_only_it_does_what_it_does_behind_cuts_that_are_made(text: str) -> None:
    rows = rows_of(97)[:300]
    chain = samplers.Chain.parse(f"top_k=30,temperature=0.7,min_p=0.001,{text},top_p=0.9,temperature=1.2")
    context = Context(torch.zeros(300, 1, dtype=torch.long), 1, [0.3] * 300)
    step = rows
    decided = samplers.Rows(rows)
    for stage in chain:
        step = stage(step, context)
        decided = stage.on(decided, context)
    assert torch.equal(decided.dense, step)


def test_a_cut_that_hits_a_token_keeps_it() -> None:
    assert filtered("top_n_sigma=2", torch.tensor([[1.3, -2.7]])).tolist() == [[True, True]]
    assert filtered("top_n_sigma=1.99", torch.tensor([[1.3, -2.7]])).tolist() == [[True, False]]
    assert filtered("epsilon=0.2", torch.zeros(1, 5)).tolist() == [[True] * 5]
    assert filtered("p_less", torch.zeros(1, 5)).tolist() == [[True] * 5]
    assert filtered("p_less", torch.full((1, 50_257), 0.1)).all()


def test_typical_may_drop_the_best_token_as_the_paper_does() -> None:
    row = torch.tensor([[0.4, *[0.02] * 30]]).log()
    assert filtered("typical=0.5", row).tolist() == [[False] + [True] * 30]


def test_tail_free_leaves_two_and_what_ties() -> None:
    assert filtered("tfs=0.1", torch.tensor([[2.0, 1.0]])).all()
    assert filtered("tfs=0.1", torch.tensor([[2.0, -math.inf, 1.0]])).tolist() == [[True, False, True]]
    assert filtered("tfs=0.1", torch.full((1, 7), 0.3)).all()
    assert filtered("tfs=0.9", torch.tensor([[3.0, 2.0, 1.0]])).tolist() == [[True, False, False]]


def test_xtc_keeps_what_ties_with_the_least_choice_and_acts_as_often_as_it_should() -> None:
    row = torch.tensor([[0.3, 0.2, 0.2, 0.2, 0.1]]).log()
    assert filtered("xtc=0.15:probability=1", row).tolist() == [[False, True, True, True, True]]
    assert filtered("xtc=0.25:probability=1", row).all()
    rows = row.expand(4000, -1)
    acted = ~alive(samplers.apply("xtc=0.15:probability=0.25", rows, seed=5))[:, 0]
    assert abs(int(acted.sum()) - 1000) < 5 * math.sqrt(4000 * 0.25 * 0.75)


def test_xtc_tosses_a_coin_for_each_row() -> None:
    rows = torch.tensor([[0.3, 0.2, 0.5]]).log().expand(3, -1)
    context = Context(torch.zeros(3, 1, dtype=torch.long), 1, [0.1, 0.9, 0.49])
    kept = alive(stage_of("xtc=0.1:probability=0.5")(rows, context))
    assert kept.tolist() == [[False, True, False], [True] * 3, [False, True, False]]


def test_dynamic_temperature_goes_from_its_lowest_to_its_highest() -> None:
    flat, sure = torch.full((1, 8), 3.0), torch.tensor([[40.0, 0.0, 0.0]])
    assert torch.allclose(applied("dynamic_temperature=0.5", flat), flat / 1.5)
    assert torch.allclose(applied("dynamic_temperature=0.5", sure), sure / 0.5)
    assert alive(applied("dynamic_temperature=1", sure)).tolist() == [[True, False, False]]
    assert torch.allclose(applied("dynamic_temperature=0.5:exponent=0", sure), sure / 1.5)


def test_a_large_vocabulary_is_cut_where_its_sort_says() -> None:
    rows = torch.randn(3, 20_000, generator=torch.Generator().manual_seed(9)) * torch.tensor([[1.0], [3.0], [8.0]])
    rows[1] = (rows[1] * 8).round() / 8
    scores = -(log_probabilities(rows) + entropy(rows)).abs()
    for p in (0.05, 0.5, 0.95):
        high, low = (cut_after(scores, log_probabilities(rows).exp(), p + off) for off in (-MASS, MASS))
        kept = filtered(f"typical={p}", rows)
        assert kept[scores > high + NEAR].all()
        assert not kept[scores < low - NEAR].any()
        assert (high - low).max() < 0.01


@pytest.mark.parametrize("size", [4, 5000])
def test_the_fewest_stop_where_their_mass_is_reached_to_the_bit(size: int) -> None:
    scores, weights = torch.full((2, size), -90.0), torch.zeros(2, size)
    scores[:, [2, 0, 3, 1]] = torch.tensor([[-1.0, -2.0, -2.0, -3.0], [-1.0, -2.0, -4.0, -7.0]])
    weights[:, [2, 0, 3, 1]] = torch.tensor([0.125, 0.5, 0.25, 0.125])
    expected = {0.0: [-1, -1], 0.125: [-1, -1], 0.126: [-2, -2], 0.625: [-2, -2], 0.626: [-2, -4], 0.875: [-2, -4]}
    for mass, thresholds in expected.items():
        assert fewest(scores, weights, mass)[:, 0].tolist() == thresholds


@pytest.mark.parametrize("text", FILTERS + SCALES)
def test_a_long_row_alone_is_the_row_in_a_batch(text: str) -> None:
    rows = torch.randn(3, 50_257, generator=torch.Generator().manual_seed(1)) * 3
    assert torch.equal(torch.cat([applied(text, row[None]) for row in rows]), applied(text, rows))
