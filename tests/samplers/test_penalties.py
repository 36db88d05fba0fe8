"""Penalties, bans and biases: against transformers where it has them, else against plain Python."""

import math
import random

import pytest
import torch
from torch import Tensor
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

import samplers
from gpt_model.tokenizer import Tokenizer, build_tokenizer
from samplers import Chain, ChainError, ChainRun

COUNT = 2_000
VOCAB = 12
GENERATOR = torch.Generator().manual_seed(4)
ROWS = torch.randn(COUNT, VOCAB, generator=GENERATOR) * 3
ROWS[::7, 3] = 0.0
ROWS[1::7, 5] = -math.inf
ROWS[2::7] = ROWS[2::7].round()
TOKENS = torch.randint(VOCAB, (COUNT, 17), generator=GENERATOR)
PROMPT = 5


def applied(text: str, rows: Tensor = ROWS, tokens: Tensor = TOKENS, prompt: int = PROMPT) -> Tensor:
    processed = ChainRun(Chain.parse(text), range(len(rows))).process(rows, tokens, prompt)
    assert not processed.faults
    return processed.logits


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.1, 2.0, 10.0])
@pytest.mark.parametrize("scope", ["all", "output"])
@pytest.mark.parametrize("window", [0, 1, 9, 50])
def test_the_repetition_penalty_agrees_with_transformers(penalty: float, scope: str, window: int) -> None:
    looked_at = (TOKENS if scope == "all" else TOKENS[:, PROMPT:])[:, -window:]
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(looked_at, ROWS)
    assert torch.equal(applied(f"repetition_penalty={penalty}:scope={scope}:window={window}"), theirs)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 18])
def test_no_repeat_ngram_agrees_with_transformers(n: int) -> None:
    theirs = NoRepeatNGramLogitsProcessor(n)(TOKENS, ROWS)
    emptied = (theirs == -math.inf).all(-1)
    assert torch.equal(applied(f"no_repeat_ngram={n}"), theirs.where(~emptied[:, None], ROWS))
    few = torch.randint(3, (COUNT, 17), generator=GENERATOR)
    theirs = NoRepeatNGramLogitsProcessor(n)(few, ROWS)
    assert torch.equal(applied(f"no_repeat_ngram={n}", tokens=few), theirs)


@pytest.mark.parametrize("frequency", [-2.0, 0.3])
@pytest.mark.parametrize("presence", [-0.5, 1.1])
@pytest.mark.parametrize(("scope", "window"), [("all", 0), ("output", 0), ("output", 4)])
def test_frequency_and_presence_follow_their_formula(
    frequency: float, presence: float, scope: str, window: int
) -> None:
    spec = f":scope={scope}:window={window}"
    ours = applied(f"frequency_penalty={frequency}{spec},presence_penalty={presence}{spec}")
    expected = ROWS.double().clone()
    for row, tokens in enumerate(TOKENS.tolist()):
        counted = (tokens if scope == "all" else tokens[PROMPT:])[-window:]
        for token in set(counted):
            expected[row, token] -= frequency * counted.count(token) + presence
    torch.testing.assert_close(ours.double(), expected, rtol=1e-6, atol=1e-5)


def test_a_scope_that_there_is_not_is_refused() -> None:
    for name in ("repetition_penalty", "frequency_penalty", "presence_penalty", "no_repeat_ngram", "dry"):
        with pytest.raises(ChainError, match="must be output"):
            Chain.parse(f"{name}:scope=everything")


def brute_force_dry(tokens: list[int], allowed: int, breakers: set[int]) -> dict[int, int]:
    """Return the longest repeated run before each token, by trying every place and every length."""
    found: dict[int, int] = {}
    for place in range(1, len(tokens)):
        for length in range(1, place + 1):
            run = tokens[len(tokens) - length :]
            if set(run) & breakers or tokens[place - length : place] != run:
                break
            if length >= allowed and tokens[place] not in breakers:
                found[tokens[place]] = max(found.get(tokens[place], 0), length)
    return found


class Letters:
    """A vocabulary in which token i is the i-th letter, and 3 a newline."""

    vocab_size = VOCAB
    end_of_text = 11

    def encode(self, text: str) -> list[int]:
        return ["abc\nefghijkl".index(letter) for letter in text]

    def token_bytes(self, token: int) -> bytes:
        return b"abc\nefghijkl"[token : token + 1]


