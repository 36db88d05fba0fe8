"""From what a person says to a run's configuration: for the command line and the form alike. Imports no torch."""

import dataclasses
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt_model.config import ModelConfig, RunConfig, TrainConfig
from gpt_model.config_values import apply_settings
from gpt_model.corpus import Document, find_documents
from gpt_model.errors import ConfigError, DataError
from gpt_model.huggingface_config import read_model_config
from gpt_model.pickled_shape import read_pickled_shape
from gpt_model.presets import load_preset
from gpt_model.runs import Run
from gpt_model.splitting import Split
from gpt_model.tokenizer import read_tokenizer, tokenizer_for_size, vocab_size_of
from gpt_tui.checkpoint_names import resolve_checkpoint
from gpt_tui.locations import Locations

_SHAPE = ("n_layer", "n_head", "n_embd", "n_inner", "block_size", "vocab_size", "layer_norm_epsilon", "arch",
          "logit_softcap")  # fmt: skip
_FINE_TUNING = TrainConfig(batch_size=16, sequence_length=128, learning_rate=1e-4)
"""How a checkpoint is trained on when no preset says how: at a rate that does not undo what it has learned."""
_LORA_LEARNING_RATE = 1e-3
"""Adapters take ten times what the weights do (Schulman et al. 2025, "LoRA Without Regret")."""
_CPU_FLOPS = 45e9
"""Useful operations a second of one core at training's matrices, for the estimate; measured on AVX2 servers."""
_GPU_FLOPS = 40e12
_SHORT_TEXT = 1 << 20
"""Bytes above which no text is too short for a sequence, so that it need not be read to know."""
_STEP_OVERHEAD = 0.01
"""Seconds a step costs on a CPU beside the arithmetic: small operators, the optimizer."""


@dataclass(frozen=True)
class RunPlan:
    """A configuration, and what there is to say about it."""

    config: RunConfig
    notes: tuple[str, ...]


def plan_run(
    files: Sequence[str | Path],
    preset: str | None,
    tokenizer: str | None,
    sets: Mapping[str, str],
    target_loss: str | float | None,
    init: str | None,
    locations: Locations,
) -> RunPlan:
    """Return the configuration of a new run; nothing is written.

    Without a preset the default fits the machine: gpt-micro on a CPU, gpt2 on a GPU. A checkpoint to start from is
    then trained with a small learning rate.

    Raises:
        ConfigError: an option is unknown, out of range, or contradicts the checkpoint to start from.
        DataError: a text is missing or empty.
        CheckpointError: `init` names no checkpoint.
        TokenizerError: the tokenizer is unknown.
    """
    has_gpu = _has_gpu()
    chosen = preset or ("gpt2" if has_gpu else "gpt-micro")
    start = load_preset(chosen)
    notes = []
    model, train = start.model, start.train
    if "vocab_size" in sets:
        raise ConfigError("vocab_size is the tokenizer's: choose it with --tokenizer, such as bpe:1024.")
    checkpoint = None
    if init:
        checkpoint = resolve_checkpoint(init, locations)
        model = _shape_of(checkpoint.path)
        train = train if preset else _FINE_TUNING
        asked, _ = apply_settings(model, train, sets)
        contradicting = [name for name in sets if name in _SHAPE and getattr(asked, name) != getattr(model, name)]
        own = read_tokenizer(checkpoint.path) or tokenizer_for_size(model.vocab_size)
        if own is None and tokenizer is None:
            raise ConfigError(f"The checkpoint '{init}' brings no tokenizer: name one with --tokenizer gpt2 or bytes.")
        if contradicting or (own is not None and tokenizer not in (None, own.name)):
            what = contradicting[0] if contradicting else "tokenizer"
            raise ConfigError(f"{what} is fixed by the checkpoint '{init}' that this run starts from; leave it out.")
        spec = "checkpoint" if own is not None or tokenizer is None else tokenizer
        notes.append(f"Starts from {checkpoint.label}, with its shape{' and its tokenizer' if own else ''}.")
        if preset:
            notes.append(f"Of the preset {preset} only the way it trains is taken.")
    else:
        spec = tokenizer or start.tokenizer
        model = dataclasses.replace(model, vocab_size=vocab_size_of(spec))
    model, train = apply_settings(model, train, sets)
    if init and not preset and train.lora_rank and "learning_rate" not in sets:
        train = dataclasses.replace(train, learning_rate=_LORA_LEARNING_RATE)
    if target_loss is not None:
        model, train = apply_settings(model, train, {"target_loss": str(target_loss)})
    if train.sequence_length and train.sequence_length > model.block_size:
        if "sequence_length" in sets:
            raise ConfigError(f"sequence_length = {train.sequence_length}: the model has {model.block_size} positions.")
        train = dataclasses.replace(train, sequence_length=None)
    try:
        absolute = tuple(str(Path(file).expanduser().resolve()) for file in files)
        for file in absolute:
            _require_utf8_name(file)
        find_documents(absolute)  # missing and empty files are told now, not by a worker later
    except (OSError, RuntimeError) as error:  # somebody else's directory, a name too long, an unknown ~user
        raise DataError(f"The texts cannot be looked up: {str(error).rstrip('.')}.") from error
    path = checkpoint.path.resolve() if checkpoint else None  # what `last` links to now, not what it will link to
    if path:
        _require_utf8_name(str(path))
    config = RunConfig(
        model, train, absolute, spec, init=str(path) if path else None, parent=_parent_of(path) if path else None,
        preset=None if init else chosen,
    )  # fmt: skip
    if not (preset or init):
        why = "there is a GPU" if has_gpu else "there is no GPU"
        notes.append(f"Preset {chosen}, because {why}: {model.parameter_count / 1e6:.3g} M parameters, {spec}.")
    notes.append(_estimate(config, has_gpu and train.device in ("auto", "cuda")))
    if not absolute:
        notes.append("Text: the documentation that comes with Python.")
    return RunPlan(config, tuple(notes))


