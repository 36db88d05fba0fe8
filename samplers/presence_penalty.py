"""Presence penalty."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from samplers.history import check_scope, seen
from samplers.stage import Context, Param

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PresencePenalty:
    """Make tokens that were there less likely, however often: z' = z - q.

    OpenAI's API reference. Below 0 repetition is favoured.
    """

    name: ClassVar[str] = "presence_penalty"
    penalty: Annotated[float, Param(-2.0, 2.0, 0.05, off=0.0, help="taken away once; 0 is off")] = 0.5
    scope: Annotated[str, Param(0, 0, help="which tokens count: output, or all with the prompt")] = "output"
    window: Annotated[int, Param(0, 1_000_000, 1, log=True, help="the last so many of them; 0 is all")] = 0

    def __post_init__(self) -> None:
        check_scope(self.name, self.scope)

    def __call__(self, logits: "Tensor", context: Context) -> "Tensor":
        tokens = seen(context, self.scope, self.window)
        if self.penalty == 0.0 or tokens.shape[1] == 0:
            return logits
        # a token that was there twice is written twice, with the same number
        return logits.scatter(1, tokens, logits.gather(1, tokens) - self.penalty)
