"""The filters and scales: against transformers, or against their formulas in float64, on rows of every kind."""

import functools
import math
from collections.abc import Callable

import numpy as np
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
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)


def assert_cut_at(limits: torch.Tensor, kept: torch.Tensor, scores: torch.Tensor, must: torch.Tensor) -> None:
    """Every token above its row's limit stays and every one below goes, but where rounding may have decided."""
    assert kept[(scores > limits + NEAR) | must].all()
    assert not kept[(scores < limits - NEAR) & ~must].any()


def assert_limits(kept: torch.Tensor, scores: torch.Tensor, limits: list[torch.Tensor]) -> None:
    """Each row is cut at one of two limits, which are one but where a mass is what was asked for to 9 digits."""
    high, low = limits
    assert ((kept == (scores >= high)).all(-1) | (kept == (scores >= low)).all(-1)).all()
    assert (high == low).float().mean() > 0.998


def assert_ties_kept_too(
    ours: torch.Tensor, theirs: torch.Tensor, rows: torch.Tensor, high: torch.Tensor, low: torch.Tensor,
    least_certain: float = 0.8,
) -> None:  # fmt: skip
    """Of tokens that tie at a cut, a peer keeps those that its sort puts first, and we keep all; else we agree.

    Its mass in float32 may cross anywhere between two limits. Where these are one there is no doubt.
    """
    certain = high == low
    assert certain.float().mean() > least_certain
    assert not (theirs & ~ours & certain).any()
    extra = ours & ~theirs & certain
    assert (rows == high)[extra].all()  # what we keep more lies at the cut,
    assert (theirs & (rows == high)).any(-1)[extra.any(-1)].all()  # and what it ties with is kept by both
    assert extra.any()  # rows with ties are among these
    assert ((rows <= high) & (rows >= low))[(ours != theirs) & ~certain].all()


