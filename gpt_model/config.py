"""What a model is and how a run trains it: frozen dataclasses, their TOML form, presets. Knows no torch."""

import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import tomli_w

from gpt_model.errors import ConfigError, did_you_mean

DTYPES = ("auto", "float32", "float16", "bfloat16", "int8", "int4")
"""Precisions in which a model's weights can generate."""


def _require(condition: bool, name: str, value: object, sentence: str) -> None:
    if not condition:
        raise ConfigError(f"{name} = {value}: {sentence}.")


ConfigType = TypeVar("ConfigType", "ModelConfig", "TrainConfig")


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a GPT-2."""

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
        _require(self.layer_norm_epsilon > 0.0, "layer_norm_epsilon", self.layer_norm_epsilon, "must be above 0")

    @property
    def inner(self) -> int:
        """Width of the MLP's hidden layer."""
        return self.n_inner or 4 * self.n_embd

    @property
    def parameter_count(self) -> int:
        """Trainable numbers, the tied embedding counted once."""
        norm = 2 * self.n_embd
        attention = self.n_embd * 3 * self.n_embd + 3 * self.n_embd + self.n_embd * self.n_embd + self.n_embd
        mlp = 2 * self.n_embd * self.inner + self.inner + self.n_embd
        return (self.vocab_size + self.block_size) * self.n_embd + self.n_layer * (2 * norm + attention + mlp) + norm


@dataclass(frozen=True)
class TrainConfig:
    """How a run trains. One step is one optimizer update."""

    batch_size: int = 16
    """Sequences in a step."""
    sequence_length: int | None = None
    """Tokens in a training sequence; block_size when not given. GPT-2's own preset trains 16 × 128."""
    max_steps: int = 2000
    """The run ends after this many steps, unless target_loss ends it before."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW."""
    min_learning_rate: float | None = None
    """Where the schedule ends; a tenth of learning_rate when not given."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises linearly from zero."""
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    """After the warm-up: cosine to the end, warm-up–stable–decay, or constant."""
    decay_fraction: float = 0.2
    """The share of max_steps that the decay of the wsd schedule takes."""
    beta1: float = 0.9
    """AdamW's decay of the first moment."""
    beta2: float = 0.99
    """AdamW's decay of the second moment."""
    weight_decay: float = 0.1
    """AdamW's decoupled weight decay, on matrices only."""
    grad_clip: float = 1.0
    """Largest norm of the gradient; 0 switches clipping off."""
    eval_interval: int = 250
    """Steps between evaluations on the validation split; 0 evaluates at the end only."""
    eval_batches: int = 50
    """Batches of an evaluation: always the same windows, evenly spaced over the validation split."""
    checkpoint_interval: int = 250
    """Steps between checkpoints; 0 saves at the end only."""
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
    """The share of the text's end kept for validation; 0 trains on everything."""
    seed: int = 1337
    """Initial weights, order of batches, dropout and samples follow from this."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    threads: int = 0
    """CPU threads; 0 leaves the choice to torch."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_steps", "eval_batches"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        intervals = ("eval_interval", "checkpoint_interval", "sample_interval", "keep_checkpoints")
        for name in (*intervals, "warmup_steps", "threads", "sample_tokens", "seed"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "must not be negative")
        _require(self.sequence_length is None or self.sequence_length >= 1, "sequence_length", 0, "must be at least 1")
        _require(self.learning_rate > 0, "learning_rate", self.learning_rate, "must be above 0")
        for name in ("weight_decay", "grad_clip"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "must not be negative")
        for name in ("beta1", "beta2", "val_fraction"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "must be at least 0 and below 1")
        _require(0 < self.decay_fraction <= 1, "decay_fraction", self.decay_fraction, "must be above 0, at most 1")
        for name in ("learning_rate", "min_learning_rate", "weight_decay", "grad_clip", "target_loss"):
            value = getattr(self, name)
            _require(value is None or math.isfinite(value), name, value, "must be a finite number")
        _require(
            self.target_metric == "train" or self.val_fraction > 0,
            "target_metric",
            self.target_metric,
            "needs a validation split: set val_fraction above 0",
        )


@dataclass(frozen=True)
class RunConfig:
    """Everything a run is made of; frozen into its config.toml when it is created."""

    model: ModelConfig
    train: TrainConfig
    files: tuple[str, ...] = ()
    """Absolute paths of the texts, in order; none means the corpus that comes with Python."""
    tokenizer: str = "bytes"
    """gpt2, bytes, bpe:N, or checkpoint when init brings its own."""
    init: str | None = None
    """Path of the checkpoint that training starts from, for fine-tuning."""
    preset: str | None = None
    """The preset that this configuration began as."""

    def to_toml(self) -> str:
        """Return the text of config.toml."""
        run: dict[str, Any] = {"files": list(self.files), "tokenizer": self.tokenizer}
        run |= {name: value for name in ("init", "preset") if (value := getattr(self, name)) is not None}
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
            preset=run.get("preset"),
        )


@dataclass(frozen=True)
class Preset:
    """A named starting point: a model's shape, a way to train it, and the tokenizer it expects."""

    summary: str
    tokenizer: str
    model: ModelConfig
    train: TrainConfig = field(default_factory=TrainConfig)


_LARGE = TrainConfig(batch_size=16, sequence_length=128, max_steps=100_000, learning_rate=3e-4, beta2=0.95,
                     eval_interval=500, checkpoint_interval=500, sample_interval=500, target_loss=0.099999)  # fmt: skip

