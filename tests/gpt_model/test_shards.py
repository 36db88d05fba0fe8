"""Token shards: what they hold, what is reused, what is made again, and encodings that were cut short."""

import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from gpt_model import encoding
from gpt_model.corpus import find_documents
from gpt_model.errors import DataError
from gpt_model.shards import Shards, open_shards, prepare_shards
from gpt_model.splitting import Split
from gpt_model.tokenizer import Tokenizer, build_tokenizer

pytest_plugins = ["tiny_runs"]

Sentences = Callable[[int], str]
BYTES = build_tokenizer("bytes")


def shards_of(
    tmp_path: Path, *texts: str, spec: str | Tokenizer = "bytes", val_fraction: float = 0.1,
    kind: Literal["blocks", "tail"] = "tail", on_damage: Callable[[str], object] = print,
    on_progress: Callable[[str, float], None] = lambda what, share: None, expected: str = "",
) -> Shards:  # fmt: skip
    files = []
    for number, text in enumerate(texts):
        files.append(str(tmp_path / f"{number}.txt"))
        if not Path(files[-1]).exists() or Path(files[-1]).read_text(encoding="utf-8") != text:
            Path(files[-1]).write_text(text, encoding="utf-8")
    split = Split(kind, val_fraction)
    return prepare_shards(
        tmp_path / "data", lambda: find_documents(files), spec, split, on_progress, on_damage, expected
    )


def contents(shards: Shards) -> tuple[list[int], list[int]]:
    return shards.train.tolist(), shards.val.tolist()


def test_the_last_tenth_of_the_bytes_can_be_the_validation_split(tmp_path: Path) -> None:
    text = "".join(chr(ord("a") + number % 26) for number in range(1234))
    shards = shards_of(tmp_path, text)
    cut = int(len(text) * 0.9)
    assert BYTES.decode(shards.train.tolist()) == text[:cut]
    assert BYTES.decode(shards.val.tolist()) == text[cut:]
    assert shards.train.dtype == np.uint16


def test_documents_are_parted_by_the_end_of_text_which_counts_in_no_split(tmp_path: Path) -> None:
    shards = shards_of(tmp_path, "a" * 50, "b" * 30, "c" * 20, val_fraction=0.4)
    end = BYTES.end_of_text
    assert shards.train.tolist() == [ord("a")] * 50 + [end] + [ord("b")] * 10
    assert shards.val.tolist() == [ord("b")] * 20 + [end] + [ord("c")] * 20


def test_where_a_block_was_taken_out_the_text_is_parted(tmp_path: Path, sentences: Sentences) -> None:
    text = sentences(400)
    shards = shards_of(tmp_path, text, kind="blocks", val_fraction=0.3)
    for tokens in (shards.train, shards.val):
        pieces = bytes(BYTES.decode(tokens.tolist()), "utf-8").split(b"<|endoftext|>")
        assert len(pieces) > 3
        assert all(piece.decode() in text for piece in pieces)
    assert len(shards.val) / len(text.encode()) == pytest.approx(0.3, abs=0.15)


def test_shards_that_are_there_are_used_though_the_files_are_gone(tmp_path: Path, sentences: Sentences) -> None:
    first = shards_of(tmp_path, sentences(50), spec="bpe:300")
    (tmp_path / "0.txt").unlink()
    missing = [str(tmp_path / "0.txt")]
    again = prepare_shards(tmp_path / "data", lambda: find_documents(missing), "bpe:300", Split("blocks", 0.5))
    assert contents(again) == contents(first)
    assert again.tokenizer.fingerprint == first.tokenizer.fingerprint
    assert 257 < again.tokenizer.vocab_size <= 300
    assert contents(open_shards(tmp_path / "data")) == contents(first)


@pytest.mark.parametrize("damage", ["train.bin", "tokenizer.tiktoken", "data.json"])
def test_shards_that_are_not_whole_are_made_again(tmp_path: Path, sentences: Sentences, damage: str) -> None:
    tokens = contents(shards_of(tmp_path, sentences(50)))
    (tmp_path / "data" / damage).unlink()
    with pytest.raises(DataError):
        open_shards(tmp_path / "data")
    assert contents(shards_of(tmp_path, sentences(50))) == tokens