def in_peer(warper: Callable[..., torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
    return alive(warper(None, rows))


SIZES = pytest.mark.parametrize("size", COUNTS)


# Those that transformers has


@SIZES
@pytest.mark.parametrize("k", [1, 2, 5, 40, 97, 1000])
def test_top_k_is_that_of_transformers(size: int, k: int) -> None:
    rows = rows_of(size)
    assert torch.equal(filtered(f"top_k={k}", rows), in_peer(TopKLogitsWarper(k), rows))


@SIZES
@pytest.mark.parametrize("temperature", [0.01, 0.7, 1.0, 1.3, 5.0])
def test_temperature_is_that_of_transformers(size: int, temperature: float) -> None:
    rows = rows_of(size)
    assert torch.equal(applied(f"temperature={temperature}", rows), TemperatureLogitsWarper(temperature)(None, rows))


def thresholds() -> list[tuple[str, Callable[..., torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]]:
    """Return stages that keep ln p ≥ a limit: their text, transformers' own, and the limit (B, 1) of rows."""
    cases: list[tuple[str, Callable[..., torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]] = []
    for p in (1e-6, 0.05, 0.3, 0.9, 1.0):
        limit = functools.partial(lambda rows, p: best(log_probabilities(rows)) + math.log(p), p=p)
        cases.append((f"min_p={p}", MinPLogitsWarper(p), limit))
    for epsilon in (1e-6, 3e-4, 0.02, 0.3, 0.999):
        limit = functools.partial(lambda rows, e: torch.full((len(rows), 1), math.log(e)).double(), e=epsilon)
        cases.append((f"epsilon={epsilon}", EpsilonLogitsWarper(epsilon), limit))
        limit = functools.partial(lambda rows, e: (0.5 * math.log(e) - entropy(rows)).clamp(max=math.log(e)), e=epsilon)
        cases.append((f"eta={epsilon}", EtaLogitsWarper(epsilon), limit))
    return cases


@SIZES
@pytest.mark.parametrize(("text", "peer", "limit"), thresholds(), ids=[case[0] for case in thresholds()])
def test_min_p_epsilon_and_eta_are_those_of_transformers(size, text, peer, limit) -> None:
    rows = rows_of(size)
    ours, theirs = filtered(text, rows), in_peer(peer, rows)
    scores, limits = log_probabilities(rows), limit(rows)
    assert_cut_at(limits, ours, scores, rows == best(rows))
    # we keep every token that ties with the best, and so do they; at the limit itself either may round
    differs = ours != theirs
    assert ((scores - limits).abs()[differs] < NEAR).all()
    assert differs.any(-1).sum() <= len(rows) // 1000


@SIZES
@pytest.mark.parametrize("p", [1e-4, 0.05, 0.5, 0.9, 0.99, 0.9999])
def test_top_p_is_that_of_transformers_with_ties(size: int, p: float) -> None:
    rows = rows_of(size)
    ours, theirs = filtered(f"top_p={p}", rows), in_peer(TopPLogitsWarper(p), rows)
    weights = log_probabilities(rows).exp()
    assert_limits(ours, rows, [cut_after(rows, weights, p + off) for off in (-1e-9, 1e-9)])
    highest, lowest = (cut_after(rows, weights, p + off) for off in (-MASS, MASS))
    assert_ties_kept_too(ours, theirs, rows, highest, lowest)


@SIZES
@pytest.mark.parametrize("p", [0.01, 0.2, 0.5, 0.9, 0.95, 0.999])
def test_typical_is_that_of_transformers(size: int, p: float) -> None:
    rows = rows_of(size)
    ours, theirs = filtered(f"typical={p}", rows), in_peer(TypicalLogitsWarper(p), rows)
    scores = -(log_probabilities(rows) + entropy(rows)).abs()
    weights = log_probabilities(rows).exp()
    highest, lowest = (cut_after(scores, weights, p + off) for off in (-MASS, MASS))
    for kept in (ours, theirs):
        assert kept[scores > highest + NEAR].all()
        assert not kept[scores < lowest - NEAR].any()
    differs = ours != theirs
    assert ((scores <= highest + NEAR) & (scores >= lowest - NEAR))[differs].all()
    assert differs.any(-1).sum() <= len(rows) // 100


@SIZES
@pytest.mark.parametrize("h", [0.05, 0.4, 0.7, 0.99, 1.0])
def test_top_h_is_that_of_transformers_with_ties(size: int, h: float) -> None:
    rows = rows_of(size)
    ours, theirs = filtered(f"top_h={h}", rows), in_peer(TopHLogitsWarper(h), rows) & alive(rows)
    head = rows.topk(min(100, size)).values
    logs = log_probabilities(head)
    terms = -(logs.exp() * logs).nan_to_num(0.0)
    sums = terms.cumsum(-1)

    def limit(off: float) -> torch.Tensor:
        kept = (sums <= h * sums[:, -1:] + off).sum(-1, keepdim=True).clamp(min=1)
        return head.gather(-1, kept.minimum(alive(head).sum(-1, keepdim=True)) - 1)

    assert torch.equal(ours, rows >= limit(0.0))
    # their entropy is of normalised logits in float32, which at 60 are wrong by so much; at h = 1 it decides alone
    assert_ties_kept_too(ours, theirs, rows, limit(-4e-6), limit(4e-6), 0.8 if h < 1.0 else 0.2)


# Those that it lacks, by their formulas, a row at a time in float64


def by_row(size: int, parameters: list[float]) -> list[tuple[float, torch.Tensor]]:
    """Return each parameter with its share of the rows."""
    return [(value, rows_of(size)[place :: len(parameters)]) for place, value in enumerate(parameters)]


def assert_cuts(text: str, rows: torch.Tensor, limit: Callable[[np.ndarray], float], of_p: bool) -> int:
    """A filter keeps z, or p, from a limit on, and the best; return in how many rows rounding may decide."""
    doubtful = 0
    for row, kept in zip(rows.double().numpy(), filtered(text, rows).numpy(), strict=True):
        probabilities = softmax(row)
        with np.errstate(divide="ignore"):
            scores, cut = (np.log(probabilities), math.log(limit(probabilities))) if of_p else (row, limit(row))
        doubt = (np.abs(scores - cut) < NEAR) & (row < row.max())
        doubtful += bool(doubt.any())
        assert ((kept == ((scores >= cut) | (row == row.max()))) | doubt).all()
    return doubtful


def softmax(row: np.ndarray) -> np.ndarray:
    weights = np.exp(row - row.max())
    return weights / weights.sum()


@SIZES
def test_top_a_keeps_what_reaches_a_share_of_the_best_ones_square(size: int) -> None:
    for a, rows in by_row(size, [1e-4, 0.04, 0.2, 0.7, 1.0]):
        assert assert_cuts(f"top_a={a}", rows, lambda p, a=a: a * max(p) ** 2, of_p=True) < len(rows) / 100


@SIZES
def test_p_less_keeps_what_is_as_likely_as_two_equal_draws(size: int) -> None:
    assert assert_cuts("p_less", rows_of(size), lambda p: sum(x * x for x in p if x), of_p=True) < COUNTS[size] / 100


@SIZES
def test_top_n_sigma_keeps_what_lies_within_standard_deviations_of_the_best(size: int) -> None:
    def limit(row: np.ndarray, n: float) -> float:
        finite = [z for z in row if z > -math.inf]
        mean = math.fsum(finite) / len(finite)
        return max(finite) - n * math.sqrt(math.fsum((z - mean) ** 2 for z in finite) / len(finite))

    for n, rows in by_row(size, [0.01, 0.5, 1.0, 2.3, 5.0]):
        assert assert_cuts(f"top_n_sigma={n}", rows, functools.partial(limit, n=n), of_p=False) < len(rows) / 100


@SIZES
def test_tail_free_cuts_where_the_sorted_probabilities_become_straight(size: int) -> None:
    def last_kept(row: np.ndarray, z: float) -> float:
        ordered = sorted((logit for logit in row if logit > -math.inf), reverse=True)
        if len(ordered) < 3:
            return ordered[-1]
        p = softmax(np.array(ordered)).tolist()
        steps = [p[i] - p[i + 1] for i in range(len(p) - 1)]
        bends = [abs(steps[i] - steps[i + 1]) for i in range(len(steps) - 1)]
        total, passed, last = math.fsum(bends), 0.0, 0
        for place in range(1, len(p) - 1):
            passed += bends[place - 1]
            if passed > z * total:
                break
            last = place
        return ordered[last]

    for z, rows in by_row(size, [0.0, 0.3, 0.8, 0.95, 0.999]):
        kept = filtered(f"tfs={z}", rows).numpy()
        for row, ours in zip(rows.numpy(), kept, strict=True):
            limits = {last_kept(row.astype(float), z + off) for off in (-1e-9 if z else 0.0, 1e-9)}
            assert any(np.array_equal(ours, row >= limit) for limit in limits)


@SIZES
def test_xtc_removes_the_choices_but_the_least(size: int) -> None:
    doubtful = 0
    for threshold, rows in by_row(size, [0.0, 0.003, 0.05, 0.1, 0.3, 0.49]):
        kept = filtered(f"xtc={threshold}:probability=0.5", rows, uniform=0.49).numpy()
        for row, ours in zip(rows.numpy(), kept, strict=True):
            p = softmax(row.astype(float)).tolist()
            choices = [token for token in range(size) if row[token] > -math.inf and p[token] >= threshold]
            least = min((row[token] for token in choices), default=math.inf)
            if any(x and threshold and abs(math.log(x / threshold)) < NEAR for x in p):
                doubtful += 1
                continue
            gone = {token for token in choices if row[token] > least}
            assert set(np.flatnonzero(ours)) == set(np.flatnonzero(row > -math.inf)) - gone
        assert filtered(f"xtc={threshold}:probability=0.5", rows, uniform=0.5).equal(alive(rows))
    assert doubtful < COUNTS[size] / 100


@SIZES
def test_quadratic_bends_the_logits(size: int) -> None:
    for place, curve in enumerate([1.0, 1.7, 3.0, 4.3, 10.0]):
        factor = [0.01, 0.3, 2.0][place % 3]
        rows = rows_of(size)[place::5]
        k, s = (3 - curve) / 2, (curve - 1) / 2
        d = (rows - best(rows)).double()
        expected = best(rows).double() - k * factor * d**2 + s * factor * d**3
        expected = expected.masked_fill(~alive(rows), -math.inf)
        torch.testing.assert_close(
            applied(f"quadratic={factor}:curve={curve}", rows).double(), expected, rtol=1e-5, atol=1e-5
        )


@SIZES
@pytest.mark.parametrize("text", ["range=0.5:exponent=0.3", "range=0.5:temperature=0.8:exponent=2", "range=2"])
def test_dynamic_temperature_divides_by_a_temperature_that_follows_the_entropy(size: int, text: str) -> None:
    stage = stage_of(f"dynamic_temperature:{text}")
    low, high = max(0.0, stage.temperature - stage.range), stage.temperature + stage.range
    rows = rows_of(size)
    greedy = 0
    for row, ours in zip(rows.double().numpy(), applied(f"dynamic_temperature:{text}", rows).numpy(), strict=True):
        finite = row[row > -math.inf]
        nats = -sum(x * math.log(x) for x in softmax(finite) if x)
        doubt = min(max(nats / math.log(len(finite)), 0.0), 1.0) if len(finite) > 1 else 0.0
        # an entropy of float32 is wrong by some 1e-7 of 1, and more than that of a small one
        lowest, highest = (
            low + (high - low) * min(max(doubt + off, 0.0), 1.0) ** stage.exponent for off in (-4e-7, 4e-7)
        )
        if highest < 1e-5:
            greedy += 1
            assert np.flatnonzero(ours > -math.inf).tolist() == [row.argmax()]
        elif lowest >= 1e-5:
            largest = np.where(row > -math.inf, np.abs(row), -1.0).argmax()
            temperature = row[largest] / ours[largest] if row[largest] else lowest
            assert lowest * (1 - 1e-6) <= temperature <= highest * (1 + 1e-6)
            np.testing.assert_allclose(ours, row / temperature, rtol=1e-6)
    assert greedy if low == 0.0 else not greedy
