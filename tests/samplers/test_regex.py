"""Regex: the automaton against Python's own matcher, what is refused, and texts that models write under patterns."""

import copy
import pickle
import random
import re

import pytest
import torch

from gpt_model.config import ModelConfig
from gpt_model.generation import Engine, Request
from gpt_model.model import GPT
from gpt_model.token_record import Finished, Token
from gpt_model.tokenizer import Tokenizer, build_tokenizer
from samplers import Chain, ChainError, ChainRun, Context, parse_stage
from samplers.regex import Regex, Written
from samplers.regular.automaton import DEAD, FAR, automaton_of
from samplers.regular.dfa import Dfa
from samplers.regular.token_masks import Spellings, TokenMasks

PATTERNS = [
    "", "a", "a*b", "(a|b)*abb", "a{2,4}", "a{,2}b", "(ab){2}|b{3,}", "a+?b??", "(?:a|ab)(?:c|bcd)?", "(|a)+",
    "(a?)*?b", "(a*)*", "(?P<name>a)b|.", "[^a]+", "[a-c1-3]*", "[^a-c1-3]*", r"\d+\.\d*", r"\w+\s\w*", r"\W*",
    r"[\D]+", r"\S\s?", r"[^\w\s]+", r"[\w.]+", ".", ".+", "(?s).+", r"(?a)\w+", r"(?a:\w)\w*", r"(?i)straße|k+",
    "(?i)[a-c]+k", "(?i)[^k]*", r"(?i:a)b", r"(?ai)k\w*", "(?x) a | b  # a or b", "^ab$", "a$\n", "a$\n?", "(a$\n?)*",
    "^$", r"a\Z", r"\Aa*\n*$", "$^", "(?m)a.b", r"é|[à-ü]+|\u4e2d", r"[\U0001f600-\U0001f64f]+a?", r"\x41[\101-c]",
    "(?:a|b){0}c*",
]  # fmt: skip
LETTERS = "aaabbbccd123 .\n\nABKk\u212aßẞſSéàÉ中٣😀😁-"

MATCHABLE = [
    "[A-Z][a-z]+( [A-Z][a-z]+)*", r"\d{1,3}(\.\d{1,3}){3}", "(yes|no|maybe)", r'\{"name": "[^"\\]{0,9}", "age": \d+\}',
    r"(?s).{3,8}", r"[^\x00-\x7f]{2,5}", r"(?i)the (cat|dog)s? sat\.?", r"^- .*(\n- .*)*$", r"\w{2,6}(, \w{2,6}){0,2}",
    r"[\u4e00-\u9fff]+[。!]",
]  # fmt: skip
REST = ["", ",temperature=1.2", ",top_k=5,temperature=2", ",min_p=0.1", ",greedy"]


def tiny(vocab_size: int, n_embd: int = 16) -> GPT:
    torch.manual_seed(5)
    model = GPT(ModelConfig(n_layer=1, n_head=2, n_embd=n_embd, block_size=32, vocab_size=vocab_size))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.ndim > 1 else 1)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def byte_engine() -> Engine:
    return Engine(tiny(257), build_tokenizer("bytes"))


@pytest.fixture(scope="module")
def gpt2_engine() -> Engine:
    return Engine(tiny(50257, 4), build_tokenizer("gpt2"))


@pytest.fixture(scope="module")
def merged_engine() -> Engine:
    tokenizer = build_tokenizer(
        "bpe:400", lambda: ["The cats sat. The dogs sat. Yes, 中文, no; maybe été 127.0.0.1 " * 5]
    )
    return Engine(tiny(tokenizer.vocab_size), tokenizer)


def chain_of(pattern: str, rest: str = "") -> Chain:
    quoted = pattern.replace('"', '""')
    return Chain.parse(f'regex="{quoted}"{rest}')


