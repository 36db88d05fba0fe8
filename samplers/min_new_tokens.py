"""Minimum length."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from samplers.history import never_empty
from samplers.stage import Context, Param

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class MinNewTokens:
    """Let no text end before it has so many tokens: the end of text is out until then.

    As transformers' min_new_tokens. Where nothing else is left, it stays. Without a vocabulary nothing ends a text.
    """

    name: ClassVar[str] = "min_new_tokens"
    n: Annotated[int, Param(0, 1_000_000, 1, off=0, log=True, help="tokens before the text may end; 0 is off")] = 0

    def __call__(self, logits: "Tensor", context: Context) -> "Tensor":
        written = context.tokens.shape[1] - context.prompt_length
        if written >= self.n or context.vocabulary is None:
            return logits
        end = context.vocabulary.end_of_text
        if not 0 <= end < logits.shape[-1]:
            return logits
        longer = logits.clone()
        longer[:, end] = float("-inf")
        return never_empty(longer, logits)
