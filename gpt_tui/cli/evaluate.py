"""gpt-tui eval: how well a checkpoint predicts a text."""

import dataclasses

import click

from gpt_model.corpus import find_documents, read_texts
from gpt_tui.checkpoint_names import resolve_checkpoint
from gpt_tui.cli.json_text import to_json
from gpt_tui.cli.options import checkpoint_argument, compute_options, json_option, tokenizer_option
from gpt_tui.cli.table import format_fields
from gpt_tui.locations import find_locations
from gpt_tui.settings import load_settings


@click.command("eval")
@checkpoint_argument
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path())
@json_option
@tokenizer_option
@compute_options
def evaluate(
    checkpoint: str, files: tuple[str, ...], as_json: bool, tokenizer: str | None, device: str | None,
    threads: int | None,
) -> None:  # fmt: skip
    """Tell how well CHECKPOINT predicts the text of FILEs, read one after the other as one text.

    The text is scored in windows of the model's context; every token but the first is predicted once.
    """
    text = "".join(read_texts(find_documents(files)))
    locations = find_locations()
    chosen = resolve_checkpoint(checkpoint, locations)
    loaded = load_settings(locations, flags={"device": device, "threads": threads})
    for problem in loaded.problems:
        click.echo(f"gpt-tui: {problem}", err=True)

    import torch

    from gpt_model.checkpoint import load_model_and_tokenizer
    from gpt_model.device import choose_device
    from gpt_model.evaluation import evaluate as evaluate_text

    if loaded.settings.threads:
        torch.set_num_threads(loaded.settings.threads)
    device = str(choose_device(loaded.settings.device))
    model, read_with = load_model_and_tokenizer(chosen.path, device, tokenizer)
    result = evaluate_text(model, read_with, text)
    if as_json:
        click.echo(to_json({"schema": 1, "checkpoint": chosen.label} | dataclasses.asdict(result)))
        return
    fields = [
        ("loss", f"{result.loss:.4f} nats a token"),
        ("perplexity", f"{result.perplexity:,.2f}"),
        ("bits per byte", f"{result.bits_per_byte:.4f}"),
        ("tokens", f"{result.tokens:,}"),
    ]
    click.echo(format_fields(fields))
