"""gpt-tui models: the checkpoints that have a name, and the way in and out for other people's."""

import re
import time
from pathlib import Path
from typing import Any

import click

from gpt_model.config import ModelConfig
from gpt_model.errors import CheckpointError, ConfigError, TokenizerError
from gpt_model.huggingface_config import read_model_config
from gpt_model.pickled_shape import read_pickled_shape
from gpt_model.tokenizer import read_tokenizer, tokenizer_for_size
from gpt_tui.checkpoint_names import ResolvedCheckpoint, list_checkpoints, resolve_checkpoint
from gpt_tui.cli.json_text import to_json
from gpt_tui.cli.options import checkpoint_argument, json_option, tokenizer_option
from gpt_tui.cli.table import format_age, format_bytes, format_fields, format_table
from gpt_tui.locations import BUNDLED, find_locations

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@click.group()
def models() -> None:
    """List, import and export checkpoints."""


@models.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List every checkpoint that has a name: models, and the best and last of each run; newest first."""
    described = [_describe(each) for each in list_checkpoints(find_locations()) if each.path.exists()]
    if as_json:
        click.echo(to_json(described, indent=2))
        return
    rows = [
        [
            each["name"], each["error"] or f"{each['parameters'] / 1e6:.2f} M",
            "" if each["error"] else _shape(each),
            "" if each["error"] else f"{each['block_size']:,}", each["tokenizer"] or "–", format_bytes(each["bytes"]),
            format_age(time.time() - each["saved_at"]),
        ]
        for each in described
    ]  # fmt: skip
    header = ["checkpoint", "parameters", "shape", "context", "tokenizer", "size", "saved"]
    click.echo(format_table(header, rows, right=(1, 3, 5, 6)))


@models.command()
@checkpoint_argument
@json_option
def show(checkpoint: str, as_json: bool) -> None:
    """Show what a checkpoint is, without loading it."""
    chosen = resolve_checkpoint(checkpoint, find_locations())
    described = _describe(chosen)
    if described["error"]:
        raise CheckpointError(described["error"])
    if as_json:
        click.echo(to_json(described, indent=2))
        return
    del described["error"]
    described["arch"] = name_architecture(described["arch"])
    described["saved_at"] = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(described["saved_at"]))
    described["parameters"] = f"{described['parameters']:,}"
    described["bytes"] = f"{described['bytes']:,}"
    described["resumable"] = "yes" if described["resumable"] else "no"
    click.echo(format_fields([(name, "–" if value is None else str(value)) for name, value in described.items()]))


@models.command("import")
@click.argument("source", type=click.Path())
@click.argument("name")
@tokenizer_option
def import_(source: str, name: str, tokenizer: str | None) -> None:
    """Copy SOURCE into your models as NAME: a Hugging Face GPT-2 directory, or a .pth of weights."""
    locations = find_locations()
    if not _NAME.fullmatch(name) or name == BUNDLED:
        raise ConfigError(
            f"'{name}' cannot be a model's name: use up to 64 letters, digits, dots, dashes and underscores, "
            f"beginning with a letter or a digit; {BUNDLED} is taken."
        )
    if (locations.runs / name).exists():
        raise ConfigError(f"There is a run '{name}', and a model of that name would hide it. Choose another name.")
    target = locations.models / name
    if target.exists():
        raise ConfigError(f"There is a model '{name}' already. Choose another name, or remove {target} first.")
    origin = Path(source).expanduser()
    from gpt_model.checkpoint import load_checkpoint, save_checkpoint

    model, chosen = load_checkpoint(
        origin if origin.exists() else resolve_checkpoint(source, locations).path, tokenizer=tokenizer
    )
    save_checkpoint(target, model, chosen)
    if chosen is None:
        click.echo(
            f"{source} brings no tokenizer, and its vocabulary of {model.config.vocab_size:,} is neither gpt2's nor "
            "bytes'. The model reads token ids only, unless --tokenizer names one.",
            err=True,
        )
    with_what = f", tokenizer {chosen.name}" if chosen else ""
    click.echo(f"Imported {model.config.parameter_count / 1e6:.2f} M parameters{with_what} to {target}.", err=True)
    click.echo(name)


@models.command()
@checkpoint_argument
@click.argument("destination", type=click.Path(path_type=Path))
@click.option(
    "--format", "form", type=click.Choice(["huggingface", "pth", "gpt-tui"]),
    help="A directory that transformers opens, one file of weights as nanoGPT has it, or a directory for gpt-tui: the "
    "only one for a modern model, and for a GPT-2 the same as huggingface.  [huggingface, or pth where DESTINATION "
    "ends with .pth or .pt]",
)  # fmt: skip
@click.option("--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True)
def export(checkpoint: str, destination: Path, form: str | None, dtype: str) -> None:
    """Write CHECKPOINT to DESTINATION for other programs; training state stays behind."""
    form = form or ("pth" if destination.suffix in (".pth", ".pt") else "huggingface")
    if form == "pth" and dtype != "float32":
        raise click.UsageError("A .pth is written in float32. For float16: --format huggingface or gpt-tui.")
    chosen = resolve_checkpoint(checkpoint, find_locations())
    import torch

    from gpt_model.checkpoint import export_pth, load_checkpoint, read_config, require_gpt2, save_checkpoint

    if form != "gpt-tui":
        require_gpt2(read_config(chosen.path), {"huggingface": "transformers", "pth": "nanoGPT"}[form])
    model, tokenizer = load_checkpoint(chosen.path)
    if form == "pth":
        export_pth(destination, model)
    else:
        save_checkpoint(destination, model, tokenizer, dtype=getattr(torch, dtype))
    click.echo(destination)


def name_architecture(arch: str) -> str:
    """Return what to show for ModelConfig.arch."""
    return "GPT-2" if arch == "gpt2" else f"{arch} (not GPT-2)"


def _shape(described: dict[str, Any]) -> str:
    shape = f"{described['n_layer']}×{described['n_head']}×{described['n_embd']}"
    return shape if described["arch"] == "gpt2" else f"{shape} {described['arch']}"


def _describe(checkpoint: ResolvedCheckpoint) -> dict[str, Any]:
    """Return what a checkpoint's directory says of itself; `error` is None, or why that cannot be read."""
    path = checkpoint.path
    files = [path] if path.is_file() else [file for file in path.iterdir() if file.is_file()]
    shape, tokenizer, error = None, None, None
    try:
        shape = read_pickled_shape(path) if path.is_file() else read_model_config(path)
        chosen = read_tokenizer(path) or tokenizer_for_size(shape.vocab_size)
        tokenizer = chosen.name if chosen else None
    except (CheckpointError, ConfigError, TokenizerError) as broken:
        error = str(broken)
    names = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
    return {
        "name": checkpoint.label,
        "path": str(path),
        "arch": shape.arch if shape else None,
        "parameters": shape.parameter_count if shape else None,
        **{name: getattr(shape, name) if isinstance(shape, ModelConfig) else None for name in names},
        "tokenizer": tokenizer,
        "resumable": (path / "training_state.pt").exists(),
        "bytes": sum(file.stat().st_size for file in files),
        "saved_at": max((file.stat().st_mtime for file in files), default=0.0),
        "error": error,
    }
