"""The three vocabularies, their files, and streams of half-finished characters."""

import hashlib
import random
from importlib import resources
from itertools import pairwise
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from gpt_model.bpe import merges_of
from gpt_model.errors import TokenizerError
from gpt_model.tokenizer import StreamDecoder, Tokenizer, build_tokenizer, read_tokenizer, vocab_size_of

TEXT = "It's  the 42nd  day — naïve café, 你好 🎉\n\n\tIndented<|endoftext|>, isn't it?   \n"
CORPUS = [" ".join(random.Random(1).choices(["the", "cat", "sat", "on", "a", "mat", "while", "rain", "fell"], k=4000))]


@pytest.fixture(scope="module", params=["gpt2", "bytes", "bpe:300"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return build_tokenizer(request.param, lambda: CORPUS)


def test_any_text_comes_back_exactly(tokenizer: Tokenizer) -> None:
    for text in (TEXT, "", "\x00\x1b[31m", "a" * 5000, "\r\n \r"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.encode_array(text).tolist() == tokenizer.encode(text)
    assert tokenizer.end_of_text not in tokenizer.encode(TEXT)
    assert tokenizer.encode("lone \ud800") == tokenizer.encode("lone ?")


def test_a_stream_gives_whole_characters_only(tokenizer: Tokenizer) -> None:
    decoder = StreamDecoder(tokenizer)
    pieces = [decoder.push(token) for token in tokenizer.encode(TEXT)]
    assert "".join(pieces) + decoder.finish() == TEXT
    assert "\ufffd" not in "".join(pieces)
    decoder.push(tokenizer.ranks[b"\xf0"])
    assert decoder.finish() == "\ufffd"


def test_files_read_back_to_the_same_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert read_tokenizer(tmp_path) is None
    tokenizer.save(tmp_path)
    ours = read_tokenizer(tmp_path)
    assert ours is not None
    assert (ours.ranks, ours.name) == (tokenizer.ranks, tokenizer.name)


def test_transformers_gives_the_same_ids_from_our_files(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save_for_transformers(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    text = TEXT.replace("<|endoftext|>", "")
    assert theirs(text).input_ids == tokenizer.encode(text)
    assert theirs.eos_token_id == tokenizer.end_of_text
    back = read_tokenizer(tmp_path)
    assert back is not None
    assert back.ranks == tokenizer.ranks


def test_gpt2s_vocabulary_is_the_original() -> None:
    data = resources.files("gpt_model").joinpath("assets/gpt2_ranks.z").read_bytes()
    assert hashlib.sha256(data).hexdigest() == "5a79f1a53c4343988b7db016d37dcf6195a4f7af894c1d2ea355b3dcb13a12bf"
    gpt2 = build_tokenizer("gpt2")
    assert (gpt2.name, gpt2.vocab_size, gpt2.end_of_text) == ("gpt2", 50257, 50256)
    assert gpt2.encode("Hello world") == [15496, 995]
    assert gpt2.encode("hello  world\n\n  foo") == [31373, 220, 995, 628, 220, 22944]
    assert gpt2.encode("it's I'll we've") == [270, 338, 314, 1183, 356, 1053]
    assert len(list(merges_of(gpt2.ranks))) == 50_000


def test_learned_merges_are_those_of_the_definition() -> None:
    """The frequent pair first; recounting everything after each merge, as the paper writes it, gives the same."""
    words = CORPUS[0].split(" ")
    spellings = [[bytes([b]) for b in ((" " if place else "") + word).encode()] for place, word in enumerate(words)]
    ranks = {bytes([byte]): byte for byte in range(256)}
    while len(ranks) < 280:
        totals: dict[tuple[bytes, bytes], int] = {}
        for spelling in spellings:
            for pair in pairwise(spelling):
                totals[pair] = totals.get(pair, 0) + 1
        best = min(totals, key=lambda pair: (-totals[pair], ranks[pair[0]], ranks[pair[1]]))
        ranks[best[0] + best[1]] = len(ranks)
        for spelling in spellings:
            place = 0
            while place < len(spelling) - 1:
                if (spelling[place], spelling[place + 1]) == best:
                    spelling[place : place + 2] = [best[0] + best[1]]
                place += 1
    learned = build_tokenizer("bpe:281", lambda: CORPUS)
    assert learned.ranks == ranks


def test_a_small_corpus_gives_a_smaller_vocabulary() -> None:
    small = build_tokenizer("bpe:5000", lambda: ["abab abab"])
    assert 257 < small.vocab_size < 270
    assert small.decode(small.encode("abab c")) == "abab c"


@pytest.mark.parametrize("spec", ["bpe", "bpe:", "bpe:257", "bpe:x", "bpe:9999999", "gpt3", ""])
def test_an_impossible_spec_is_told(spec: str) -> None:
    with pytest.raises(TokenizerError):
        build_tokenizer(spec, lambda: CORPUS)
    with pytest.raises(TokenizerError):
        vocab_size_of(spec)


def test_an_empty_corpus_and_a_damaged_file_are_told(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="empty"):
        build_tokenizer("bpe:300", lambda: [""])
    for damaged in ("IQ== 0\n", "not base64! 0\n", "IQ==\n", "IQ== 5\n"):
        (tmp_path / "tokenizer.tiktoken").write_text(damaged, encoding="ascii")
        with pytest.raises(TokenizerError, match="cannot be read"):
            read_tokenizer(tmp_path)