def check_texts(config: RunConfig) -> None:
    """Read the beginning of every text of a run.

    Raises:
        DataError: one is missing, empty, or no text, or all are too short.
    """
    documents = find_documents(config.files)
    for document in documents:
        next(document.chunks(1 << 16), "")
    _check_length(config, documents)


def _check_length(config: RunConfig, documents: Sequence[Document]) -> None:
    """Refuse texts that are too short to train on, as far as that is known before they are encoded.

    A text has at most as many tokens as bytes, and one more between documents.

    Raises:
        DataError: they are too short.
    """
    train = config.train
    needed = (train.sequence_length or config.model.block_size) + 1
    size = sum(each.size for each in documents)
    if size > _SHORT_TEXT:
        return
    parts = Split(train.val_split, train.val_fraction).parts(documents)
    most = sum(part.text.size + 1 for part in parts if not part.is_validation)
    if most < needed:
        raise DataError(
            f"The text is too short: its {size:,} bytes leave at most {most:,} tokens to train on, and one sequence "
            f"needs {needed:,}. Train on more text, or set a smaller sequence_length."
        )


def _require_utf8_name(path: str) -> None:
    """Refuse a name that a configuration, which is UTF-8, cannot hold.

    Raises:
        DataError: it is one.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode(errors="replace")
        raise DataError(f"The name of {shown} is not UTF-8, and a run cannot note it. Rename it first.") from None


def _shape_of(checkpoint: Path) -> ModelConfig:
    return read_pickled_shape(checkpoint) if checkpoint.is_file() else read_model_config(checkpoint)


def _parent_of(checkpoint: Path) -> str | None:
    """Return the run and step of a checkpoint, as in shakespeare:1000; None when it is of no run."""
    directory = checkpoint.parent.parent
    if checkpoint.parent.name != "checkpoints" or not (directory / "config.toml").is_file():
        return None
    run = Run.at(directory)
    return next((f"{run.name}:{each.step}" for each in run.checkpoints() if each.path.samefile(checkpoint)), None)


def _has_gpu() -> bool:
    """Return whether a CUDA device is probably there, without the seconds that asking torch costs."""
    return Path("/dev/nvidia0").exists() or (os.name == "nt" and shutil.which("nvidia-smi") is not None)


def _estimate(config: RunConfig, gpu: bool) -> str:
    """Return a sentence on how long the run will take: 6 operations a parameter and token, and attention's."""
    model, train = config.model, config.train
    tokens = train.batch_size * (train.sequence_length or model.block_size)
    per_token = 6 * model.parameter_count + 12 * model.n_layer * model.n_embd * (
        train.sequence_length or model.block_size
    )
    cores = train.threads or os.cpu_count() or 1
    seconds = tokens * per_token / (_GPU_FLOPS if gpu else _CPU_FLOPS * cores) + (0.005 if gpu else _STEP_OVERHEAD)
    where = "a GPU" if gpu else f"{cores} CPU core{'s' if cores > 1 else ''}"
    return f"About {_duration(seconds * train.max_steps)} for {train.max_steps:,} steps on {where} (an estimate)."


def _duration(seconds: float) -> str:
    for size, unit in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} seconds" if seconds >= 1.5 else "a second"
