"""Stages that remember: their recurrences, and that what they remember is a value by position."""

import math

import pytest
import torch
from torch import Tensor

from samplers import Chain, ChainRun, Context, keyed_uniform

VOCAB = 200
MODEL = torch.randn(400, VOCAB, generator=torch.Generator().manual_seed(6)) * 2.5
SEEDS = range(50)
"""Runs of 200 tokens: 10,000 rows a stage."""


def draw(logits: Tensor, uniform: float) -> int:
    """Return the token of a row (V,) at which the mass, best first, passes the uniform number."""
    order = logits.argsort(descending=True, stable=True)
    mass = logits[order].double().softmax(-1).cumsum(0)
    return int(order[int((mass <= uniform).sum().clamp(max=VOCAB - 1))])


def written(run: ChainRun, tokens: list[int], count: int, memories: list[object], seed: int = 3) -> list[int]:
    """Go on with a text; `memories` gets what is remembered before each token."""
    tokens = list(tokens)
    for _ in range(count):
        memories.append(run.memories)
        logits = run.process(MODEL[len(tokens)][None], torch.tensor([tokens]), 1).logits[0]
        token = draw(logits, keyed_uniform(seed, len(tokens)))
        run.after(0, token)
        tokens.append(token)
    return tokens


MEMORY_CHAINS = [
    "mirostat_v2=3",
    "mirostat_v1=3:eta=0.3",
    "adaptive_p=0.3",
    "adaptive_p=0.2,mirostat_v2=2,temperature=0.9",
]


@pytest.mark.parametrize("text", MEMORY_CHAINS)
@pytest.mark.parametrize("undone", [1, 7, 59])
def test_undone_tokens_come_again(text: str, undone: int) -> None:
    memories: list[object] = []
    run = ChainRun(Chain.parse(text), [3])
    whole = written(run, [0], 60, memories)
    run.restore(memories[60 - undone])  # type: ignore[arg-type]
    assert written(run, whole[:-undone], undone, []) == whole


@pytest.mark.parametrize("text", MEMORY_CHAINS)
def test_another_stage_switched_on_leaves_the_memory(text: str) -> None:
    run, other = ChainRun(Chain.parse(text), [3]), ChainRun(Chain.parse(text), [3])
    begun = written(run, [0], 20, [])
    assert written(other, [0], 20, []) == begun
    other.switch(Chain.parse(f"top_k=0,{text}"))
    assert written(run, begun, 20, []) == written(other, begun, 20, [])


def test_rows_remember_apart() -> None:
    chain = Chain.parse("mirostat_v2=2")
    both, alone = ChainRun(chain, [1, 2]), [ChainRun(chain, [1]), ChainRun(chain, [2])]
    for step in range(30):
        rows = MODEL[[step, step + 100]]
        tokens = torch.zeros(2, step + 1, dtype=torch.long)
        together = both.process(rows, tokens, 1).logits
        for row, run in enumerate(alone):
            assert torch.equal(run.process(rows[row : row + 1], tokens[:1], 1).logits[0], together[row])
            token = draw(together[row], keyed_uniform(row, step))
            run.after(0, token)
            both.after(row, token)


@pytest.mark.parametrize("seed", SEEDS)
def test_mirostat_v2_follows_its_recurrence(seed: int) -> None:
    run, mu, tokens = ChainRun(Chain.parse("mirostat_v2=3:eta=0.2"), [3]), 6.0, [0]
    rows = MODEL[torch.randperm(len(MODEL), generator=torch.Generator().manual_seed(seed))[:200]]
    for step in range(200):
        row = rows[step].double()
        bits = -row.log_softmax(-1) / math.log(2)
        kept = bits <= mu
        kept[row.argmax()] = True
        ours = run.process(rows[step][None], torch.tensor([tokens]), 1).logits[0]
        assert torch.equal(ours > -math.inf, kept)
        token = draw(ours, keyed_uniform(seed, step))
        run.after(0, token)
        tokens.append(token)
        share = (row[token].exp() / row[kept].exp().sum()).item()
        mu -= 0.2 * (-math.log2(share) - 3.0)
        assert run.memories[0][1][0] == pytest.approx(mu, rel=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_mirostat_v1_keeps_the_k_of_its_formula(seed: int) -> None:
    run, mu, tokens = ChainRun(Chain.parse("mirostat_v1=3:eta=0.2:m=50"), [3]), 6.0, [0]
    rows = MODEL[torch.randperm(len(MODEL), generator=torch.Generator().manual_seed(seed))[:200]]
    for step in range(200):
        row = rows[step].double()
        p = row.softmax(-1).sort(descending=True).values.tolist()
        t = [math.log((i + 2) / (i + 1)) for i in range(49)]
        b = [math.log(p[i] / p[i + 1]) for i in range(49)]
        s = sum(x * y for x, y in zip(t, b, strict=True)) / sum(x * x for x in t)
        k = ((s - 1) * 2**mu / (1 - VOCAB ** -(s - 1))) ** (1 / s)
        ours = run.process(rows[step][None], torch.tensor([tokens]), 1).logits[0]
        assert int((ours > -math.inf).sum()) == min(max(int(k), 1), VOCAB)
        token = draw(ours, keyed_uniform(seed, step))
        run.after(0, token)
        tokens.append(token)
        mu -= 0.2 * (-ours.double().log_softmax(-1)[token].item() / math.log(2) - 3.0)
        assert run.memories[0][1][0] == pytest.approx(mu, rel=1e-9)


def test_mirostat_holds_the_surprise_that_is_asked_for() -> None:
    for name in ("mirostat_v1", "mirostat_v2"):
        run, tokens, bits = ChainRun(Chain.parse(f"{name}=2.5"), [3]), [0], []
        for step in range(350):
            ours = run.process(MODEL[step][None], torch.tensor([tokens]), 1).logits[0]
            token = draw(ours, keyed_uniform(9, step))
            bits.append(-float(ours.double().log_softmax(-1)[token]) / math.log(2))
            run.after(0, token)
            tokens.append(token)
        assert sum(bits[50:]) / 300 == pytest.approx(2.5, abs=0.25)


@pytest.mark.parametrize("seed", SEEDS)
def test_adaptive_p_follows_its_recurrence_and_leaves_out_what_is_out(seed: int) -> None:
    run, average, tokens = ChainRun(Chain.parse("top_k=30,adaptive_p=0.3:decay=0.8"), [3]), 0.3, [0]
    rows = MODEL[torch.randperm(len(MODEL), generator=torch.Generator().manual_seed(seed))[:200]]
    for step in range(200):
        ours = run.process(rows[step][None], torch.tensor([tokens]), 1).logits[0]
        row = rows[step].double()
        row[row < row.sort().values[-30]] = -math.inf
        p = row.softmax(-1)
        target = min(max(0.6 - average, 0.0), 1.0)
        d = (p - target).abs() / 0.3
        expected = (5 - 10 * d * d / (1 + d)).masked_fill(row == -math.inf, -math.inf)
        torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-4)
        token = draw(ours, keyed_uniform(seed, step))
        run.after(0, token)
        tokens.append(token)
        average = 0.8 * average + 0.2 * float(p[token])
        assert run.memories[0][1][0] == pytest.approx(average, rel=1e-5)