@pytest.mark.parametrize("name", ["train.bin", "val.bin"])
@pytest.mark.parametrize("spec", ["bytes", "bpe:300"])
def test_a_byte_that_turned_is_told_and_mended_from_unchanged_texts(
    tmp_path: Path, sentences: Sentences, name: str, spec: str
) -> None:
    first = contents(shards_of(tmp_path, sentences(50), spec=spec))
    file = tmp_path / "data" / name
    turned = bytearray(file.read_bytes())
    turned[len(turned) // 2] ^= 1
    file.write_bytes(turned)
    told: list[str] = []
    assert contents(shards_of(tmp_path, sentences(50), spec=spec, on_damage=told.append)) == first
    assert told == [f"{file} is damaged: its checksum is not the one it was written with. "
                    "The texts are unchanged, so it is made again."]  # fmt: skip


def test_damaged_shards_of_texts_that_changed_or_are_gone_stop_the_run(tmp_path: Path, sentences: Sentences) -> None:
    shards_of(tmp_path, sentences(50))
    file = tmp_path / "data" / "train.bin"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"!")
    with pytest.raises(DataError, match=r"train\.bin is damaged.*the texts have changed since.*Restore the file"):
        shards_of(tmp_path, sentences(51))
    (tmp_path / "0.txt").unlink()
    missing = [str(tmp_path / "0.txt")]
    with pytest.raises(DataError, match=r"train\.bin is damaged.*There is no file"):
        prepare_shards(tmp_path / "data", lambda: find_documents(missing), "bytes", Split("tail", 0.1))
    file.write_bytes(whole)  # as the message asks for
    assert prepare_shards(tmp_path / "data", lambda: find_documents(missing), "bytes", Split("tail", 0.1)).checksum


def test_a_runs_own_text_is_the_same_wherever_the_run_lies(tmp_path: Path, sentences: Sentences) -> None:
    def prepare(home: Path) -> list[int]:
        told: list[str] = []
        found = prepare_shards(
            home / "data", lambda: find_documents([str(home / "stdin.txt")], home), "bytes", Split("tail", 0.1),
            on_damage=told.append,
        )  # fmt: skip
        assert bool(told) == (home.name != "here")
        return found.train.tolist()

    here, moved = tmp_path / "here", tmp_path / "moved"
    here.mkdir()
    (here / "stdin.txt").write_text(sentences(50), encoding="utf-8")
    tokens = prepare(here)
    shutil.copytree(here, moved, copy_function=shutil.copyfile)  # with another time
    (moved / "data" / "train.bin").write_bytes(b"!")
    assert prepare(moved) == tokens
    (moved / "stdin.txt").write_text(sentences(51), encoding="utf-8")
    (moved / "data" / "train.bin").write_bytes(b"!")
    with pytest.raises(DataError, match="the texts have changed"):
        prepare(moved)


@pytest.mark.parametrize("damage", ["a byte", "data.json", "tokenizer.tiktoken", "interrupted"])
def test_no_other_tokens_than_those_trained_on_are_ever_taken(
    tmp_path: Path, sentences: Sentences, damage: str
) -> None:
    text = sentences(50)
    first = shards_of(tmp_path, text, spec="gpt2")
    tokens, expected, source, data = contents(first), first.checksum, tmp_path / "0.txt", tmp_path / "data"
    before = source.stat()
    other = text.replace("sea", "bee").replace("Sea", "Bee")
    assert len(other) == len(text)
    assert other != text
    if damage in ("a byte", "interrupted"):
        turned = bytearray((data / "train.bin").read_bytes())
        turned[100] ^= 1
        (data / "train.bin").write_bytes(turned)
    else:
        (data / damage).unlink()
    if damage == "interrupted":

        def give_up(what: str, share: float) -> None:
            if what == "encoding the text":
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            shards_of(tmp_path, text, spec="gpt2", on_progress=give_up, expected=expected)
    source.write_text(other, encoding="utf-8")
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))  # an editor that keeps the time
    for _ in range(3):
        with pytest.raises(DataError, match="give other tokens than those that this run was trained on"):
            shards_of(tmp_path, other, spec="gpt2", expected=expected)
    source.write_text(text, encoding="utf-8")
    assert contents(shards_of(tmp_path, text, spec="gpt2", expected=expected)) == tokens


