"""The corpus: what files stand for, how they are read in parts, what is refused."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt_model import corpus
from gpt_model.corpus import Document, find_documents, read_texts
from gpt_model.errors import DataError
from gpt_model.tokenizer import build_tokenizer

pytest_plugins = ["tiny_runs"]


def document_of(path: Path, text: str | bytes) -> Document:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return find_documents([str(path)])[0]


def test_a_directory_stands_for_its_text_files_and_a_glob_for_what_it_matches(tmp_path: Path) -> None:
    for name in ("b.txt", "a.md", "deep/c.txt", ".hidden/d.txt", "e.py", "empty.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("" if name == "empty.txt" else name)
    assert list(read_texts(find_documents([str(tmp_path)]))) == ["a.md", "b.txt", "deep/c.txt"]
    assert list(read_texts(find_documents([f"{tmp_path}/*.py", str(tmp_path / "b.txt")]))) == ["e.py", "b.txt"]
    twice = [str(tmp_path / "b.txt"), f"{tmp_path}/b.*"]
    assert list(read_texts(find_documents(twice))) == ["b.txt"]


def test_brackets_in_the_name_of_a_directory_mean_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d[1]" / "deep").mkdir(parents=True)
    for name in ("d[1]/a.txt", "d[1]/deep/b.txt", "c1.txt", "c2.txt"):
        (tmp_path / name).write_text(name)
    for beginning in ("", f"{tmp_path}/"):
        assert list(read_texts(find_documents([f"{beginning}d[1]/*.txt"]))) == ["d[1]/a.txt"]
        assert list(read_texts(find_documents([f"{beginning}d[1]/**/b.*"]))) == ["d[1]/deep/b.txt"]
        assert list(read_texts(find_documents([f"{beginning}c[1].txt"]))) == ["c1.txt"]


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 7, 100, 1 << 20])
def test_chunks_join_to_the_text(tmp_path: Path, sentences: Callable[[int], str], chunk_bytes: int) -> None:
    text = sentences(20)
    document = document_of(tmp_path / "text.txt", text)
    assert "".join(document.chunks(chunk_bytes)) == text


def test_chunks_encode_to_the_tokens_of_the_whole(tmp_path: Path, sentences: Callable[[int], str]) -> None:
    text = sentences(40).replace(".\n", ".\n\n\n  \t") + "it's   done \n\n"
    document = document_of(tmp_path / "text.txt", text)
    tokenizer = build_tokenizer("gpt2")
    chunks = list(document.chunks(64))
    assert len(chunks) > 20
    assert [token for chunk in chunks for token in tokenizer.encode(chunk)] == tokenizer.encode(text)


def test_a_split_never_cuts_a_character(tmp_path: Path) -> None:
    text = "aé夜🌙z"
    document = document_of(tmp_path / "text.txt", text)
    for at in range(document.size + 1):
        parts = ["".join(part.chunks()) for part in document.split(at)]
        assert "".join(parts) == text
        assert at - 3 <= len(parts[0].encode()) <= at


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"fine so far\0", "byte 11 is zero"),
        (b"fine \xff", "byte 5 is not UTF-8"),
        ("é".encode()[:1], "byte 0 is not UTF-8"),
    ],
)
@pytest.mark.parametrize("chunk_bytes", [1, 4, 1 << 20])
def test_a_binary_file_is_refused_with_the_byte(
    tmp_path: Path, content: bytes, sentence: str, chunk_bytes: int
) -> None:
    document = document_of(tmp_path / "data.txt", content)
    with pytest.raises(DataError, match=sentence):
        list(document.chunks(chunk_bytes))


def test_what_is_not_there_or_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "none").mkdir()
    for name, sentence in {
        "missing.txt": "There is no file",
        "*.none": "No file matches",
        "empty.txt": "is empty",
        "none": "holds no text file",
    }.items():
        with pytest.raises(DataError, match=sentence):
            find_documents([str(tmp_path / name)])


def test_a_file_that_shrinks_while_it_is_read_is_told(tmp_path: Path) -> None:
    document = document_of(tmp_path / "text.txt", "long enough")
    (tmp_path / "text.txt").write_text("short")
    with pytest.raises(DataError, match="became shorter"):
        list(document.chunks())


def test_without_files_python_itself_is_the_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    topics = "".join(find_documents([])[0].chunks())
    assert len(topics) > 100_000
    corpus.built_in_text.cache_clear()
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)  # as in a Python whose packager left it out
    try:
        docstrings = "".join(find_documents([])[0].chunks())
    finally:
        corpus.built_in_text.cache_clear()
    assert len(docstrings) > 100_000
    assert docstrings != topics


def test_the_mark_of_utf_8_is_no_text_and_other_encodings_are_named(tmp_path: Path) -> None:
    document = document_of(tmp_path / "marked.txt", "\ufeffnight".encode())
    assert list(document.chunks()) == ["night"]
    assert document.size == 5
    names = {"utf-16": "UTF-16", "utf-32": "UTF-32", "utf-16-le": "UTF-16LE", "utf-16-be": "UTF-16BE"}
    for encoding, name in names.items():
        (tmp_path / "it's.txt").write_bytes("night".encode(encoding))
        with pytest.raises(DataError, match=rf"is {name} text.*iconv -f {name} -t UTF-8 '.*it'\"'\"'s.txt' > "):
            find_documents([str(tmp_path / "it's.txt")])


def test_links_in_a_circle_and_names_too_long_are_told(tmp_path: Path) -> None:
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    for name in ("loop.txt", "x" * 5000):
        with pytest.raises(DataError):
            find_documents([str(tmp_path / name)])