@pytest.mark.parametrize("name", ["mirostat_v1", "mirostat_v2", "adaptive_p"])
def test_what_is_remembered_is_a_value_and_telling_it_changes_nothing(name: str) -> None:
    (stage,) = Chain.parse(name)
    begun, rows = stage.start(), MODEL[:1].clone()  # type: ignore[attr-defined]
    context = Context(torch.zeros(1, 1, dtype=torch.long), 1, memory=begun)
    out = stage(rows, context)
    before = out.clone()
    later = [stage.after(begun, 5, rows[0], out[0]) for _ in range(2)]  # type: ignore[attr-defined]
    assert later[0] == later[1]
    assert stage.start() == begun  # type: ignore[attr-defined]
    hash(later[0])
    assert torch.equal(rows, MODEL[:1])
    assert torch.equal(out, before)
    assert torch.equal(stage(rows, context), before)


@pytest.mark.parametrize("name", ["mirostat_v1", "mirostat_v2"])
def test_a_token_that_was_out_and_is_chosen_for_all_that_teaches_mirostat_nothing(name: str) -> None:
    run = ChainRun(Chain.parse(name), [1])
    out = run.process(MODEL[:1], torch.zeros(1, 1, dtype=torch.long), 1).logits[0]
    before = run.memories
    run.after(0, int(out.argmin()))
    assert (out.min() == -math.inf) == (run.memories == before)
    (stage,) = Chain.parse(name)
    row = torch.tensor([1.0, -math.inf])
    assert stage.after(7.0, 1, row, row) == 7.0  # type: ignore[attr-defined]
    assert stage.after(7.0, 0, row, row) == pytest.approx(7.5)  # type: ignore[attr-defined]


@pytest.mark.parametrize("mu", [-1e6, -1.0, 0.0, 1e6, 1e300])
@pytest.mark.parametrize("name", ["mirostat_v1", "mirostat_v2"])
def test_mirostat_stands_whatever_it_has_learnt(name: str, mu: float) -> None:
    (stage,) = Chain.parse(name)
    for row in (MODEL[:1], torch.zeros(1, VOCAB), torch.tensor([[-math.inf, 2.0, 2.0, -math.inf]]), torch.ones(1, 1)):
        kept = stage(row, Context(torch.zeros(1, 1, dtype=torch.long), 1, memory=mu)) > -math.inf
        if mu > 1:
            assert torch.equal(kept, row > -math.inf)
        else:
            assert kept.gather(-1, row.argmax(-1, keepdim=True)).all()
            assert torch.equal(kept, row == row.max())


def test_adaptive_p_switched_off_changes_nothing_and_begins_where_the_text_is() -> None:
    run = ChainRun(Chain.parse("adaptive_p=-1"), [1])
    for step in range(300):
        rows = MODEL[step % 3 : step % 3 + 1]
        assert torch.equal(run.process(rows, torch.zeros(1, step + 1, dtype=torch.long), 1).logits, rows)
        run.after(0, int(rows.argmax()))
    share = float(run.memories[0][1][0])
    assert MODEL[:3].softmax(-1).amax(-1).min() <= share <= MODEL[:3].softmax(-1).amax(-1).max()