def test_damaged_shards_of_the_first_version_are_not_made_again(tmp_path: Path) -> None:
    shards_of(tmp_path, "abc" * 100)
    header = '{"schema": 1, "fingerprint": "%s", "dtype": "uint16", "train_tokens": 270, "val_tokens": 30}'
    (tmp_path / "data" / "data.json").write_text(header % BYTES.fingerprint)
    (tmp_path / "data" / "train.bin").write_bytes(b"short")
    for _ in range(2):
        with pytest.raises(DataError, match=r"are not whole.*an older version made it"):
            shards_of(tmp_path, "abc" * 100, kind="blocks")


def test_shards_of_the_first_version_are_read_as_they_are(tmp_path: Path) -> None:
    shards_of(tmp_path, "abc" * 100)
    header = '{"schema": 1, "fingerprint": "%s", "dtype": "uint16", "train_tokens": 270, "val_tokens": 30}'
    (tmp_path / "data" / "data.json").write_text(header % BYTES.fingerprint)
    (tmp_path / "0.txt").unlink()
    again = prepare_shards(tmp_path / "data", lambda: find_documents(["gone"]), "bytes", Split("blocks", 0.1))
    assert bytes(again.train.tolist()) == b"abc" * 90
    assert not again.checksum


@pytest.mark.parametrize("kind", ["tail", "blocks"])
def test_an_encoding_that_was_cut_short_goes_on_and_gives_the_same(
    tmp_path: Path, sentences: Sentences, monkeypatch: pytest.MonkeyPatch, kind: Literal["blocks", "tail"]
) -> None:
    monkeypatch.setattr(encoding, "SAVE_BYTES", 700)
    monkeypatch.setattr(encoding, "PIECE_BYTES", 256)
    texts = [sentences(120), "short", sentences(70)]
    for name in ("straight", "cut"):
        (tmp_path / name).mkdir()
    straight = contents(shards_of(tmp_path / "straight", *texts, spec="gpt2", kind=kind))
    starts: list[float] = []
    for patience in range(1, 60, 3):
        calls: list[float] = []

        def give_up(what: str, share: float, calls: list[float] = calls, patience: int = patience) -> None:
            calls.extend([share] if what == "encoding the text" else [])
            if len(calls) > patience:
                raise KeyboardInterrupt

        try:
            shards = shards_of(tmp_path / "cut", *texts, spec="gpt2", kind=kind, on_progress=give_up)
            break
        except KeyboardInterrupt:
            starts.append(calls[0])
            with (tmp_path / "cut" / "data" / "train.bin").open("ab") as file:
                file.write(b"left by a kill")  # behind what was noted, as after a death without a last word
    assert contents(shards) == straight
    assert len(starts) > 2
    assert starts == sorted(set(starts))  # it never began anew
    assert not (tmp_path / "cut" / "data" / "encoding.json").exists()


def test_a_cut_encoding_of_other_texts_counts_for_nothing(tmp_path: Path, sentences: Sentences) -> None:
    def give_up(what: str, share: float) -> None:
        if share > 0.9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shards_of(tmp_path, "A" * 100, sentences(20), on_progress=give_up)
    assert (tmp_path / "data" / "encoding.json").exists()
    shards = shards_of(tmp_path, "B" * 100, sentences(20), val_fraction=0.0)
    assert bytes(shards.train.tolist()[:100]) == b"B" * 100


def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    line = b"the king of seven seas sings of eleven nights\n"
    peaks = []
    for megabytes in (8, 32):
        (tmp_path / "text.txt").write_bytes(line * (megabytes * 2**20 // len(line)))
        documents = find_documents([str(tmp_path / "text.txt")])
        tracemalloc.start()
        prepare_shards(tmp_path / f"data{megabytes}", lambda found=documents: found, BYTES, Split("blocks", 0.1))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


def test_a_disk_without_room_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = os.statvfs(tmp_path)
    full = os.statvfs_result((*disk[:3], 0, 0, *disk[5:]))
    monkeypatch.setattr("os.statvfs", lambda path: full)
    with pytest.raises(DataError, match=r"has 0\.0 MB free, but 2\.1 MB are needed.*GPT_TUI_HOME"):
        shards_of(tmp_path, "x" * 10**6)


def test_a_large_vocabulary_takes_four_bytes_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BYTES, "vocab_size", (1 << 16) + 1)
    shards = shards_of(tmp_path, "abc" * 10, spec=BYTES)
    assert shards.train.dtype == np.uint32
    assert bytes(shards.train.tolist()) == b"abc" * 9
