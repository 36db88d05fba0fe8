"""The texts that a run trains on: files, directories and globs, checked and read in chunks. Knows no tokenizer.

Without files it is the corpus that comes with Python: the language's own help topics.
"""

import ast
import codecs
import glob
import io
import re
import shlex
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import BinaryIO

from gpt_model.errors import DataError

SUFFIXES = (".txt", ".text", ".md", ".markdown", ".rst", ".tex", ".org")
"""The files that a directory stands for; whatever is named by itself or by a glob is read as it is."""

CHUNK_BYTES = 1 << 20
_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}  # fmt: skip
"""The first bytes of encodings that are not UTF-8; the longer ones first, because one begins with another."""
BUILT_IN = "Python's own documentation"

# A chunk ends before white space that follows something else. There GPT-2's pattern parts the text too, so that the
# chunks encode to the very tokens of the whole.
_CUT = re.compile(r"(?<=\S)[ \n]")


@dataclass(frozen=True)
class Document:
    """One text of a corpus, or a part of it. Positions and sizes are bytes of UTF-8."""

    name: str
    path: Path | None
    """None for the corpus that comes with Python."""
    start: int
    end: int
    own_path: Path | None = None
    """Where it lies in its run's directory, for a text that is the run's own."""

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start

    def changed_at(self) -> int:
        """Return when the file was last written, in nanoseconds since the epoch.

        Raises:
            DataError: it is gone.
        """
        if self.path is None:
            return 0
        try:
            return self.path.stat().st_mtime_ns
        except OSError as error:
            raise DataError(f"{self.name} cannot be read: {error.strerror or error}.") from error

    def read(self, block_bytes: int) -> Iterator[bytes]:
        """Yield its bytes, `block_bytes` at a time.

        Raises:
            DataError: it cannot be read, or has become shorter.
        """
        position = self.start
        try:
            with self._open() as file:
                file.seek(self.start)
                while block := file.read(min(block_bytes, self.end - position)):
                    yield block
                    position += len(block)
        except OSError as error:
            raise DataError(f"{self.name} cannot be read: {error.strerror or error}.") from error
        if position < self.end:
            raise DataError(f"{self.name} became shorter while it was read: {position:,} bytes of {self.end:,}.")

    def split(self, at: int) -> "tuple[Document, Document]":
        """Return the part before and the part from byte `at` on, moved back to where a character begins."""
        if self.start < at < self.end:
            with self._open() as file:
                file.seek(max(at - 3, self.start))  # a character has at most three bytes after its first
                near = file.read(at + 1 - file.tell())
            while at > self.start and near and 0x80 <= near[-1] < 0xC0:
                near, at = near[:-1], at - 1
        return replace(self, end=at), replace(self, start=at)

    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[str]:
        """Yield the text in parts of about `chunk_bytes`, cut at the ends of words where there are any.

        Raises:
            DataError: it cannot be read, or is not UTF-8 text; the byte is in the message.
        """
        decoder = codecs.getincrementaldecoder("utf-8")()
        text, position = "", self.start
        for block in self.read(chunk_bytes):
            if (zero := block.find(b"\0")) >= 0:
                raise self._binary(f"byte {position + zero:,} is zero")
            undecoded = len(decoder.getstate()[0])
            try:
                text += decoder.decode(block, final=position + len(block) >= self.end)
            except UnicodeDecodeError as error:
                raise self._binary(f"byte {position - undecoded + error.start:,} is not UTF-8") from None
            position += len(block)
            cut = _last_cut(text)
            if cut:
                yield text[:cut]
                text = text[cut:]
        if text:
            yield text

    def _open(self) -> BinaryIO:
        return io.BytesIO(built_in_text().encode()) if self.path is None else self.path.open("rb")

    def _binary(self, what: str) -> DataError:
        return DataError(
            f"{self.name} is not a text file: {what}. Training reads UTF-8 text; leave this file out, "
            "or convert it first (for example with iconv)."
        )


