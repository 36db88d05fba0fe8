"""The compiled draw against torch's: the same token, and the same words about it, whatever the row looks like."""

import pytest
import torch

from gpt_model.compiled.drawer import Drawer
from gpt_model.drawing import draw
from samplers import Chain, ChainRun, Plan, Rows, keyed_uniform


@pytest.mark.parametrize("size", [1, 2, 5, 16, 17, 100, 1024, 50_257])
@pytest.mark.parametrize("spread", [0.01, 0.6, 3.0, 10.0])
@pytest.mark.parametrize("cut", [None, 0.0, -2.0])
def test_it_draws_what_torch_draws(size: int, spread: float, cut: float | None) -> None:
    generator = torch.Generator().manual_seed(size)
    raw = torch.randn(3, size, generator=generator) * spread - 80
    processed = raw / 0.8
    if cut is not None:
        processed = torch.where(processed < processed.amax(-1, keepdim=True) + cut, -torch.inf, processed)
    drawer = Drawer(size)
    for turn in range(10):
        uniforms = [keyed_uniform(row, turn) for row in range(3)]
        chosen = Rows(processed)
        for ours, theirs in zip(
            drawer(Rows(raw), chosen, uniforms, 10), draw(Rows(raw), chosen, uniforms, 10), strict=True
        ):
            assert ours.id == theirs.id
            assert ours.rank == theirs.rank
            assert ours.entropy == pytest.approx(theirs.entropy, rel=1e-4, abs=1e-4)
            assert ours.p_model == pytest.approx(theirs.p_model, rel=1e-4)
            assert ours.p_chain == pytest.approx(theirs.p_chain, rel=1e-4)
            assert [one[0] for one in ours.candidates] == [one[0] for one in theirs.candidates]
            for one, other in zip(ours.candidates, theirs.candidates, strict=True):
                assert one[1:] == pytest.approx(other[1:], rel=1e-4, abs=1e-30)


def test_what_was_cut_is_never_drawn_not_even_by_the_last_number() -> None:
    logits = torch.tensor([[3.0, -torch.inf, 2.0, -torch.inf]])
    for uniform, token in ((0.0, 0), (0.73, 0), (0.74, 2), (1 - 2**-53, 2)):
        assert Drawer(4)(Rows(logits), Rows(logits), [uniform], 1)[0].id == token


def test_equals_are_drawn_in_the_order_of_their_ids() -> None:
    level = torch.zeros(1, 5000)
    drawer = Drawer(5000)
    drawn = [drawer(Rows(level), Rows(level), [(token + 0.5) / 5000], 1)[0].id for token in (0, 63, 64, 2500, 4999)]
    assert drawn == [0, 63, 64, 2500, 4999]


def test_draws_follow_the_distribution() -> None:
    logits = torch.randn(1, 300, generator=torch.Generator().manual_seed(5))
    expected = logits[0].double().softmax(-1) * 20_000
    counts, drawer = torch.zeros(300, dtype=torch.float64), Drawer(300)
    for position in range(20_000):
        counts[drawer(Rows(logits), Rows(logits), [keyed_uniform(11, position)], 0)[0].id] += 1
    assert float(((counts - expected) ** 2 / expected).sum()) < 430  # χ² with 299 degrees of freedom: below 1e-6


STEPS = [
    "top_k=1", "top_k=5", "top_k=64", "top_k=70", "top_p=0.5", "top_p=0.95", "min_p=0.2", "min_p=0.0001",
    "temperature=0.5,min_p=0.1,top_k=7", "temperature=1.9,top_k=20,top_p=0.5", "top_k=40,temperature=0.7,min_p=0.2",
    "repetition_penalty=1.5,top_k=9", "repetition_penalty=1.5,top_p=0.5", "repetition_penalty=4,min_p=0.3",
    "repetition_penalty=1.1,top_k=40,top_p=0.95,min_p=0.05,temperature=0.8", "top_p=0.9,top_p=0.5,temperature=0.6",
    "min_p=0.1,temperature=0.6,temperature=0.8", "temperature=0.7", "repetition_penalty=1.3,temperature=0.9",
    "top_k=9,repetition_penalty=1.3", "min_p=0.05,top_k=5,top_p=0.7",
]  # fmt: skip


@pytest.mark.parametrize("spec", STEPS)
@pytest.mark.parametrize("size", [1, 3, 70, 1024, 50_257])
def test_steps_carried_out_by_the_draw_are_what_the_stages_decide(spec: str, size: int) -> None:
    generator, drawer = torch.Generator().manual_seed(size), Drawer(size)
    tokens = torch.randint(size, (3, 30), generator=generator)
    for turn, spread in enumerate((0.02, 1.0, 2.0, 3.0, 5.0, 12.0)):
        logits = torch.randn(3, size, generator=generator) * spread + 3 * turn - 9
        logits[1] = logits[1].round()  # many equals
        tokens[2, :10] = logits[2].topk(min(10, size)).indices[:1]  # the best was there, several times
        before = drawer.finite(logits)
        chosen = ChainRun(Chain.parse(spec), range(3)).process(before, tokens, 9).chosen
        assert isinstance(chosen, Plan)
        uniforms = [keyed_uniform(row, turn) for row in range(3)]
        at_once = drawer(before, chosen, uniforms, 5)
        later = drawer(before, Rows(chosen.decided.dense), uniforms, 5)
        for ours, theirs in zip(at_once, later, strict=True):
            assert (ours.id, ours.rank, ours.entropy, ours.p_model) == (
                theirs.id, theirs.rank, theirs.entropy, theirs.p_model,
            )  # fmt: skip
            assert ours.p_chain == pytest.approx(theirs.p_chain, rel=1e-5)
            kept, there = ([one[2] > 0 for one in each.candidates] for each in (ours, theirs))
            assert kept == there