@pytest.mark.parametrize("allowed", [1, 2, 4])
@pytest.mark.parametrize("breakers", [False, True])
def test_dry_finds_the_longest_repeated_run(allowed: int, breakers: bool) -> None:
    chance = random.Random(allowed)
    vocabulary = Letters() if breakers else None
    chain = Chain.parse(f"dry=0.7:base=1.5:allowed_length={allowed}")
    for _ in range(1500):
        tokens = [chance.choice([0, 0, 1, 2, 3][: chance.choice([2, 3, 5])]) for _ in range(chance.randrange(1, 30))]
        ours = ChainRun(chain, [1], vocabulary).process(torch.zeros(1, VOCAB), torch.tensor([tokens]), 0).logits[0]
        expected = torch.zeros(VOCAB, dtype=torch.float64)
        for token, length in brute_force_dry(tokens, allowed, {3} if breakers else set()).items():
            expected[token] -= 0.7 * 1.5 ** (length - allowed)
        torch.testing.assert_close(ours.double(), expected, rtol=1e-6, atol=0.0)


def test_dry_on_one_token_again_and_again_stays_a_number() -> None:
    tokens = torch.zeros(1, 3000, dtype=torch.long)
    penalised = applied("dry=5:base=10", torch.zeros(1, VOCAB), tokens, 0)
    assert penalised[0, 0] <= -1e29
    assert penalised.isfinite().all()


@pytest.fixture(scope="module")
def gpt2() -> Tokenizer:
    return build_tokenizer("gpt2", [])


def test_banned_words_agree_with_transformers(gpt2: Tokenizer) -> None:
    words = ["hello", "antidisestablishment", "the king"]
    ids = [gpt2.encode(text) for word in words for text in (word, f" {word}")]
    theirs = NoBadWordsLogitsProcessor(bad_words_ids=ids)
    chain = Chain.parse(f"banned_words={'|'.join(words)}")
    for text in ("", "Say", "He said hello to the", " antidisestablish", "antidis", "the"):
        tokens = torch.tensor([gpt2.encode(f"x{text}")])
        rows = torch.randn(1, gpt2.vocab_size, generator=GENERATOR)
        processed = ChainRun(chain, [1], gpt2).process(rows, tokens, 1)
        assert not processed.faults
        assert torch.equal(processed.logits, theirs(tokens, rows))


def test_a_text_does_not_end_before_its_time() -> None:
    for prompt in (1, 10, 17):
        theirs = MinNewTokensLengthLogitsProcessor(prompt, 8, eos_token_id=11, device="cpu")(TOKENS, ROWS)
        ours = ChainRun(Chain.parse("min_new_tokens=8"), range(COUNT), Letters()).process(ROWS, TOKENS, prompt)
        assert torch.equal(ours.logits, theirs)


def test_biases_are_added_and_tokens_named_by_id_or_text() -> None:
    chain = Chain.parse("""logit_bias="2=-5 'a'=1.5 7=-inf 2=1" """)
    assert Chain.parse(str(chain)) == chain
    ours = ChainRun(chain, [1], Letters()).process(torch.zeros(1, VOCAB), TOKENS[:1], 0).logits[0]
    assert ours.tolist() == [1.5, 0, -4, 0, 0, 0, 0, -math.inf, 0, 0, 0, 0]


@pytest.mark.parametrize("text", ["x=3", "3", "3=", "3=inf", "'a=2", "3=1,4=2"])
def test_a_bias_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ChainError, match="logit_bias"):
        Chain.parse(f'logit_bias="{text}"')


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [("logit_bias='ab'=1", "2 tokens, not one"), ("logit_bias=99=1", "no token 99"), ("banned_words=a", "tokenizer")],
)
def test_what_shows_only_at_work_is_a_sentence_too(spec: str, sentence: str) -> None:
    vocabulary = None if spec.startswith("banned") else Letters()
    processed = ChainRun(Chain.parse(spec), [1], vocabulary).process(ROWS[:1], TOKENS[:1], 0)
    assert sentence in processed.faults[0]


def test_nothing_empties_a_row() -> None:
    row = torch.full((1, VOCAB), -math.inf)
    row[0, 4] = 1.0
    tokens = torch.full((1, 6), 4)
    for spec in ("no_repeat_ngram=1", "logit_bias=4=-inf"):
        assert torch.equal(applied(spec, row, tokens, 0), row)
    run = ChainRun(Chain.parse("banned_words=e"), [1], Letters())
    assert torch.equal(run.process(row, tokens, 0).logits, row)


def test_apply_counts_the_prompt_only_with_scope_all() -> None:
    rows = torch.ones(1, VOCAB)
    assert samplers.apply("repetition_penalty=2", rows, [[1, 2, 3]], prompt_length=2)[0, :4].tolist() == [1, 1, 1, 0.5]
    assert samplers.apply("repetition_penalty=2:scope=all", rows, [[1, 2]], 2)[0, :4].tolist() == [1, 0.5, 0.5, 1]
