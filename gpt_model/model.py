"""GPT: GPT-2's transformer. Pre-LayerNorm blocks of causal self-attention and MLP, learned positions, tied head.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3. Knows no tokenizer, no file.
Shapes: B sequences, T positions, C = n_embd, H = n_head, D = C / H, V = vocab_size.
"""

import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt_model.attention import attend
from gpt_model.config import ModelConfig
from gpt_model.cross_entropy import head_loss, row_losses
from gpt_model.errors import GenerationError
from gpt_model.products import Products


class KVCache:
    """Keys and values of the positions that a model has seen, for every layer."""

    def __init__(self, config: ModelConfig, batch_size: int, device: torch.device, dtype: torch.dtype) -> None:
        head_size = config.n_embd // config.n_head
        shape = (config.n_layer, 2, batch_size, config.n_head, config.block_size, head_size)
        self._store = torch.empty(shape, device=device, dtype=dtype)
        self.length = 0

    @property
    def room(self) -> int:
        """Positions that still fit."""
        return self._store.shape[4] - self.length

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keep keys and values (B, H, T, D) of new positions; return those of all positions (B, H, length + T, D)."""
        end = self.length + keys.shape[2]
        self._store[layer, 0, :, :, self.length : end] = keys
        self._store[layer, 1, :, :, self.length : end] = values
        return self._store[layer, 0, :, :, :end], self._store[layer, 1, :, :, :end]

    def mask(self, new: int) -> Tensor | None:
        """Return which positions `new` positions see, (T, length + T) bool; None if all, or those before each."""
        if not self.length or new == 1:
            return None
        # a run of new positions after old ones: is_causal would align it to the wrong corner
        return torch.ones(new, self.length + new, dtype=torch.bool, device=self._store.device).tril(self.length)

    def positions(self, new: int) -> Tensor:
        """Return the numbers (T,) of `new` positions."""
        return torch.arange(self.length, self.length + new, device=self._store.device)

    def expand(self, batch_size: int) -> Self:
        """Return a cache in which the one sequence of this one stands `batch_size` times."""
        wide = object.__new__(type(self))
        wide._store = self._store.expand(-1, -1, batch_size, -1, -1, -1).clone()
        wide.length = self.length
        return wide

    def select(self, rows: list[int]) -> Self:
        """Return a cache of these of its sequences; one may be named several times."""
        chosen = object.__new__(type(self))
        chosen._store = self._store[:, :, rows]
        chosen.length = self.length
        return chosen


class Dropout(nn.Module):
    """Zeros in random places of what passes, in training; what is left is multiplied so that the mean stays."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.drop: Callable[[Tensor, float], Tensor] = F.dropout
        """Whoever trains may put a faster one here."""

    def forward(self, hidden: Tensor) -> Tensor:
        return self.drop(hidden, self.share) if self.training and self.share else hidden


