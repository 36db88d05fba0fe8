"""Adaptive-p."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from samplers.stage import Context, Param

if TYPE_CHECKING:
    from torch import Tensor

_PEAK, _SHARPNESS, _WIDTH = 5.0, 10.0, 0.3


@dataclass(frozen=True)
class AdaptiveP:
    """Prefer tokens whose probability is near a target, which moves against what was drawn lately.

    z' = 5 - 10 d² / (1 + d), d = |p - t| / 0.3, t = 2 · target - e held between 0 and 1, e the moving average of the
    probabilities that drawn tokens had before this stage, which begins at the target: e ← decay · e + (1 - decay) · p.
    llama.cpp pull request 17927, where it draws the token itself; here it is a stage as any other. What is out stays
    out. Unlikely tokens, however many, are never far from the target: put a cut such as min_p before it.
    """

    name: ClassVar[str] = "adaptive_p"
    target: Annotated[float, Param(-1.0, 1.0, 0.05, off=-1.0, help="the probability aimed at; below 0 is off")] = 0.5
    decay: Annotated[float, Param(0.0, 0.99, 0.01, help="how long drawn tokens count")] = 0.9

    def start(self) -> float:
        return max(self.target, 0.0)

    def after(self, memory: float, token: int, logits_in: "Tensor", logits_out: "Tensor") -> float:
        p = float(logits_in.double().softmax(dim=-1)[token])
        return self.decay * memory + (1 - self.decay) * p

    def __call__(self, logits: "Tensor", context: Context) -> "Tensor":
        if self.target < 0.0:
            return logits
        target = min(max(2 * self.target - context.memory, 0.0), 1.0)
        distance = (logits.softmax(dim=-1) - target).abs() / _WIDTH
        preferred: Tensor = _PEAK - _SHARPNESS * distance.square() / (1 + distance)
        return preferred.masked_fill(logits == float("-inf"), float("-inf"))
