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
    SequenceBiasLogitsProcessor,
)

import samplers
from gpt_model.tokenizer import Tokenizer, build_tokenizer
from samplers import Chain, ChainError, ChainRun

COUNT = 10_000
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
    best = ROWS.where(ROWS.amax(-1, keepdim=True) == ROWS, -math.inf)
    assert torch.equal(applied(f"no_repeat_ngram={n}"), theirs.where(~emptied[:, None], best))
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
    """A vocabulary in which token i is the i-th letter, and 3 a newline; other characters have no token."""

    vocab_size = VOCAB
    end_of_text = 11

    def encode(self, text: str) -> list[int]:
        return ["abc\nefghijkl".index(letter) for letter in text if letter in "abc\nefghijkl"]

    def token_bytes(self, token: int) -> bytes:
        return b"abc\nefghijkl"[token : token + 1]


@pytest.mark.parametrize("allowed", [1, 2, 4])
@pytest.mark.parametrize("breakers", [False, True])
def test_dry_finds_the_longest_repeated_run(allowed: int, breakers: bool) -> None:
    chance = random.Random(allowed)
    vocabulary = Letters() if breakers else None
    chain = Chain.parse(f"dry=0.7:base=1.5:allowed_length={allowed}")
    for _ in range(1_700):
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


@pytest.mark.parametrize("words", ["a", "ab", "a|ba", "abc|cc|f", "aaa|ab|cab|g"])
def test_banned_letters_agree_with_transformers_on_random_rows(words: str) -> None:
    few = torch.randint(3, (COUNT, 9), generator=GENERATOR)
    theirs = NoBadWordsLogitsProcessor([Letters().encode(word) for word in words.split("|")])(few, ROWS)
    ours = ChainRun(Chain.parse(f"banned_words={words}"), range(COUNT), Letters()).process(ROWS, few, PROMPT)
    assert not ours.faults
    assert torch.equal(ours.logits, theirs)


@pytest.mark.parametrize("biases", [{0: -5.0}, {3: 1.5, 4: -0.25, 5: 100.0}, {1: -100.0, 11: -math.inf}])
def test_biases_agree_with_transformers_on_random_rows(biases: dict[int, float]) -> None:
    theirs = SequenceBiasLogitsProcessor({(token,): bias for token, bias in biases.items()})(TOKENS, ROWS)
    assert torch.equal(applied(f"logit_bias={' '.join(f'{token}={bias}' for token, bias in biases.items())}"), theirs)


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


@pytest.mark.parametrize("text", ["x=3", "3", "3=", "3=inf", "3=1e39", "3=-20000", "3=nan", "'a=2", "3=1,4=2"])
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


EVERYTHING = "\\n|" + "|".join("abcefghijkl")


@pytest.mark.parametrize(
    "spec",
    ["no_repeat_ngram=1", f"logit_bias={' '.join(f'{i}=-inf' for i in range(VOCAB))}", f"banned_words={EVERYTHING}"],
)
def test_where_all_is_banned_the_best_token_stays_and_what_ties_with_it(spec: str) -> None:
    tokens = torch.arange(VOCAB).expand(COUNT, -1)
    left = ChainRun(Chain.parse(spec), range(COUNT), Letters()).process(ROWS, tokens, 0)
    assert not left.faults
    assert torch.equal(left.logits, ROWS.where(ROWS.amax(-1, keepdim=True) == ROWS, -math.inf))
    alone = torch.full((1, VOCAB), -math.inf)
    alone[0, 11] = 1.0  # the end of text, which no text may have before its time
    run = ChainRun(Chain.parse(f"{spec},min_new_tokens=99"), [1], Letters())
    assert torch.equal(run.process(alone, tokens[:1], 0).logits, alone)


EVERY = [
    "repetition_penalty=0.1", "repetition_penalty=10", "frequency_penalty=2", "presence_penalty=-2",
    "no_repeat_ngram=2", "dry=10:base=10:allowed_length=1", "logit_bias=3=10000 4=-inf", "banned_words=a|bc",
    "min_new_tokens=50", "mirostat_v1", "mirostat_v2", "adaptive_p",
]  # fmt: skip


@pytest.mark.parametrize("spec", EVERY)
@pytest.mark.parametrize("scale", [0.0, 1e-38, 1.0, 3.4e38])
def test_extremes_stay_numbers_and_what_is_out_stays_out(spec: str, scale: float) -> None:
    rows = torch.stack(
        [torch.full((VOCAB,), scale), torch.full((VOCAB,), -scale), torch.linspace(-1, 1, VOCAB) * scale]
    )
    rows[2, ::3] = -math.inf
    tokens = torch.tensor([[*range(VOCAB), 0, 0, 1, 2, 0]]).expand(3, -1)
    before, run = rows.clone(), ChainRun(Chain.parse(spec), range(3), Letters())
    processed = run.process(rows, tokens, 0)
    assert not processed.faults
    assert torch.equal(rows, before)
    assert not processed.logits.isnan().any()
    assert (processed.logits < math.inf).all()
    assert (processed.logits > -math.inf).any(-1).all()
    assert (processed.logits[rows == -math.inf] == -math.inf).all()
    for row in range(3):
        alone = ChainRun(Chain.parse(spec), [row], Letters()).process(rows[row : row + 1], tokens[:1], 0).logits
        assert torch.equal(alone[0], processed.logits[row])


