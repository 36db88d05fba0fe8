"""Sharpen: a stage is a frozen dataclass; its fields are its parameters."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from samplers import Context, Param

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Sharpen:
    """Raise every probability to a power: z' = power · z, the inverse of a temperature."""

    name: ClassVar[str] = "sharpen"
    power: Annotated[float, Param(0.1, 10.0, 0.1, off=1.0, help="above 1 the likely gets likelier; 1 is off")] = 2.0

    def __call__(self, logits: "Tensor", context: Context) -> "Tensor":
        return logits * self.power  # a new tensor: what is given must stay as it is
