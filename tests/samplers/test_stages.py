"""Every built-in stage: against transformers where it has the strategy, against its formula, and at the edges."""

import math

import pytest
import torch
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

import samplers

ROWS = torch.randn(500, 97, generator=torch.Generator().manual_seed(1)) * 3


def support(logits: torch.Tensor) -> torch.Tensor:
    return logits > -math.inf


@pytest.mark.parametrize("k", [1, 2, 10, 96, 97, 200])
def test_top_k_agrees_with_transformers(k: int) -> None:
    assert torch.equal(samplers.apply(f"top_k={k}", ROWS), TopKLogitsWarper(k)(None, ROWS))


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9, 0.95, 0.999])
def test_top_p_agrees_with_transformers(p: float) -> None:
    assert torch.equal(support(samplers.apply(f"top_p={p}", ROWS)), support(TopPLogitsWarper(p)(None, ROWS)))


@pytest.mark.parametrize("p", [0.01, 0.05, 0.5, 1.0])
def test_min_p_agrees_with_transformers(p: float) -> None:
    assert torch.equal(support(samplers.apply(f"min_p={p}", ROWS)), support(MinPLogitsWarper(p)(None, ROWS)))


def test_temperature_agrees_with_transformers() -> None:
    assert torch.allclose(samplers.apply("temperature=0.7", ROWS), TemperatureLogitsWarper(0.7)(None, ROWS))


@pytest.mark.parametrize("spec", ["greedy", "temperature=0", "top_k=1", "top_p=0", "min_p=1"])
def test_the_best_token_always_stays_and_here_it_is_the_only_one(spec: str) -> None:
    kept = support(samplers.apply(spec, ROWS))
    assert torch.equal(kept.sum(-1), torch.ones(len(ROWS)))
    assert torch.equal(kept.float().argmax(-1), ROWS.argmax(-1))


def test_ties_at_a_cut_stay_but_greedy_takes_the_lowest_id() -> None:
    row = torch.tensor([[1.0, 3.0, 3.0, 2.0, 2.0]])
    assert support(samplers.apply("top_k=3", row)).tolist() == [[False, True, True, True, True]]
    assert support(samplers.apply("top_p=0.1", row)).tolist() == [[False, True, True, False, False]]
    assert support(samplers.apply("greedy", row)).tolist() == [[False, True, False, False, False]]


@pytest.mark.parametrize("spec", ["top_k=0", "top_p=1", "min_p=0", "temperature=1"])
def test_a_stage_that_is_off_changes_nothing(spec: str) -> None:
    assert samplers.is_off(samplers.Chain.parse(spec).stages[0])
    assert torch.equal(samplers.apply(spec, ROWS), ROWS)


@pytest.mark.parametrize("spec", ["greedy", "temperature=0.5", "top_k=3", "top_p=0.9", "min_p=0.1"])
def test_minus_infinity_one_token_and_huge_logits_are_fine(spec: str) -> None:
    masked = torch.full((1, 6), -math.inf)
    masked[0, 4] = 2.0
    assert support(samplers.apply(spec, masked)).tolist() == [[False] * 4 + [True, False]]
    assert support(samplers.apply(spec, torch.zeros(1, 1))).tolist() == [[True]]
    huge = samplers.apply(spec, torch.tensor([[3e38, 0.0, -3e38]]) / 10)
    assert support(huge)[0, 0]
    assert not huge.isnan().any()


def test_the_input_is_left_unchanged() -> None:
    before = ROWS.clone()
    samplers.apply("top_k=5,top_p=0.9,min_p=0.1,temperature=0.5,greedy", ROWS)
    assert torch.equal(ROWS, before)


def test_apply_takes_a_single_row_and_other_types() -> None:
    processed = samplers.apply("top_k=2", torch.tensor([1, 2, 3]), tokens=[[5, 6]], prompt_length=1)
    assert processed.tolist() == [-math.inf, 2.0, 3.0]
