"""The formula; the contract is `pytest --gpt-tui-stage gpt_tui_sharpen.sharpen:Sharpen`."""

import torch
from gpt_tui_sharpen.sharpen import Sharpen

from samplers import Context


def test_probabilities_are_raised_to_a_power() -> None:
    logits = torch.tensor([[1.0, 0.0, -2.0]])
    sharpened = Sharpen(2.0)(logits, Context(torch.zeros(1, 0, dtype=torch.long), 0)).softmax(-1)
    raised = logits.softmax(-1) ** 2
    torch.testing.assert_close(sharpened, raised / raised.sum())
