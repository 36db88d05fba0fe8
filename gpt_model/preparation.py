"""What a run needs before its first step: a device, a model with its tokenizer, the tokens to train on.

And, when the run has been trained before, its newest whole checkpoint and whether going on from it is exact.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gpt_model.architectures import build_model
from gpt_model.checkpoint import load_checkpoint, load_model_and_tokenizer
from gpt_model.checkpoint_shelf import CheckpointShelf
from gpt_model.config import ModelConfig, RunConfig
from gpt_model.corpus import find_documents
from gpt_model.device import choose_device
from gpt_model.distributed import Company
from gpt_model.edits import Edit, find_edits
from gpt_model.errors import ConfigError
from gpt_model.exactness import describe_environment, judge
from gpt_model.initialisation import zero_residual_projections
from gpt_model.kernels import choose_products, compile_kernels, describe_kernels
from gpt_model.lora import adapt, restore_adapters
from gpt_model.model import GPT
from gpt_model.precision import autocast_dtype
from gpt_model.progress import Progress
from gpt_model.recorder import Recorder
from gpt_model.runs import Run
from gpt_model.shards import Progress as OnProgress
from gpt_model.shards import Shards, prepare_shards
from gpt_model.splitting import Split
from gpt_model.tokenizer import Tokenizer


@dataclass(frozen=True)
class Prepared:
    """A run that can begin, or go on."""

    model: GPT
    """On its device, in training mode."""
    shards: Shards
    shelf: CheckpointShelf
    state: dict[str, Any] | None
    """What the checkpoint that training goes on from holds beside the weights; None for a new run."""
    progress: Progress
    """How far the run has come."""
    environment: Mapping[str, str]
    """What the numbers depend on beside the checkpoint and the data."""
    edits: Sequence[Edit] = ()
    """What was set after that checkpoint, and is to be set again at the same steps."""


def prepare(run: Run, recorder: Recorder, on_progress: OnProgress, company: Company) -> Prepared:
    """Return all that a run needs; its first event says what that is.

    Raises:
        GptError: the configuration, the texts, the tokenizer or a checkpoint cannot be used.
    """
    settings = run.config.train
    company.share_threads(settings.threads)
    device = company.own_device(choose_device(settings.device))
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    shelf = CheckpointShelf(run, lambda message: recorder.event("fail", message))
    shelf.sweep()
    torch.manual_seed(settings.seed)
    saved = shelf.load_newest(lambda message: recorder.event("fail", message))
    if saved is None:
        model, shards = _prepare_model(run, recorder, on_progress)
        state = None
    else:
        loaded, tokenizer, state = saved
        model = _with_dropout(loaded, run.config.model.dropout)
        trained_on = state["environment"].get("data", "")
        shards = _prepare_data(run, recorder, tokenizer, on_progress, trained_on)
    if settings.lora_rank:
        adapt(model, settings.lora_rank, settings.lora_alpha)
        if state is not None:
            restore_adapters(model, state["adapters"])
    model = model.to(device).train()
    progress, since = (Progress(), 0) if state is None else (Progress.from_state(state["progress"]), state["events"])
    events = run.read_events(since)[0]
    if state is not None:
        progress.catch_up(events)
        shelf.link(progress.best_step)
    edits = [edit for edit in find_edits(events) if edit.step >= progress.step]
    on_progress("preparing the kernels", 0.0)  # the first time on a machine they are compiled
    kernels = describe_kernels(compile_kernels(model))
    precision = autocast_dtype(settings.precision, device, model.config.n_embd)
    where = describe_environment(device, precision, shards.checksum, company.size, kernels, choose_products(model))
    _tell_beginning(run, recorder, model, shards, where, state, edits)
    return Prepared(model, shards, shelf, state, progress, where, edits)


def _prepare_model(run: Run, recorder: Recorder, on_progress: OnProgress) -> tuple[GPT, Shards]:
    """Return a new run's model, on the CPU, and its shards; torch's global generator gives the initial weights.

    The vocabulary is the tokenizer's: a small corpus can give a `bpe:N` fewer tokens than N.

    Raises:
        ConfigError: the configuration does not fit the checkpoint that it starts from.
        DataError, TokenizerError, CheckpointError: the texts, the tokenizer or that checkpoint cannot be used.
    """
    config = run.config
    if config.init is None:
        if config.tokenizer == "checkpoint":
            raise ConfigError("tokenizer = checkpoint: needs init, the checkpoint that brings the tokenizer.")
        shards = _prepare_data(run, recorder, config.tokenizer, on_progress)
        model = build_model(dataclasses.replace(config.model, vocab_size=shards.tokenizer.vocab_size))
        if config.train.zero_init:
            zero_residual_projections(model)
        return model, shards
    on_progress(f"loading {config.init}", 0.0)
    loaded, tokenizer = load_checkpoint(config.init)
    if tokenizer is None:  # the run's own word counts only where the checkpoint has none
        asked = None if config.tokenizer == "checkpoint" else config.tokenizer
        loaded, tokenizer = load_model_and_tokenizer(config.init, tokenizer=asked)
    _require_same_shape(config, loaded.config)
    if config.tokenizer not in ("checkpoint", tokenizer.name):
        raise ConfigError(
            f"tokenizer = {config.tokenizer}: the checkpoint {config.init} was trained with {tokenizer.name}. "
            "Set tokenizer to checkpoint."
        )
    shards = _prepare_data(run, recorder, tokenizer, on_progress)
    return _with_dropout(loaded, config.model.dropout), shards


def _prepare_data(
    run: Run, recorder: Recorder, tokenizer: Tokenizer | str, on_progress: OnProgress, expected: str = ""
) -> Shards:
    """Return the shards of a run.

    Raises:
        DataError, TokenizerError: the texts or the tokenizer cannot be used.
    """
    split = Split(run.config.train.val_split, run.config.train.val_fraction)
    return prepare_shards(
        run.directory / "data", lambda: find_documents(run.texts, run.directory), tokenizer, split, on_progress,
        lambda message: recorder.event("fail", message), expected,
    )  # fmt: skip


def _with_dropout(model: GPT, dropout: float) -> GPT:
    """Return a model with the same weights that can be trained, with this dropout."""
    with torch.device("meta"):  # no memory and no random numbers: the weights are the other model's
        fresh = build_model(dataclasses.replace(model.config, dropout=dropout))
    weights: dict[str, Any] = model.state_dict()
    fresh.load_state_dict(weights, assign=True)
    return fresh.requires_grad_(True).train()


def _tell_beginning(
    run: Run, recorder: Recorder, model: GPT, shards: Shards, where: Mapping[str, str], state: dict[str, Any] | None,
    edits: Sequence[Edit],
) -> None:  # fmt: skip
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    rank = run.config.train.lora_rank
    adapters = f" and {trained / 1e6:.3g} M in adapters of rank {rank}, which alone are trained," if rank else ""
    threads = f", {where['threads']} threads" if "threads" in where else ""
    if where["processes"] != "1":
        threads += f" in each of {where['processes']} processes" if threads else f", {where['processes']} processes"
    what = (
        f"{model.config.parameter_count / 1e6:.2f} M parameters{adapters} on {where['device']}{threads}; "
        f"{len(shards.train):,} tokens to train on, {len(shards.val):,} to validate on; "
        f"vocabulary {model.config.vocab_size:,} ({shards.tokenizer.name})"
    )
    if state is None:
        recorder.event("start", f"Training begins: {what}.")
        if (run.directory / "metrics.jsonl").exists():  # an earlier launch died before its first checkpoint
            recorder.metrics(step=0, resumed=True)
        return
    step = int(state["progress"]["step"])
    recorder.status(step=step)
    recorder.metrics(step=step, resumed=True)
    verdict = str(judge(state["environment"], where))
    recorder.status(exactness=verdict)
    recorder.event("resume", f"Training goes on from step {step:,}, {verdict}: {what}.", exactness=verdict)
    if edits:
        told = "; ".join(f"{', '.join(edit.settings)} at step {edit.step:,}" for edit in edits)
        recorder.event("resume", f"Set after that checkpoint, and to be set again: {told}.")


def _require_same_shape(config: RunConfig, found: ModelConfig) -> None:
    names = [each.name for each in dataclasses.fields(ModelConfig) if each.name not in ("dropout", "n_inner")]
    differing = [
        f"{name} = {getattr(config.model, name)} instead of {getattr(found, name)}"
        for name in [*names, "inner"]
        if getattr(config.model, name) != getattr(found, name)
    ]
    if differing:
        raise ConfigError(
            f"The run starts from {config.init}, so its model must have that checkpoint's shape; "
            f"its configuration says {', '.join(differing)}."
        )