def written(engine: Engine, request: Request) -> tuple[tuple[int, ...], str, str]:
    """Return the ids, the text and the finish reason of one completion, in which no stage was bypassed."""
    ids, text, reason = [], "", ""
    for event in engine.generate(request):
        if isinstance(event, Finished):
            text, reason = text + event.text, event.finish_reason
        elif isinstance(event, Token):
            assert not event.faults
            ids.append(event.id)
            text += event.text
    return tuple(ids), text, reason


def is_match(pattern: str, text: str) -> bool:
    automaton = automaton_of(pattern)
    state = automaton.start
    for byte in text.encode():
        state = automaton.row(state)[byte]
    return automaton.distance(state) == 0


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_automaton_agrees_with_fullmatch(pattern: str) -> None:
    generator = random.Random(pattern)
    texts = ["", *LETTERS, "aab", "ab\n", "a\n", "straße", "STRASSE", "STRAẞE", "Kk\u212a", "1.5", "a b", "abcd"]
    few = "ab\n" if "b" in pattern else "a1 .\n"
    for _ in range(400):
        letters = generator.choice([few, LETTERS])
        texts.append("".join(generator.choice(letters) for _ in range(generator.randrange(7))))
    for text in texts:
        assert is_match(pattern, text) == (re.fullmatch(pattern, text) is not None), text


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_walk_along_living_bytes_comes_to_a_match_in_as_many_as_were_told(pattern: str) -> None:
    automaton, generator = automaton_of(pattern), random.Random(pattern)
    for _ in range(20):
        state, text, wandering = automaton.start, b"", generator.randrange(9)
        while (distance := automaton.distance(state)) > 0 or wandering > 0:
            assert distance < FAR
            row = automaton.row(state)
            wandering -= 1
            nearer = [byte for byte in range(256) if automaton.distance(row[byte]) == distance - 1]
            assert nearer or distance == 0
            ways = [byte for byte in range(256) if row[byte] != DEAD] if wandering > 0 else nearer
            if not ways:
                break
            byte = generator.choice(ways)
            state, text = row[byte], text + bytes([byte])
        assert re.fullmatch(pattern, text.decode()), text


def test_every_character_is_where_python_has_it() -> None:
    for pattern in [r"\w", r"\s", r"[^\d]", r"(?i)[k-s]", r"(?ai)[^k-s]", "."]:
        automaton, own = automaton_of(pattern), re.compile(pattern)
        dfa = Dfa(automaton)
        first = dfa.number(automaton.start)
        for code in [*range(0x3000), *range(0x3000, 0x110000, 61)]:
            if not 0xD800 <= code < 0xE000:
                last = dfa.after(first, chr(code).encode())
                assert (dfa.distance[last] == 0) == (own.fullmatch(chr(code)) is not None), hex(code)


