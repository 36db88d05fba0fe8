"""Tokenizer: text to token ids and back, over a tiktoken Encoding. StreamDecoder: ids to whole characters.

Three vocabularies: "gpt2" (shipped with the package, works offline), "bytes" (256 bytes and the end of text), and
"bpe:N", trained on a corpus (gpt_model.bpe). Knows no model and no torch.
"""

import base64
import binascii
import codecs
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from gpt_model.bpe import PATTERN, learn_ranks, merges_of, unicode_of_bytes
from gpt_model.errors import TokenizerError

if TYPE_CHECKING:
    import numpy as np
    import tiktoken

END_OF_TEXT = "<|endoftext|>"
FILE_NAME = "tokenizer.tiktoken"
GPT2_SIZE, BYTES_SIZE = 50257, 257
GPT2_FINGERPRINT = "bf66d0a6bdb24559ab0867946ee2808c"


class Tokenizer:
    """A byte-level vocabulary: ranks 0 … n−1, and the end of text as id n."""

    def __init__(self, ranks: dict[bytes, int]) -> None:
        self.ranks = ranks
        self.end_of_text = len(ranks)
        self.vocab_size = len(ranks) + 1

    @property
    def name(self) -> str:
        """`gpt2`, `bytes` or `bpe:N`."""
        if self.vocab_size == BYTES_SIZE:
            return "bytes"
        return "gpt2" if self.fingerprint == GPT2_FINGERPRINT else f"bpe:{self.vocab_size}"

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the ranks: two tokenizers with the same one give the same ids."""
        return hashlib.blake2b(self.to_tiktoken().encode(), digest_size=16).hexdigest()

    @cached_property
    def encoding(self) -> "tiktoken.Encoding":
        """The tiktoken Encoding. Its import and construction cost 0.1 to 0.5 s, so it is made at first use."""
        import tiktoken

        return tiktoken.Encoding(
            name="gpt-tui",
            # Without merges the pattern only parts the text into pieces that are cheap to walk.
            pat_str=PATTERN if len(self.ranks) > 256 else r"(?s).{1,64}",
            mergeable_ranks=self.ranks,
            special_tokens={END_OF_TEXT: self.end_of_text},
        )

    @cached_property
    def _pieces(self) -> list[bytes]:
        pieces = [b""] * self.vocab_size
        for piece, rank in self.ranks.items():
            pieces[rank] = piece
        pieces[self.end_of_text] = END_OF_TEXT.encode()
        return pieces

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; `<|endoftext|>` in it is ordinary text."""
        return self.encoding.encode_ordinary(_without_surrogates(text))

    def encode_array(self, text: str) -> "np.ndarray[tuple[int], np.dtype[np.uint32]]":
        """Return the ids of a text as an array, without a Python list between."""
        import numpy as np

        return np.asarray(
            self.encoding.encode_to_numpy(_without_surrogates(text), disallowed_special=()), dtype=np.uint32
        )

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of one id; an id beyond the vocabulary (a padded model's) is U+FFFD, to be seen."""
        return self._pieces[token] if 0 <= token < self.vocab_size else "\ufffd".encode()

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """Return the bytes of ids."""
        return b"".join(map(self.token_bytes, tokens))

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of ids; what is no UTF-8 becomes U+FFFD."""
        return self.decode_bytes(tokens).decode("utf-8", errors="replace")

    def to_tiktoken(self) -> str:
        """Return the ranks in tiktoken's text form: base64 and rank, a line a token."""
        return "".join(f"{base64.b64encode(piece).decode()} {rank}\n" for piece, rank in self.ranks.items())

    def save(self, directory: Path) -> None:
        """Write `tokenizer.tiktoken`."""
        (directory / FILE_NAME).write_text(self.to_tiktoken(), encoding="ascii")

    def save_for_transformers(self, directory: Path) -> None:
        """Write `vocab.json`, `merges.txt` and `tokenizer_config.json`, from which transformers makes the same ids."""
        shown = unicode_of_bytes()
        spell = {piece: "".join(shown[byte] for byte in piece) for piece in self.ranks}
        vocabulary = {spell[piece]: rank for piece, rank in self.ranks.items()} | {END_OF_TEXT: self.end_of_text}
        merges = [f"{spell[left]} {spell[right]}" for left, right in merges_of(self.ranks)]
        (directory / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
        (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
        specials = {f"{role}_token": END_OF_TEXT for role in ("bos", "eos", "unk")}
        config = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False} | specials
        (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


class StreamDecoder:
    """Ids to whole characters: the text of a half-finished UTF-8 character is empty until the character is whole."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode

    def push(self, token: int) -> str:
        """Return the text that this id completes."""
        return self._decode(self._token_bytes(token))

    def finish(self) -> str:
        """Return what is left: U+FFFD for a character that never became whole."""
        return self._decode(b"", True)


def build_tokenizer(
    spec: str,
    texts: Callable[[], Iterable[str]] | None = None,
    on_progress: Callable[[float], None] = lambda share: None,
) -> Tokenizer:
    """Return the tokenizer of a spec: `gpt2`, `bytes`, or `bpe:N`, which is trained on `texts()`.

    A corpus too small for N tokens gives a smaller vocabulary. `on_progress` is told again and again which share of
    the merges is learned; whatever it raises ends the training.

    Raises:
        TokenizerError: the spec is unknown, N is too small or too large, or there is no corpus to train on.
    """
    if spec == "gpt2":
        return Tokenizer(_gpt2_ranks())
    if spec == "bytes":
        return Tokenizer({bytes([byte]): byte for byte in range(256)})
    if (size := bpe_size(spec)) is not None:
        if texts is None:
            raise TokenizerError(f"The tokenizer '{spec}' is trained on a corpus, and there is none here.")
        return Tokenizer(learn_ranks(texts(), size - 1, on_progress))
    raise TokenizerError(f"There is no tokenizer '{spec}'. Known: gpt2, bytes, bpe:N (such as bpe:1024).")


def bpe_size(spec: str) -> int | None:
    """Return N of `bpe:N`, or None for another spec.

    Raises:
        TokenizerError: N is no whole number from 258 to 1,000,000.
    """
    kind, colon, number = spec.partition(":")
    if kind != "bpe":
        return None
    if not (colon and number.isdecimal() and BYTES_SIZE < int(number) <= 1_000_000):
        raise TokenizerError(
            f"The tokenizer '{spec}' cannot be: write bpe:N with N from {BYTES_SIZE + 1} to 1000000 "
            "(256 bytes, the end of text and at least one merge)."
        )
    return int(number)


def vocab_size_of(spec: str) -> int:
    """Return the vocabulary size that a spec asks for, without building anything.

    Raises:
        TokenizerError: the spec is unknown.
    """
    known = {"gpt2": GPT2_SIZE, "bytes": BYTES_SIZE}
    return known.get(spec) or bpe_size(spec) or build_tokenizer(spec).vocab_size


def read_tokenizer(directory: Path) -> Tokenizer | None:
    """Return the tokenizer that a checkpoint directory brings: ours, or a Hugging Face `vocab.json`; None for neither.

    Raises:
        TokenizerError: the file is damaged.
    """
    ours, theirs = directory / FILE_NAME, directory / "vocab.json"
    try:
        if ours.exists():
            return Tokenizer(_parse_tiktoken(ours.read_text(encoding="ascii")))
        if theirs.exists():
            return Tokenizer(_parse_vocabulary(json.loads(theirs.read_text(encoding="utf-8"))))
    except (OSError, ValueError, KeyError, AttributeError, binascii.Error) as error:
        file = ours if ours.exists() else theirs
        raise TokenizerError(
            f"The vocabulary {file} cannot be read ({error}). Copy it again, or name a tokenizer with --tokenizer."
        ) from error
    return None


def tokenizer_for_size(vocab_size: int) -> Tokenizer | None:
    """Return the tokenizer that a vocabulary of this size has when nothing else is said: gpt2, bytes, or None."""
    spec = {GPT2_SIZE: "gpt2", BYTES_SIZE: "bytes"}.get(vocab_size)
    return build_tokenizer(spec) if spec else None


def _parse_tiktoken(text: str) -> dict[bytes, int]:
    ranks = {}
    for line in text.splitlines():
        piece, rank = line.split()
        ranks[base64.b64decode(piece, validate=True)] = int(rank)
    _require_whole(ranks)
    return ranks


def _parse_vocabulary(vocabulary: dict[str, int]) -> dict[bytes, int]:
    byte_of = {shown: byte for byte, shown in unicode_of_bytes().items()}
    special = {END_OF_TEXT}
    ranks = {
        bytes(byte_of[letter] for letter in word): rank for word, rank in vocabulary.items() if word not in special
    }
    ranks = dict(sorted(ranks.items(), key=lambda item: item[1]))
    _require_whole(ranks)
    return ranks


def _require_whole(ranks: dict[bytes, int]) -> None:
    if list(ranks.values()) != list(range(len(ranks))):
        raise ValueError("the ranks are not 0, 1, 2 … in order")
    if any(bytes([byte]) not in ranks for byte in range(256)):
        raise ValueError("some of the 256 bytes have no token")


def _gpt2_ranks() -> dict[bytes, int]:
    """Return GPT-2's ranks from package data: zlib of 50,256 length bytes and then the tokens in rank order."""
    raw = zlib.decompress(resources.files("gpt_model").joinpath("assets/gpt2_ranks.z").read_bytes())
    ranks, start = {}, GPT2_SIZE - 1
    for rank in range(GPT2_SIZE - 1):
        end = start + raw[rank]
        ranks[raw[start:end]] = rank
        start = end
    return ranks


def _without_surrogates(text: str) -> str:
    """Replace lone surrogates, which a terminal can paste and UTF-8 cannot hold; tiktoken would raise on them."""
    return text.encode("utf-8", errors="replace").decode("utf-8")