PRESETS: Mapping[str, Preset] = types.MappingProxyType({
    "gpt-micro": Preset(
        "0.8 M, bytes: learns to spell and rhyme in two minutes on two CPU cores",
        "bytes",
        ModelConfig(n_layer=4, n_head=4, n_embd=128, block_size=64, vocab_size=257),
        TrainConfig(batch_size=12),
    ),
    "gpt-mini": Preset(
        "2.9 M, own vocabulary of 1,024: words and lines in half an hour on two CPU cores",
        "bpe:1024",
        ModelConfig(n_layer=6, n_head=6, n_embd=192, block_size=256, vocab_size=1024, dropout=0.1),
        TrainConfig(batch_size=16, sequence_length=128, max_steps=5000),
    ),
    "gpt-baby": Preset(
        "10.8 M, bytes: nanoGPT's baby, minutes on a GPU, a night on a CPU",
        "bytes",
        ModelConfig(n_layer=6, n_head=6, n_embd=384, block_size=256, vocab_size=257, dropout=0.2),
        TrainConfig(batch_size=64, max_steps=5000),
    ),
    "gpt2": Preset("124 M: GPT-2, for a GPU or for patience", "gpt2", ModelConfig(), _LARGE),
    "gpt2-medium": Preset("355 M", "gpt2", ModelConfig(n_layer=24, n_head=16, n_embd=1024), _LARGE),
    "gpt2-large": Preset("774 M", "gpt2", ModelConfig(n_layer=36, n_head=20, n_embd=1280), _LARGE),
    "gpt2-xl": Preset("1,558 M", "gpt2", ModelConfig(n_layer=48, n_head=25, n_embd=1600), _LARGE),
})  # fmt: skip


def load_preset(name: str) -> Preset:
    """Return the preset of that name.

    Raises:
        ConfigError: there is none; the nearest name is in the message.
    """
    if name not in PRESETS:
        raise ConfigError(f"There is no preset '{name}'.{did_you_mean(name, PRESETS)}")
    return PRESETS[name]


def apply_settings(
    model: ModelConfig, train: TrainConfig, settings: Mapping[str, str]
) -> tuple[ModelConfig, TrainConfig]:
    """Return both configurations with the named fields replaced by values parsed from text (`--set name=value`).

    Raises:
        ConfigError: a name is unknown (the nearest one is in the message), or a value has the wrong type or range.
    """
    of_model, of_train = field_types(ModelConfig), field_types(TrainConfig)
    model_changes: dict[str, Any] = {}
    train_changes: dict[str, Any] = {}
    for name, text in settings.items():
        if name in of_model:
            model_changes[name] = parse_value(name, text, of_model[name])
        elif name in of_train:
            train_changes[name] = parse_value(name, text, of_train[name])
        else:
            raise ConfigError(
                f"There is no option '{name}' of a model or a run.{did_you_mean(name, {**of_model, **of_train})}"
            )
    return dataclasses.replace(model, **model_changes), dataclasses.replace(train, **train_changes)


def field_types(config_class: type) -> dict[str, Any]:
    """Return the fields of a configuration dataclass with their types, in order."""
    hints = typing.get_type_hints(config_class)
    return {each.name: hints[each.name] for each in dataclasses.fields(config_class)}


def parse_value(name: str, text: str, kind: Any) -> Any:
    """Return `text` as a value of `kind` (int, float, bool, str, a Literal, or one of them or None).

    Raises:
        ConfigError: it is not such a value.
    """
    options = typing.get_args(kind)
    if typing.get_origin(kind) is Literal:
        if text not in options:
            raise ConfigError(f"{name} = {text}: must be one of {', '.join(options)}.")
        return text
    if type(None) in options:
        if text.strip().lower() in ("", "none"):
            return None
        (kind,) = (each for each in options if each is not type(None))
    if kind is bool:
        words = {
            "true": True,
            "yes": True,
            "on": True,
            "1": True,
            "false": False,
            "no": False,
            "off": False,
            "0": False,
        }
        if text.strip().lower() not in words:
            raise ConfigError(f"{name} = {text}: must be true or false.")
        return words[text.strip().lower()]
    try:
        if kind is int:
            number = float(text.replace("_", ""))  # so that 2e3 is two thousand steps
            if number != int(number):
                raise ValueError
            return int(text.replace("_", "")) if text.replace("_", "").lstrip("+-").isdigit() else int(number)
        return kind(text)
    except (ValueError, OverflowError):
        what = {int: "a whole number", float: "a number"}.get(kind, kind.__name__)
        raise ConfigError(f"{name} = {text}: must be {what}.") from None


def to_table(config: ModelConfig | TrainConfig) -> dict[str, Any]:
    """Return a configuration as a TOML table; what is None is left out."""
    return {name: value for name, value in dataclasses.asdict(config).items() if value is not None}


def from_table(config_class: type[ConfigType], table: Mapping[str, Any]) -> ConfigType:
    """Return a configuration from a TOML table.

    Raises:
        ConfigError: a key is unknown (the nearest one is in the message) or a value has the wrong type or range.
    """
    known = field_types(config_class)
    values = {}
    for name, value in table.items():
        if name not in known:
            raise ConfigError(f"There is no option '{name}' in a {config_class.__name__}.{did_you_mean(name, known)}")
        values[name] = parse_value(name, str(value), known[name])
    return config_class(**values)