def find_documents(files: Sequence[str], home: Path | None = None) -> list[Document]:
    """Return the documents that files, directories (their text files, recursively) and globs stand for, in order.

    No files means the corpus that comes with Python. A file that is named twice is read once. Those in the directory
    `home` are marked as a run's own.

    Raises:
        DataError: something is missing, empty, or holds no text file.
    """
    if not files:
        return [Document(BUILT_IN, None, 0, len(built_in_text().encode()))]
    found: dict[Path, Document] = {}
    for name in files:
        try:
            for path in _expand(name):
                if path.resolve() not in found:
                    document = _document(path)
                    if home and path.is_relative_to(home):
                        document = replace(document, own_path=path.relative_to(home))
                    found[path.resolve()] = document
        except (OSError, RuntimeError) as error:  # somebody else's directory, a name too long, links in a circle
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise DataError(f"{name} cannot be read: {str(reason).rstrip('.')}.") from error
    documents = [document for document in found.values() if document.size]
    if not documents:
        raise DataError(f"There is no text to train on: {', '.join(files)} is empty.")
    return documents


def _document(path: Path) -> Document:
    """Return the document in a file, without the mark that some editors put before UTF-8.

    Raises:
        DataError: it cannot be read, or its first bytes are those of another encoding.
    """
    try:
        with path.open("rb") as file:
            beginning, size = file.read(4), path.stat().st_size
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    for mark, name in (_MARKS | _unmarked(beginning)).items():
        if beginning.startswith(mark):
            raise DataError(
                f"{path} is {name} text, and training reads UTF-8. Convert it first: "
                f"iconv -f {name} -t UTF-8 {shlex.quote(str(path))} > {shlex.quote(path.stem + '-utf8' + path.suffix)}"
            )
    return Document(str(path), path, len(codecs.BOM_UTF8) if beginning.startswith(codecs.BOM_UTF8) else 0, size)


def _unmarked(beginning: bytes) -> dict[bytes, str]:
    """Return four bytes as the mark of the encoding that they look like: two Latin letters in UTF-16."""
    zeros = "".join("0" if byte == 0 else "x" for byte in beginning)
    name = {"x0x0": "UTF-16LE", "0x0x": "UTF-16BE"}.get(zeros)
    return {beginning: name} if name else {}


def read_texts(documents: Iterable[Document]) -> Iterator[str]:
    """Yield the chunks of all documents, as a tokenizer is trained on them."""
    for document in documents:
        yield from document.chunks()


@cache
def built_in_text() -> str:
    """Return the corpus that every Python brings: its help topics, or the standard library's docstrings."""
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions leave it out
        return "\n\n".join(_docstrings())
    return "\n\n".join(topics[name].strip() for name in sorted(topics)) + "\n"


def _docstrings() -> Iterator[str]:
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, OSError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text and "\0" not in text:
                    yield text


def _expand(name: str) -> list[Path]:
    path = Path(name).expanduser()
    if path.is_file():
        if not path.stat().st_size:
            raise DataError(f"{path} is empty: there is no text in it.")
        return [path]
    if path.is_dir():
        inside = sorted(
            each
            for each in path.rglob("*")
            if each.suffix.lower() in SUFFIXES
            and each.is_file()
            and not any(part.startswith(".") for part in each.relative_to(path).parts)
        )
        if not inside:
            raise DataError(
                f"The directory {path} holds no text file ({', '.join(SUFFIXES)}). "
                f"For other files give a glob, such as '{path}/**/*.py'."
            )
        return inside
    if path.exists():
        raise DataError(f"{path} is neither a file nor a directory.")
    found = glob.glob(_literal_beginning(path), recursive=True)  # noqa: PTH207 - pathlib globs no absolute pattern
    matches = sorted(match for match in map(Path, found) if match.is_file())
    if not matches:
        what = "No file matches" if set("*?[") & set(name) else "There is no file"
        raise DataError(f"{what} {path}. Check the path; training reads text files, directories and globs.")
    return matches


def _literal_beginning(pattern: Path) -> str:
    """Return a pattern in which directories that are there mean themselves: their names may have brackets in them."""
    there = next((each for each in pattern.parents if each.is_dir()), Path())
    return str(Path(glob.escape(str(there))) / pattern.relative_to(there))


def _last_cut(text: str) -> int:
    """Return where the last cut can be made; the end of the text when there is no better place."""
    for width in (4096, len(text)):  # the last cut is near the end, so that the whole chunk is rarely searched
        cuts = [match.start() for match in _CUT.finditer(text, max(0, len(text) - width))]
        if cuts:
            return cuts[-1]
    return len(text)