@pytest.mark.parametrize("spec", EVERY[:9])
def test_the_first_token_has_no_past(spec: str) -> None:
    run = ChainRun(Chain.parse(spec), range(COUNT), Letters())
    processed = run.process(ROWS, TOKENS[:, :0], 0)
    assert not processed.faults
    if "penalty" in spec or "ngram" in spec or "dry" in spec:
        assert torch.equal(processed.logits, ROWS)


class Unhashable(Letters):
    """A vocabulary that says when it is another's equal, and so cannot be hashed."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unhashable)


def test_any_vocabulary_will_do_and_two_are_told_apart() -> None:
    class Shifted(Unhashable):
        def encode(self, text: str) -> list[int]:
            return [token + 1 for token in super().encode(text)]

        def token_bytes(self, token: int) -> bytes:
            return super().token_bytes(token - 1)

    tokens = torch.tensor([[0, 1, 3, 0, 1]])
    chain, rows = Chain.parse("dry=1,banned_words=e|ZZ"), torch.zeros(1, VOCAB)
    first, second = (ChainRun(chain, [1], each).process(rows, tokens, 0) for each in (Unhashable(), Shifted()))
    assert not first.faults + second.faults
    assert first.logits[0].tolist() == [0, 0, 0, 0, -math.inf, *[0] * 7]  # 3 is a newline, and not penalised
    assert second.logits[0].tolist() == [0, 0, 0, -1, 0, -math.inf, *[0] * 6]


def test_dry_breaks_at_the_characters_it_is_told_and_looks_only_into_its_window() -> None:
    tokens = torch.tensor([[0, 1, 2, 5, 0, 1]])
    for spec, token, penalty in [
        ("dry", 2, -0.8),
        ("dry:breakers=", 2, -0.8),
        ("dry:breakers=cx", 2, 0.0),  # what comes next is a breaker
        ("dry:breakers=a", 2, 0.0),  # the run reaches back to one
        ("dry:breakers=b", 2, 0.0),
        ("dry:window=5", 2, 0.0),
        ("dry:window=5:allowed_length=1", 2, -0.8),
        ("dry:scope=output", 2, 0.0),
    ]:
        prompt = 1 if "output" in spec else 0
        run = ChainRun(Chain.parse(spec), [1], Letters())
        expected = torch.zeros(VOCAB).index_fill(0, torch.tensor(token), penalty)
        assert torch.equal(run.process(torch.zeros(1, VOCAB), tokens, prompt).logits[0], expected), spec


@pytest.mark.parametrize(
    "spec", ['dry:breakers="\\n:"",*"', "logit_bias=\"2=-5 'a,\"\"'''=1\"", 'banned_words="a, b|c:"""']
)
def test_texts_with_any_character_come_back_from_the_chains_text(spec: str) -> None:
    chain = Chain.parse(spec)
    assert Chain.parse(str(chain)) == chain
    assert Chain.from_toml(chain.to_toml()) == chain


def test_escapes_reach_the_tokenizer_as_what_they_stand_for() -> None:
    for spec in (r"logit_bias='\n'=-inf", r"banned_words=\n|\n"):
        run = ChainRun(Chain.parse(spec), [1], Letters())
        assert (run.process(torch.zeros(1, VOCAB), TOKENS[:1], 0).logits[0] == -math.inf).nonzero().tolist() == [[3]]


def test_a_word_of_several_tokens_is_found_at_the_texts_end_alone() -> None:
    class Spaced(Letters):
        def encode(self, text: str) -> list[int]:
            return super().encode(text.strip() if text[0] != " " else f"l{text.strip()}")

    run = ChainRun(Chain.parse("banned_words=abc"), [1, 2, 3, 4], Spaced())
    tokens = torch.tensor([[2, 0, 1], [0, 1, 4], [11, 0, 1], [1, 0, 0]])
    out = (run.process(torch.zeros(4, VOCAB), tokens, 1).logits == -math.inf).nonzero().tolist()
    assert out == [[0, 2], [2, 2]]
    # two of its three tokens are all the text there is: transformers waits for one more
    assert run.process(torch.zeros(4, VOCAB), tokens[:, 1:], 1).logits[0, 2] == -math.inf


def test_apply_counts_the_prompt_only_with_scope_all() -> None:
    rows = torch.ones(1, VOCAB)
    assert samplers.apply("repetition_penalty=2", rows, [[1, 2, 3]], prompt_length=2)[0, :4].tolist() == [1, 1, 1, 0.5]
    assert samplers.apply("repetition_penalty=2:scope=all", rows, [[1, 2]], 2)[0, :4].tolist() == [1, 0.5, 0.5, 1]
