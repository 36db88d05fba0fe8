"""Banned words."""

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from samplers.errors import ChainError
from samplers.stage import Context, Param, Vocabulary

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class BannedWords:
    """Keep words from being written: the token that would complete one is out.

    Words stand between bars, `banned_words=sir|madam`, and are banned as they are and with a space before them, each
    in the tokens that the tokenizer makes of it, as transformers' bad_words_ids are. A word of several tokens loses its
    last one where the others end the text. Where nothing would be left, the row stays as it is.
    """

    name: ClassVar[str] = "banned_words"
    words: Annotated[str, Param(0, 0, help="words between bars; empty is off")] = ""

    def __call__(self, logits: "Tensor", context: Context) -> "Tensor":
        if not self.words:
            return logits
        if context.vocabulary is None:
            raise ChainError("banned_words needs a tokenizer, and this model has none: use logit_bias with ids")
        vocabulary: Any = context.vocabulary
        words = _sequences(vocabulary, self.words)
        longest = max((len(word) for word in words), default=1)
        left = logits.clone()
        for row, tokens in enumerate(context.tokens[:, -longest:].tolist()):
            out = [
                last
                for *begun, last in words
                if last < logits.shape[-1] and (not begun or tokens[-len(begun) :] == begun)
            ]
            left[row, out] = -math.inf
        return left.where(left.amax(dim=-1, keepdim=True) > -math.inf, logits)


@functools.lru_cache(maxsize=64)
def _sequences(vocabulary: Vocabulary, words: str) -> tuple[tuple[int, ...], ...]:
    """Return the tokens of each word, as it is and with a space before it."""
    texts = [text for word in words.split("|") if word for text in (word, word if word[0] == " " else f" {word}")]
    return tuple(dict.fromkeys(tuple(vocabulary.encode(text)) for text in texts))