@pytest.mark.parametrize(
    ("pattern", "construct"),
    [
        (r"(a)\1", "a back-reference"),
        ("(?P<x>a)(?P=x)", "a back-reference"),
        ("a(?=b)b", "a look-ahead"),
        ("a(?!b).", "a look-ahead"),
        ("a(?!)", "a look-ahead"),
        ("(?<=a)b", "a look-behind"),
        ("(?<!a)b", "a look-behind"),
        (r"a\b", r"a word boundary \b or \B"),
        (r"a\Bb", r"a word boundary \b or \B"),
        ("(?>a|ab)c", "an atomic group (?>…)"),
        ("a++b", "a possessive repeat such as a++"),
        ("(a)?(?(1)b|c)", "a conditional group (?(…)…)"),
        ("(?m)^a", "^ or $ under the flag m"),
        ("(?m:a$)", "^ or $ under the flag m"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(pattern: str, construct: str) -> None:
    with pytest.raises(ChainError) as refusal:
        Regex(pattern)
    assert str(refusal.value) == (
        f"regex: the pattern '{pattern}' has {construct}, which this stage cannot follow token by token. "
        "Write it without."
    )


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("(a", "regex: the pattern '(a' is no regular expression: missing ), unterminated subpattern at position 0."),
        ("a**", "regex: the pattern 'a**' is no regular expression: multiple repeat at position 2."),
        ("a{100000}", "regex: the pattern 'a{100000}' is too large: "),
        ("((?:){1000}){1000}", "regex: the pattern '((?:){1000}){1000}' is too large: "),
        ("(" * 3000 + ")" * 3000, "is nested too deeply."),
        ("a^b", "regex: no text matches the pattern 'a^b'."),
        (r"a[^\s\S]", "regex: no text matches the pattern 'a[^\\s\\S]'."),
        (r"\ud800", "regex: no text matches the pattern '\\ud800'."),
        ("$a", "regex: no text matches the pattern '$a'."),
    ],
)
def test_a_pattern_that_cannot_be_is_told_when_the_stage_is_built(pattern: str, sentence: str) -> None:
    with pytest.raises(ChainError) as refusal:
        Regex(pattern)
    assert sentence in str(refusal.value)


def test_its_text_form_reads_back() -> None:
    for pattern in [*MATCHABLE, 'a"b,c:d ']:
        chain = chain_of(pattern)
        assert chain.stages == (Regex(pattern),)
        assert Chain.parse(str(chain)) == chain
    assert parse_stage("regex") == Regex("(?s).*")


@pytest.mark.parametrize("pattern", MATCHABLE)
def test_a_hundred_texts_match(byte_engine: Engine, pattern: str) -> None:
    reasons = set()
    for seed in range(100):
        count = (44, 36, 24, 40, 30)[seed % 5]
        request = Request("Once", chain_of(pattern, REST[seed % len(REST)]), seed, max_new_tokens=count, candidates=1)
        _, text, reason = written(byte_engine, request)
        assert re.fullmatch(pattern, text), (seed, text)
        reasons.add(reason)
    assert reasons <= {"end_of_text", "length"}


@pytest.mark.parametrize("vocabulary", ["gpt2_engine", "merged_engine"])
def test_texts_of_larger_vocabularies_match(vocabulary: str, request: pytest.FixtureRequest) -> None:
    engine: Engine = request.getfixturevalue(vocabulary)
    for pattern in MATCHABLE:
        for seed, count in enumerate((30, 45, 60)):
            chain = chain_of(pattern, REST[seed])
            _, text, _ = written(engine, Request("Once", chain, seed, max_new_tokens=count, candidates=1))
            assert re.fullmatch(pattern, text), text


def test_a_text_is_never_cut_before_it_matches(byte_engine: Engine) -> None:
    for pattern in [r"[a-z]+( [a-z]+)*\.", r"\d\d(-\d\d)*", r"[à-ü]{2,9}!"]:
        shortest = automaton_of(pattern).distance(automaton_of(pattern).start)
        for count in range(shortest, shortest + 6):
            for seed in range(4):
                _, text, _ = written(byte_engine, Request("x", chain_of(pattern), seed, max_new_tokens=count))
                assert re.fullmatch(pattern, text), (count, text)


def test_the_way_to_the_end_is_counted_in_tokens_where_they_are_longer_than_bytes(gpt2_engine: Engine) -> None:
    chain = chain_of(r'\{"name": "[^"\\]*", "age": \d{1,3}\}')
    texts = {written(gpt2_engine, Request("x", chain, seed, max_new_tokens=16))[1] for seed in range(6)}
    assert all(re.fullmatch(chain.stages[0].pattern, text) for text in texts)  # type: ignore[attr-defined]
    assert max(map(len, texts)) > 30  # fewer tokens than the shortest match has bytes, and yet there is a choice
    assert written(gpt2_engine, Request("x", chain_of("hello world"), max_new_tokens=2))[1] == "hello world"


def test_too_few_tokens_for_any_match_come_as_near_as_they_can(byte_engine: Engine) -> None:
    chain = chain_of("abc(xxxx|y|zz)d")
    assert written(byte_engine, Request("x", chain, max_new_tokens=4))[1] == "abcy"


def test_several_samples_keep_apart(byte_engine: Engine) -> None:
    chain = chain_of("[a-m]{4}|[n-z]{7}")
    request = Request("x", chain, 4, samples=6, max_new_tokens=20)
    texts = dict.fromkeys(range(6), "")
    for event in byte_engine.generate(request):
        if isinstance(event, Token):
            texts[event.sample] += event.text
    assert all(re.fullmatch("[a-m]{4}|[n-z]{7}", text) for text in texts.values())
    assert len(set(texts.values())) > 1
    for number, text in texts.items():
        assert written(byte_engine, Request("x", chain, 4 + number, max_new_tokens=20))[1] == text


def test_going_on_undoing_and_branching_keep_the_place_in_the_pattern(byte_engine: Engine) -> None:
    pattern = "[A-Z][a-z]{5}( [A-Z][a-z]{5}){3}"
    prompt = tuple(byte_engine.encode("Once"))
    for seed in range(5):
        whole, text, _ = written(byte_engine, Request(prompt, chain_of(pattern), seed, max_new_tokens=40))
        assert re.fullmatch(pattern, text)
        for kept in (20, 9, 3):
            start = prompt + whole[:kept]
            rest, _, _ = written(byte_engine, Request(start, chain_of(pattern), seed, max_new_tokens=40))
            assert rest == whole[kept:]
            _, branch, _ = written(byte_engine, Request(start, chain_of(pattern), seed + 99, max_new_tokens=40))
            assert re.fullmatch(pattern, text[:kept] + branch)


def test_a_pattern_that_is_switched_on_begins_there_and_so_does_another(byte_engine: Engine) -> None:
    chains = [Chain(), Chain(), chain_of("[a-z]{3}[0-9]{9}"), *[chain_of("[A-Z]{4}")] * 9]
    asked = iter([chains[0], *(chain for chain in chains for _ in range(1))])
    ids = [
        event.id
        for event in byte_engine.generate(Request("x", max_new_tokens=12), live_chain=lambda: next(asked))
        if isinstance(event, Token)
    ]
    assert re.fullmatch("[a-z][A-Z]{4}", bytes(ids[2:7]).decode())
    assert ids[7] == 256


class Letters:
    """A vocabulary of its own: a few letters, one word, a token that spells nothing, and an end."""

    pieces = (b"a", b"b", b"ab", b"", b"<end>", b"cab")
    vocab_size, end_of_text = 6, 4

    def encode(self, text: str) -> list[int]:
        return [self.pieces.index(letter.encode()) for letter in text]

    def token_bytes(self, token: int) -> bytes:
        return self.pieces[token]


def allowed(pattern: str, *tokens: int, width: int = 6, remaining: int | None = None) -> list[int]:
    stage = Regex(pattern)
    memory = stage.start()
    row = torch.zeros(1, width)
    for token in tokens:
        memory = stage.after(memory, token, row[0], row[0])
    context = Context(torch.zeros(1, 1, dtype=torch.long), 0, (), memory, Letters(), remaining)
    return torch.isfinite(stage(row, context))[0].nonzero()[:, 0].tolist()


def test_only_tokens_from_which_a_match_can_be_reached_are_allowed() -> None:
    assert allowed("(ab)*") == [0, 2, 4]
    assert allowed("(ab)*", 0) == [1]
    assert allowed("(ab)*", 2, 0, 1) == [0, 2, 4]
    assert allowed("a[a-z]b", 0) == [0, 1, 2]
    assert allowed(".*", width=9) == [0, 1, 2, 4, 5]  # an empty token spells nothing, and ids beyond mean nothing
    assert allowed(".*", width=3) == [0, 1, 2]  # nor is there more than the model has
    assert allowed("a(b|xb)", 0) == [1]  # no token spells x
    assert allowed("ab", 2) == [4]  # nothing else can follow: the end is forced
    assert allowed("x") == [4]  # so it is where the vocabulary cannot spell the pattern
    assert allowed("ab", 1) == [4]  # and where others brought in what does not match
    assert allowed("ab", 2, 4) == [0, 1, 2, 3, 4, 5]  # behind the end everything goes
    assert allowed("a*b", remaining=2) == [0, 1, 2]
    assert allowed("a*b", remaining=1) == [1, 2]
    assert allowed("(aab)*", remaining=1) == [4]
    assert allowed("(aab)*", remaining=2) == [0, 4]  # then "ab"
    assert allowed("aaab", remaining=1) == [0]


def test_the_pattern_wins_over_what_is_out_already() -> None:
    stage = Regex("[ab]+")
    context = Context(torch.zeros(2, 1, dtype=torch.long), 0, (), stage.start(), Letters())
    infinite = float("inf")
    rows = torch.tensor([[-infinite, -infinite, -infinite, 1.0, 2.0, 3.0], [1.0, -infinite, 2.0, 3.0, 4.0, 5.0]])
    before = rows.clone()
    assert stage(rows, context).tolist() == [
        [0.0, 0.0, 0.0, -infinite, -infinite, -infinite],
        [1.0, -infinite, 2.0, -infinite, -infinite, -infinite],
    ]
    assert torch.equal(rows, before)


def test_without_a_vocabulary_or_without_an_end_it_says_so() -> None:
    run = ChainRun(chain_of("ab"), [0])
    processed = run.process(torch.zeros(1, 6), torch.zeros(1, 1, dtype=torch.long), 1)
    assert "has no tokenizer" in processed.faults[0]
    with pytest.raises(ChainError, match="no end of text"):
        allowed("ab", 2, width=3)


def test_what_was_written_is_a_value(byte_engine: Engine) -> None:
    stage, row = Regex("a*"), torch.zeros(257)
    first = stage.start()
    one, other = stage.after(first, 97, row, row), stage.after(first, 97, row, row)
    assert one == other
    assert one != first
    assert list(first) == []
    context = Context(torch.zeros(1, 1, dtype=torch.long), 0, (), one, byte_engine.tokenizer)
    expected = stage(row[None], context)
    for same in (copy.deepcopy(one), pickle.loads(pickle.dumps(one)), other):
        assert same == one
        assert hash(same) == hash(one)
        again = Context(context.tokens, 0, (), same, byte_engine.tokenizer)
        assert torch.equal(stage(row[None], again), expected)
    long = first
    for _ in range(50_000):
        long = stage.after(long, 97, row, row)
    assert len(list(long)) == 50_000
    assert isinstance(long, Written)


def test_a_large_table_of_states_is_begun_anew(monkeypatch: pytest.MonkeyPatch, byte_engine: Engine) -> None:
    monkeypatch.setattr("samplers.regular.token_masks._STATES", 40)
    pattern, row, generator = "(?s).*a.{5}z", torch.zeros(257), random.Random(2)
    assert byte_engine.tokenizer is not None
    spellings = Spellings(byte_engine.tokenizer)
    small = TokenMasks(pattern, spellings)
    for _ in range(80):
        fresh = TokenMasks(pattern, spellings)
        state = fresh.start
        for _ in range(generator.randrange(12)):
            state = fresh.after(state, generator.choice(b"aabz"))
        remaining = generator.choice([None, 2, 4, 6])
        assert torch.equal(small.banned(state, remaining, row), fresh.banned(state, remaining, row))


def test_tokenizers_share_nothing_but_the_pattern(byte_engine: Engine, merged_engine: Engine) -> None:
    for _ in range(2):
        for engine in (byte_engine, merged_engine):
            assert isinstance(engine.tokenizer, Tokenizer)
            _, text, _ = written(engine, Request("x", chain_of("(The|cats) 中?"), 1, max_new_tokens=20))
            assert re.fullmatch("(The|cats) 中?", text)