class Linear(nn.Linear):
    """A linear layer."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.product: Callable[[Tensor, Tensor, Tensor | None], Tensor] = F.linear
        """Whoever trains may put a faster one here."""

    def forward(self, hidden: Tensor) -> Tensor:
        return self.product(hidden, self.weight, self.bias)


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a position sees itself and what came before it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd)  # queries, keys and values in one product
        self.c_proj = Linear(config.n_embd, config.n_embd)
        self.resid_dropout = Dropout(config.dropout)
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.linear_attend = linear_attend
        """Whoever trains may put a faster one here."""

    def forward(self, hidden: Tensor, layer: int, cache: KVCache | None) -> Tensor:
        if cache is None:
            mixed = self.linear_attend(self.c_attn, hidden, self.n_head, self.dropout if self.training else 0.0)
        else:
            query, key, value = split_heads(self.c_attn(hidden), self.n_head)
            mask = cache.mask(hidden.shape[1])
            key, value = cache.append(layer, key, value)  # (B, H, length + T, D)
            mixed = join_heads(attend(query, key, value, mask, 0.0))
        return self.resid_dropout(self.c_proj(mixed))  # type: ignore[no-any-return]


def linear_attend(layer: nn.Module, hidden: Tensor, n_head: int, dropout: float) -> Tensor:
    """Return what the heads (B, T, C) mix of the queries, keys and values that a layer makes of hidden (B, T, C)."""
    return attend_to_all(layer(hidden), n_head, dropout)


def attend_to_all(product: Tensor, n_head: int, dropout: float) -> Tensor:
    """Return what the heads (B, T, C) mix where queries, keys and values (B, T, 3 C) are of all positions."""
    return join_heads(attend(*split_heads(product, n_head), None, dropout))


def split_heads(product: Tensor, n_head: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values (B, H, T, D) of (B, T, 3 C)."""
    B, T, width = product.shape
    query, key, value = product.view(B, T, 3, n_head, width // (3 * n_head)).permute(2, 0, 3, 1, 4)
    return query, key, value


def join_heads(mixed: Tensor) -> Tensor:
    """Return (B, T, C) of (B, H, T, D)."""
    return mixed.transpose(1, 2).flatten(2)


def linear_gelu(layer: nn.Module, hidden: Tensor) -> Tensor:
    """Return GELU of a layer's output, in its tanh approximation, as GPT-2 was trained."""
    return F.gelu(layer(hidden), approximate="tanh")


class MLP(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.c_fc = Linear(config.n_embd, config.inner)
        self.c_proj = Linear(config.inner, config.n_embd)
        self.dropout = Dropout(config.dropout)
        self.linear_gelu = linear_gelu
        """Whoever trains may put a faster one here."""

    def forward(self, hidden: Tensor) -> Tensor:
        return self.dropout(self.c_proj(self.linear_gelu(self.c_fc, hidden)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and MLP, each on a normalised copy of the residual stream and added to it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(self, hidden: Tensor, layer: int, cache: KVCache | None) -> Tensor:
        hidden = hidden + self.attn(self.ln_1(hidden), layer, cache)
        return hidden + self.mlp(self.ln_2(hidden))  # type: ignore[no-any-return]


class GPT(nn.Module):
    """A GPT-2. Its parameters bear the names of Hugging Face's `transformer.*`, so that checkpoints need no map.

    `architectures.build_model` makes the model of a configuration, which may be another than this one.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        # Whoever trains or scores may put faster ones here.
        self.products = Products()
        self.row_losses = row_losses
        self._build(config)
        self._initialise()

    def _build(self, config: ModelConfig) -> None:
        """Make the modules."""
        self.wte = token_table(config.vocab_size, config.n_embd)  # also the head: tied
        self.wpe = token_table(config.block_size, config.n_embd)
        self.drop = Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.wte.weight.device

    def _initialise(self) -> None:
        """Normal of standard deviation 0.02, and of 0.02 / √(2 n_layer) where a layer writes to the residual stream.

        GPT-2's paper, section 2.3: the residual weights are scaled by 1/√N, N being the number of residual layers.
        """
        if self.wte.weight.is_meta:
            return
        residual = 0.02 / math.sqrt(2 * self.config.n_layer)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=residual if name.endswith("c_proj") else 0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def new_cache(self, batch_size: int = 1) -> KVCache:
        """Return an empty cache for sequences of up to block_size tokens."""
        return KVCache(self.config, batch_size, self.device, self.wte.weight.dtype)

    def hidden(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """Return the last block's normalised output (B, T, C) for ids (B, T), which follow what is in the cache.

        Raises:
            GenerationError: the sequence is longer than block_size.
        """
        positions = self._positions(ids, cache)
        hidden = self.drop(self.wte(ids) + self.wpe(positions))  # (B, T, C)
        for layer, block in enumerate(self.h):
            hidden = block(hidden, layer, cache)
        if cache is not None:
            cache.length += ids.shape[1]
        normalised: Tensor = self.ln_f(hidden)
        return normalised

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits (…, V) of the normalised output (…, C) of the last block."""
        return self.products.linear(hidden, self.wte.weight)

    def forward(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """Return logits (B, T, V) for ids (B, T) int64.

        Raises:
            GenerationError: the sequence is longer than block_size.
        """
        return self.logits(self.hidden(ids, cache))

    def next_logits(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """Return the logits (B, V) float32 of the token after ids (B, T): the head sees the last position only."""
        return self.logits(self.hidden(ids, cache)[:, -1]).float()

    def read(self, ids: Tensor, cache: KVCache | None = None) -> tuple[Tensor, Tensor]:
        """Return the last block's normalised output (B, T, C) float32, and what `next_logits` returns.

        Raises:
            GenerationError: the sequence is longer than block_size.
        """
        hidden = self.hidden(ids, cache)
        return hidden.float(), self.logits(hidden[:, -1]).float()

    def loss(self, ids: Tensor, targets: Tensor, z_loss: float = 0.0) -> Tensor:
        """Return the mean cross-entropy, in nats a token, of targets (B, T) after ids (B, T); see head_loss."""
        return head_loss(
            self.hidden(ids).flatten(0, 1), self.wte.weight, targets.flatten(), z_loss,
            products=self.products, row_losses=self.row_losses,
        )  # fmt: skip

    def _positions(self, ids: Tensor, cache: KVCache | None) -> Tensor:
        """Return the numbers (T,) of the positions that ids (B, T) take.

        Raises:
            GenerationError: there are not so many.
        """
        T, past = ids.shape[1], cache.length if cache is not None else 0
        if past + T > self.config.block_size:
            raise GenerationError(f"{past + T} tokens do not fit: this model has {self.config.block_size} positions.")
        return torch.arange(T, device=ids.device) if cache is None else cache.positions(T)


def token_table(rows: int, width: int) -> nn.Embedding:
    """Return an embedding of `rows` vectors."""
    empty = torch.empty(rows, width)
    # On the meta device nothing is drawn; there the attempt imports a second's worth of Python.
    return nn.Embedding(rows, width, _weight=empty) if empty.is_meta else nn.Embedding(rows, width)
