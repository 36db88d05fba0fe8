"""ModernGPT: a transformer as it is trained today, with GPT's interface. It is not a GPT-2 and opens only here.

What differs from model.py, and where it comes from:

- Positions are rotations of queries and keys (RoPE: Su et al. 2021, arXiv 2104.09864), not learned vectors.
- Queries and keys are normalised in every head, so that attention cannot saturate (Henry et al. 2020, arXiv 2010.04245;
  with LayerNorm as here: Dehghani et al. 2023, arXiv 2302.05442, section 2).
- The MLP's activation is ReLU² (So et al. 2021, arXiv 2109.08668, section 4).
- The head is a matrix of its own, and its logits may be pressed between ± logit_softcap by a tanh (Gemma 2: arXiv
  2408.00118, section 2).
- No layer has a bias, and every norm is LayerNorm without gain or bias (OLMo: Groeneveld et al. 2024, arXiv 2402.00838,
  section 2.1): the matrix behind a norm can learn its gain. RMSNorm would do as well; on a CPU, where torch has no
  kernel for it, it takes four times as long.

Knows no tokenizer, no file. Shapes as in model.py.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt_model.attention import attend
from gpt_model.config import ModelConfig
from gpt_model.cross_entropy import head_loss
from gpt_model.model import GPT, Dropout, KVCache, Linear, token_table

ROPE_BASE = 10_000.0
"""Of the rotations' wavelengths, as in the paper, section 3.2.2."""
Rotation = tuple[Tensor, Tensor]
"""Cosines and sines (T, D / 2) of the angles by which each position turns each pair of numbers."""


class ModernAttention(nn.Module):
    """Multi-head causal attention on normalised and rotated queries and keys."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd, bias=False)
        self.c_proj = Linear(config.n_embd, config.n_embd, bias=False)
        self.resid_dropout = Dropout(config.dropout)
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.epsilon = config.layer_norm_epsilon

    def forward(self, hidden: Tensor, rotation: Rotation, layer: int, cache: KVCache | None) -> Tensor:
        B, T, C = hidden.shape
        query, key, value = (
            part.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)  # (B, H, T, D)
            for part in self.c_attn(hidden).split(C, dim=2)
        )
        query, key = (rotate(normalise(part, self.epsilon), rotation).to(value.dtype) for part in (query, key))
        mask = None
        if cache is not None:
            mask = cache.mask(T)
            key, value = cache.append(layer, key, value)  # (B, H, length + T, D)
        mixed = attend(query, key, value, mask, self.dropout if self.training else 0.0)  # (B, H, T, D)
        return self.resid_dropout(self.c_proj(mixed.transpose(1, 2).reshape(B, T, C)))  # type: ignore[no-any-return]


class ModernMLP(nn.Module):
    """Two linear layers with ReLU² between."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.c_fc = Linear(config.n_embd, config.inner, bias=False)
        self.c_proj = Linear(config.inner, config.n_embd, bias=False)
        self.dropout = Dropout(config.dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.dropout(self.c_proj(F.relu(self.c_fc(hidden)).square()))  # type: ignore[no-any-return]


class ModernBlock(nn.Module):
    """Attention and MLP, each on a normalised copy of the residual stream and added to it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attn = ModernAttention(config)
        self.mlp = ModernMLP(config)
        self.epsilon = config.layer_norm_epsilon

    def forward(self, hidden: Tensor, rotation: Rotation, layer: int, cache: KVCache | None) -> Tensor:
        hidden = hidden + self.attn(normalise(hidden, self.epsilon), rotation, layer, cache)
        return hidden + self.mlp(normalise(hidden, self.epsilon))  # type: ignore[no-any-return]


class ModernGPT(GPT):
    """A modern transformer, in the place of a GPT wherever one is trained or generates in torch."""

    def _build(self, config: ModelConfig) -> None:
        self.wte = token_table(config.vocab_size, config.n_embd)
        self.drop = Dropout(config.dropout)
        self.h = nn.ModuleList(ModernBlock(config) for _ in range(config.n_layer))
        self.lm_head = Linear(config.n_embd, config.vocab_size, bias=False)

    def hidden(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """Return the last block's normalised output (B, T, C) for ids (B, T), which follow what is in the cache.

        Raises:
            GenerationError: the sequence is longer than block_size.
        """
        rotation = rotation_of(self._positions(ids, cache), self.config.n_embd // self.config.n_head)
        hidden = self.drop(self.wte(ids))  # (B, T, C)
        for layer, block in enumerate(self.h):
            hidden = block(hidden, rotation, layer, cache)
        if cache is not None:
            cache.length += ids.shape[1]
        return normalise(hidden, self.config.layer_norm_epsilon)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits (…, V) of the normalised output (…, C) of the last block."""
        logits: Tensor = self.lm_head(hidden)
        cap = self.config.logit_softcap
        return cap * torch.tanh(logits.float() / cap) if cap else logits

    def loss(self, ids: Tensor, targets: Tensor, z_loss: float = 0.0) -> Tensor:
        """Return the mean cross-entropy, in nats a token, of targets (B, T) after ids (B, T); see head_loss."""
        hidden, cap = self.hidden(ids).flatten(0, 1), self.config.logit_softcap
        weight, targets = self.lm_head.weight, targets.flatten()
        return head_loss(hidden, weight, targets, z_loss, cap, self.products, self.row_losses)


def normalise(values: Tensor, epsilon: float) -> Tensor:
    """Return each vector (…, D) with mean 0 and variance 1."""
    return F.layer_norm(values, values.shape[-1:], eps=epsilon)


def rotation_of(positions: Tensor, head_size: int) -> Rotation:
    """Return the rotation of positions (T,) for heads of an even size.

    It is computed where it is needed: a table kept by the model would have to be moved, sharded and left out of files.
    """
    pairs = torch.arange(0, head_size, 2, device=positions.device, dtype=torch.float32)
    angles = positions[:, None].float() * ROPE_BASE ** (-pairs / head_size)  # (T, D / 2)
    return angles.cos(), angles.sin()


def rotate(vectors: Tensor, rotation: Rotation) -> Tensor:
    """Return vectors (B, H, T, D) with the numbers d and d + D / 2 of each turned by the d-th angle of its position."""
    cosines, sines = rotation
    left, right = vectors.chunk(2, dim=-1)
    return torch.cat((left * cosines - right * sines, right * cosines + left * sines), dim=-1)
