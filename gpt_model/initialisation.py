"""How a fresh model begins where it does not begin as GPT-2 does."""

import torch

from gpt_model.model import GPT


@torch.no_grad()
def zero_residual_projections(model: GPT) -> None:
    """Set the matrices that write to the residual stream to zero, so that every block begins as the identity.

    Attention's and the MLP's last matrices; Fixup (Zhang et al. 2019, arXiv 1901.09321, section 3) and muP (Yang et
    al. 2022, arXiv 2203.03466, appendix D.2) do so for what each branch ends with.
    """
    for name, parameter in model.named_parameters():
        if name.endswith("c_proj.weight"):
            parameter.zero_()
