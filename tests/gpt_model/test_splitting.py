"""Splits: nanoGPT's tail, and blocks that stay where they are whatever else the corpus holds."""

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from gpt_model.corpus import Document, find_documents
from gpt_model.splitting import BLOCK_BYTES, Part, Split, blocks

pytest_plugins = ["tiny_runs"]

Sentences = Callable[[int], str]


def write(path: Path, text: str) -> list[Document]:
    path.write_text(text, encoding="utf-8")
    return find_documents([str(path)])


def text_of(parts: list[Part], validation: bool | None = None) -> str:
    return "".join(chunk for part in parts if validation in (None, part.is_validation) for chunk in part.text.chunks())


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.999])
@pytest.mark.parametrize("kind", ["tail", "blocks"])
def test_no_byte_is_lost_or_seen_twice_and_no_part_could_be_longer(
    tmp_path: Path, sentences: Sentences, kind: Literal["blocks", "tail"], fraction: float
) -> None:
    documents = write(tmp_path / "a.txt", sentences(300)) + write(tmp_path / "b.txt", "über naïve 夜\n" * 50)
    parts = list(Split(kind, fraction).parts(documents))
    assert text_of(parts) == sentences(300) + "über naïve 夜\n" * 50
    for one, other in itertools.pairwise(parts):
        assert one.document < other.document or one.is_validation != other.is_validation
        assert one.text.size > 0


def test_the_tail_is_the_share_of_bytes_that_was_asked_for(tmp_path: Path, sentences: Sentences) -> None:
    text = sentences(300)
    parts = list(Split("tail", 0.1).parts(write(tmp_path / "a.txt", text)))
    assert [part.is_validation for part in parts] == [False, True]
    assert text_of(parts, validation=True).encode() == text.encode()[-parts[1].text.size :]
    assert parts[1].text.size == pytest.approx(0.1 * len(text.encode()), abs=4)


def test_blocks_stay_on_their_side_when_files_are_added_changed_or_named_otherwise(tmp_path: Path) -> None:
    luck = random.Random(5)
    texts = ["".join(f"{luck.random()} {number}\n" for number in range(3000)) for _ in range(3)]
    alone = list(Split("blocks", 0.2).parts(write(tmp_path / "one.txt", texts[0])))
    kept = text_of(alone, validation=True)
    assert 0.05 < len(kept) / len(texts[0]) < 0.4
    documents = [document for n, text in enumerate(texts) for document in write(tmp_path / f"{2 - n}.txt", text)]
    for order in (documents, documents[::-1]):
        together = list(Split("blocks", 0.2).parts(order))
        mine = [part for part in together if order[part.document].path == tmp_path / "2.txt"]
        assert text_of(mine, validation=True) == kept
    half = list(Split("blocks", 0.5).parts(write(tmp_path / "half.txt", texts[0])))
    assert set(kept.splitlines()) <= set(text_of(half, validation=True).splitlines())  # a larger share keeps more


def test_a_text_that_grows_keeps_its_blocks(tmp_path: Path) -> None:
    text = "".join(f"line {number} of a text that is long enough\n" for number in range(60_000))
    before = [end for end, _ in blocks(*write(tmp_path / "a.txt", text))]
    after = [end for end, _ in blocks(*write(tmp_path / "a.txt", text + "and more\n" * 9999))]
    assert len(before) > 60
    assert after[: len(before) - 1] == before[:-1]


def test_blocks_end_with_lines_or_words_or_at_least_characters(tmp_path: Path) -> None:
    size = 80 * BLOCK_BYTES
    for unit, ending in (("a line of some words\n", "\n"), ("words ", " "), ("夜", "夜")):
        text = unit * (size // len(unit.encode()))
        found = [end for end, _ in blocks(*write(tmp_path / "a.txt", text))]
        raw = text.encode()
        assert found[-1] == len(raw)
        for begin, end in itertools.pairwise([0, *found]):
            assert raw[begin:end].decode().endswith(ending)
            assert end == len(raw) or BLOCK_BYTES <= end - begin < BLOCK_BYTES + 64


def test_text_that_stands_twice_is_on_one_side(tmp_path: Path) -> None:
    luck = random.Random(1)
    text = "".join(f"{luck.random()}\n" for _ in range(2000))
    documents = write(tmp_path / "a.txt", text) + write(tmp_path / "b.txt", text)
    parts = list(Split("blocks", 0.3).parts(documents))
    train, val = (set(text_of(parts, validation=side).splitlines()) for side in (False, True))
    assert train
    assert val
    assert not train & val


def test_neither_side_is_empty_where_there_are_two_blocks(tmp_path: Path) -> None:
    luck = random.Random(2)
    for fraction in (1e-9, 0.999999):
        text = "".join(f"{luck.random()}\n" for _ in range(200))
        sides = [part.is_validation for part in Split("blocks", fraction).parts(write(tmp_path / "a.txt", text))]
        assert {True, False} == set(sides)
    single = list(Split("blocks", 0.5).parts(write(tmp_path / "a.txt", "one line")))
    assert [part.is_validation for part in single] == [False]
    same = list(Split("blocks", 0.5).parts(write(tmp_path / "a.txt", ("x" * 255 + "\n") * 200)))
    assert [part.is_validation for part in same] == [False]
