"""What a model is and how a run trains it: frozen dataclasses and the TOML form of a whole run. Knows no torch."""

import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tomli_w

from gpt_model.config_values import from_table, to_table
from gpt_model.errors import ConfigError

DTYPES = ("auto", "float32", "float16", "bfloat16", "int8", "int4")
"""Precisions in which a model's weights can generate."""


MOST_SAMPLE_TOKENS = 100_000
"""Of a longer sample nobody reads the end, and a model writes on it for hours."""
MOST_THREADS = 1_024
"""No machine has more cores, and more threads than that cannot be started on many."""


def _require(condition: bool, name: str, value: object, sentence: str) -> None:
    if not condition:
        raise ConfigError(f"{name} = {value}: {sentence}.")


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a model: a GPT-2, or with arch = modern another."""

    n_layer: int = 12
    """Transformer blocks."""
    n_head: int = 12
    """Attention heads of a block; divides n_embd."""
    n_embd: int = 768
    """Width of the residual stream."""
    block_size: int = 1024
    """Positions the model has: the longest context, in tokens."""
    vocab_size: int = 50257
    """Token ids the model knows. Set by the tokenizer when a run is created."""
    dropout: float = 0.0
    """Dropout probability in training (embeddings, attention, residuals)."""
    n_inner: int | None = None
    """Width of the MLP's hidden layer; 4 × n_embd when not given, as GPT-2 has it."""
    layer_norm_epsilon: float = 1e-5
    """Added to the variance in every LayerNorm."""
    arch: Literal["gpt2", "modern"] = "gpt2"
    """gpt2, or modern: RoPE, QK-norm, ReLU² and an untied head. A modern model is not a GPT-2 and opens only here."""
    logit_softcap: float = 0.0
    """Logits are pressed between ± this by a tanh; 0 leaves them. Only with arch = modern."""

    def __post_init__(self) -> None:
        for name in ("n_layer", "n_head", "n_embd", "block_size", "vocab_size"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        _require(self.n_inner is None or self.n_inner >= 1, "n_inner", self.n_inner, "must be at least 1")
        _require(
            self.n_embd % self.n_head == 0,
            "n_embd",
            self.n_embd,
            f"must be a multiple of n_head = {self.n_head}, so that every head gets the same width",
        )
        _require(0.0 <= self.dropout < 1.0, "dropout", self.dropout, "must be at least 0 and below 1")
        _require(self.arch in ("gpt2", "modern"), "arch", self.arch, "must be gpt2 or modern")
        _require(0.0 <= self.logit_softcap < math.inf, "logit_softcap", self.logit_softcap, "must not be negative")
        _require(
            self.logit_softcap == 0.0 or self.arch == "modern", "logit_softcap", self.logit_softcap,
            "a GPT-2 has none; set arch to modern",
        )  # fmt: skip
        _require(
            self.arch != "modern" or self.n_embd // self.n_head % 2 == 0, "n_embd", self.n_embd,
            f"a modern model rotates pairs of numbers, so n_embd / n_head = {self.n_embd // self.n_head} must be even",
        )  # fmt: skip
        _require(self.layer_norm_epsilon > 0.0, "layer_norm_epsilon", self.layer_norm_epsilon, "must be above 0")

    @property
    def inner(self) -> int:
        """Width of the MLP's hidden layer."""
        return self.n_inner or 4 * self.n_embd

    @property
    def parameter_count(self) -> int:
        """Trainable numbers, the tied embedding counted once."""
        if self.arch == "modern":  # no positions, biases or gains, and a head of its own
            matrices = 4 * self.n_embd * self.n_embd + 2 * self.n_embd * self.inner
            return 2 * self.vocab_size * self.n_embd + self.n_layer * matrices
        norm = 2 * self.n_embd
        attention = self.n_embd * 3 * self.n_embd + 3 * self.n_embd + self.n_embd * self.n_embd + self.n_embd
        mlp = 2 * self.n_embd * self.inner + self.inner + self.n_embd
        return (self.vocab_size + self.block_size) * self.n_embd + self.n_layer * (2 * norm + attention + mlp) + norm


@dataclass(frozen=True)
class TrainConfig:
    """How a run trains. One step is one optimizer update."""

    batch_size: int = 16
    """Sequences in a step."""
    micro_batch_size: int = 0
    """Sequences computed at once; a step adds up the gradients of so many parts as it takes. 0 computes all at once."""
    sequence_length: int | None = None
    """Tokens in a training sequence; block_size when not given. GPT-2's own preset trains 16 × 128."""
    max_steps: int = 2000
    """The run ends after this many steps, unless target_loss ends it before."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW for every weight, or Muon for the matrices inside the blocks and AdamW for the others."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW."""
    muon_learning_rate: float = 0.02
    """Peak learning rate of Muon; it follows the same schedule."""
    muon_momentum: float = 0.95
    """Muon's decay of its momentum."""
    min_learning_rate: float | None = None
    """Where the schedule ends; a tenth of learning_rate when not given."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises linearly from zero."""
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    """After the warm-up: cosine or linear to the end, warm-up–stable–decay, or constant."""
    decay_fraction: float = 0.2
    """The share of max_steps that the decay of the wsd schedule takes."""
    beta1: float = 0.9
    """AdamW's decay of the first moment."""
    beta2: float = 0.99
    """AdamW's decay of the second moment."""
    weight_decay: float = 0.1
    """Decoupled weight decay of AdamW and of Muon, on matrices only."""
    grad_clip: float = 1.0
    """Largest norm of the gradient; 0 switches clipping off."""
    z_loss: float = 0.0
    """Weight of the squared log-normaliser in the training loss, which keeps logits small. Only with arch = modern."""
    ema_decay: float = 0.0
    """Decay a step of the averaged weights that are evaluated, sampled and saved; 0 keeps no average."""
    zero_init: bool = False
    """Whether the projections that write to the residual stream begin at zero."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """In which matrix products are computed; auto takes bfloat16 where the hardware computes in it and it pays."""
    eval_interval: int = 250
    """Steps between evaluations on the validation split; 0 evaluates at the end only."""
    eval_batches: int = 50
    """Batches of an evaluation: always the same windows, evenly spaced over the validation split."""
    checkpoint_interval: int = 250
    """Steps between checkpoints; 0 saves at the end only."""
    checkpoint_minutes: float = 10.0
    """Minutes of training after which a checkpoint is saved whatever the steps; 0 goes by steps alone."""
    keep_checkpoints: int = 3
    """Newest checkpoints kept beside the best one; 0 keeps all."""
    sample_interval: int = 250
    """Steps between samples of what the model writes; 0 switches them off."""
    sample_prompt: str = "\n"
    """The text that samples continue."""
    sample_tokens: int = 120
    """Tokens of a sample."""
    target_loss: float | None = None
    """The run is finished when the watched loss is at or below this, in nats a token."""
    target_metric: Literal["train", "val"] = "train"
    """The watched loss: the smoothed training loss, or the validation loss."""
    val_fraction: float = 0.1
    """The share of the text kept for validation; 0 trains on everything."""
    val_split: Literal["blocks", "tail"] = "blocks"
    """What is kept: blocks chosen by their own hash, the same when texts are added, or the end of the text."""
    lora_rank: int = 0
    """Rank of the LoRA adapters that AdamW trains in place of all weights, from init on; 0 trains the weights."""
    lora_alpha: float = 16.0
    """The adapters' product is scaled by lora_alpha / lora_rank."""
    seed: int = 1337
    """Initial weights, order of batches, dropout and samples follow from this."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    threads: int = 0
    """CPU threads of a process; 0 leaves the choice to torch."""
    processes: int = 1
    """Processes on this machine that share a step's batch."""
    sharding: Literal["auto", "replicate", "shard"] = "auto"
    """Whether every process holds the whole model (DDP) or a part of it (FSDP); auto shards what does not fit."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_steps", "eval_batches", "processes"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        intervals = ("eval_interval", "checkpoint_interval", "sample_interval", "keep_checkpoints")
        counts = ("warmup_steps", "threads", "sample_tokens", "seed", "micro_batch_size", "lora_rank")
        for name in (*intervals, *counts, "checkpoint_minutes", "z_loss"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "must not be negative")
        length = self.sequence_length
        _require(length is None or length >= 1, "sequence_length", length, "must be at least 1")
        _require(self.seed < 2**63, "seed", self.seed, "must be below 2^63")
        for name, most in (("sample_tokens", MOST_SAMPLE_TOKENS), ("threads", MOST_THREADS)):
            _require(getattr(self, name) <= most, name, getattr(self, name), f"must be at most {most:,}")
        _require(
            self.processes <= self.batch_size, "batch_size", self.batch_size,
            f"{self.processes} processes need at least a sequence each. Set a larger batch_size, or fewer processes",
        )  # fmt: skip
        for name in ("learning_rate", "muon_learning_rate", "lora_alpha"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "must be above 0")
        for name in ("weight_decay", "grad_clip"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "must not be negative")
        for name in ("beta1", "beta2", "val_fraction", "muon_momentum", "ema_decay"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "must be at least 0 and below 1")
        _require(0 < self.decay_fraction <= 1, "decay_fraction", self.decay_fraction, "must be above 0, at most 1")
        rates = ("learning_rate", "min_learning_rate", "muon_learning_rate", "weight_decay", "grad_clip", "z_loss")
        finite = (*rates, "target_loss", "lora_alpha", "checkpoint_minutes")
        for name in finite:
            value = getattr(self, name)
            _require(value is None or math.isfinite(value), name, value, "must be a finite number")
        _require(
            self.target_metric == "train" or self.val_fraction > 0,
            "target_metric",
            self.target_metric,
            "needs a validation split: set val_fraction above 0",
        )
        for name in ("ema_decay", "lora_rank"):
            _require(
                self.sharding != "shard" or not getattr(self, name), name, getattr(self, name),
                "a model that is divided among processes (sharding = shard) has none; set it to 0",
            )  # fmt: skip


@dataclass(frozen=True)
class RunConfig:
    """Everything a run is made of; frozen into its config.toml when it is created."""

    model: ModelConfig
    train: TrainConfig
    files: tuple[str, ...] = ()
    """Paths of the texts, in order, relative ones in the run's directory; none is the corpus that comes with Python."""
    tokenizer: str = "bytes"
    """gpt2, bytes, bpe:N, or checkpoint when init brings its own."""
    init: str | None = None
    """Path of the checkpoint that training starts from, for fine-tuning."""
    parent: str | None = None
    """The run and step that this checkpoint is of, as in shakespeare:1000, where it is one of our runs."""
    preset: str | None = None
    """The preset that this configuration began as."""

    def __post_init__(self) -> None:
        train = self.train
        _require(
            train.z_loss == 0.0 or self.model.arch == "modern", "z_loss", train.z_loss,
            "a GPT-2 is trained on the cross-entropy alone; set arch to modern",
        )  # fmt: skip
        _require(
            train.lora_rank == 0 or self.init is not None, "lora_rank", train.lora_rank,
            "adapters need trained weights to adapt; name a checkpoint with init",
        )  # fmt: skip

    def to_toml(self) -> str:
        """Return the text of config.toml."""
        run: dict[str, Any] = {"files": list(self.files), "tokenizer": self.tokenizer}
        run |= {name: value for name in ("init", "parent", "preset") if (value := getattr(self, name)) is not None}
        return tomli_w.dumps({"run": run, "model": to_table(self.model), "train": to_table(self.train)})

    @classmethod
    def read(cls, path: Path) -> "RunConfig":
        """Read a config.toml.

        Raises:
            ConfigError: the file is missing or damaged, or a key in it is unknown or out of range.
        """
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"The run's configuration {path} cannot be read: {error}.") from error
        run = tables.get("run", {})
        return cls(
            model=from_table(ModelConfig, tables.get("model", {})),
            train=from_table(TrainConfig, tables.get("train", {})),
            files=tuple(run.get("files", ())),
            tokenizer=run.get("tokenizer", "bytes"),
            init=run.get("init"),
            parent=run.get("parent"),
            preset=run.get("preset"),
        )
