"""No repeated n-grams."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from samplers.history import check_scope, out_of, seen
from samplers.stage import Context, Param

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class NoRepeatNgram:
    """Let no run of n tokens come twice: what would complete one that was there is out.

    Paulus, Xiong and Socher 2018, "A Deep Reinforced Model for Abstractive Summarization", arXiv 1705.04304, section
    2.5. n = 1 lets no token come twice. The prompt counts too, as in transformers, unless scope is output. Where
    nothing would be left, the best token is.
    """

    name: ClassVar[str] = "no_repeat_ngram"
    n: Annotated[int, Param(0, 64, 1, off=0, help="tokens of a run; 0 is off")] = 3
    scope: Annotated[str, Param(0, 0, help="which tokens count: output, or all with the prompt")] = "all"
    window: Annotated[int, Param(0, 1_000_000, 1, log=True, help="the last so many of them; 0 is all")] = 0

    def __post_init__(self) -> None:
        check_scope(self.name, self.scope)

    def __call__(self, logits: "Tensor", context: Context) -> "Tensor":
        if self.n <= 0:
            return logits
        tokens = seen(context, self.scope, self.window)  # (B, T)
        if tokens.shape[1] < self.n:
            return logits
        runs = tokens.unfold(1, self.n, 1)  # (B, T - n + 1, n)
        begun = tokens[:, None, tokens.shape[1] - self.n + 1 :]  # (B, 1, n - 1), the run that is being written
        completes = (runs[:, :, :-1] == begun).all(dim=-1)  # (B, T - n + 1)
        return out_of(logits, runs[:, :, -1], completes)
