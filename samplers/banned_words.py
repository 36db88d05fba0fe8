"""Banned words."""

import functools
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from samplers.errors import ChainError
from samplers.escapes import unescaped
from samplers.history import never_empty
from samplers.same import Same
from samplers.stage import Context, Param

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class BannedWords:
    """Keep words from being written: the token that would complete one is out.

    Words stand between bars or newlines, `banned_words=sir|madam`, and are banned as they are and with a space before
    them, each in the tokens that the tokenizer makes of it, as transformers' bad_words_ids are: spelt in other tokens
    they pass, and where one is a single token, so does no longer word that begins with it. A word of several tokens
    loses its last one where the others end the text. Where nothing would be left, the best token is.
    """

    name: ClassVar[str] = "banned_words"
    words: Annotated[str, Param(0, 0, help=r"words between bars, \n in one is a newline; empty is off")] = ""

    def __call__(self, logits: "Tensor", context: Context) -> "Tensor":
        if not self.words:
            return logits
        if context.vocabulary is None:
            raise ChainError("banned_words needs a tokenizer, and this model has none: use logit_bias with ids")
        words = _sequences(Same(context.vocabulary), self.words)
        longest = max((len(word) for word in words), default=1)
        left = logits.clone()
        for row, tokens in enumerate(context.tokens[:, -longest:].tolist()):
            out = [
                last
                for *begun, last in words
                if last < logits.shape[-1] and (not begun or tokens[-len(begun) :] == begun)
            ]
            left[row, out] = -math.inf
        return never_empty(left, logits)


@functools.lru_cache(maxsize=64)
def _sequences(key: Same, words: str) -> tuple[tuple[int, ...], ...]:
    """Return the tokens of each word, as it is and with a space before it."""
    plain = [unescaped(word) for word in re.split(r"[|\n]", words) if word]
    texts = [text for word in plain for text in (word, word if word[0] == " " else f" {word}")]
    sequences = dict.fromkeys(tuple(key.vocabulary.encode(text)) for text in texts)
    return tuple(sequence for sequence in sequences if sequence)
