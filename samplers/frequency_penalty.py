"""Frequency penalty."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from samplers.history import check_scope, seen
from samplers.stage import Context, Param

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FrequencyPenalty:
    """Make tokens less likely each time they come: z' = z - f · count.

    OpenAI's API reference. Below 0 repetition is favoured.
    """

    name: ClassVar[str] = "frequency_penalty"
    penalty: Annotated[float, Param(-2.0, 2.0, 0.05, off=0.0, help="taken away for each time; 0 is off")] = 0.5
    scope: Annotated[str, Param(0, 0, help="which tokens count: output, or all with the prompt")] = "output"
    window: Annotated[int, Param(0, 1_000_000, 1, log=True, help="the last so many of them; 0 is all")] = 0

    def __post_init__(self) -> None:
        check_scope(self.name, self.scope)

    def __call__(self, logits: "Tensor", context: Context) -> "Tensor":
        tokens = seen(context, self.scope, self.window)
        if self.penalty == 0.0 or tokens.shape[1] == 0:
            return logits
        counts = logits.new_zeros(logits.shape).scatter_add(1, tokens, logits.new_ones(tokens.shape))
        return logits - self.penalty * counts
