"""gpt-tui eval: how well a checkpoint predicts a text, and what each precision costs."""

import dataclasses
from typing import Any

import click

from gpt_model.config import DTYPES
from gpt_model.corpus import find_documents, read_texts
from gpt_tui.checkpoint_names import resolve_checkpoint
from gpt_tui.cli.json_text import to_json
from gpt_tui.cli.options import checkpoint_argument, json_option, place_options, tokenizer_option
from gpt_tui.cli.table import format_fields, format_table
from gpt_tui.locations import find_locations
from gpt_tui.settings import load_settings


@click.command("eval")
@checkpoint_argument
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path())
@json_option
@tokenizer_option
@click.option(
    "--dtype", multiple=True, metavar="DTYPE", type=click.Choice([*DTYPES, "all"]), default=("float32",),
    help="Precision of the weights; repeatable; all: the price of each against float32.  [float32]",
)  # fmt: skip
@place_options
def evaluate(
    checkpoint: str, files: tuple[str, ...], as_json: bool, tokenizer: str | None, dtype: tuple[str, ...],
    device: str | None, threads: int | None,
) -> None:  # fmt: skip
    """Tell how well CHECKPOINT predicts the text of FILEs, read one after the other as one text.

    The text is scored in windows of the model's context; every token but the first is predicted once.
    """
    text = "".join(read_texts(find_documents(files)))
    locations = find_locations()
    chosen = resolve_checkpoint(checkpoint, locations)
    loaded = load_settings(locations, flags={"device": device, "threads": threads})
    settings = loaded.settings
    for problem in loaded.problems:
        _tell(f"gpt-tui: {problem}")

    from gpt_model.backend import open_scorer
    from gpt_model.evaluation import evaluate as evaluate_text

    wanted = tuple(each for each in DTYPES if each != "auto") if "all" in dtype else dtype
    rows: list[dict[str, Any]] = []
    for each in wanted:
        opened = open_scorer(chosen.path, settings.device, each, settings.threads, tokenizer, _tell)
        if opened.backend.note:
            _tell(opened.backend.note)
        result = evaluate_text(opened.model, opened.with_tokenizer(chosen.path), text)
        rows.append({"dtype": opened.backend.dtype, **dataclasses.asdict(result)})
    head = {"schema": 1, "checkpoint": chosen.label}
    if len(rows) == 1:
        click.echo(to_json(head | rows[0]) if as_json else _fields(rows[0]))
    else:
        click.echo(to_json(head | {"results": rows}) if as_json else _prices(rows))


def _fields(row: dict[str, Any]) -> str:
    return format_fields(
        [
            ("loss", f"{row['loss']:.4f} nats a token"),
            ("perplexity", f"{row['perplexity']:,.2f}"),
            ("bits per byte", f"{row['bits_per_byte']:.4f}"),
            ("tokens", f"{row['tokens']:,}"),
            ("dtype", row["dtype"]),
        ]
    )


def _prices(rows: list[dict[str, Any]]) -> str:
    """Return a line a precision, with its price when float32 is among them."""
    exact = next((row["perplexity"] for row in rows if row["dtype"] == "float32"), None)
    lines = [
        [
            row["dtype"], f"{row['loss']:.5f}", f"{row['perplexity']:,.4f}",
            f"{100 * (row['perplexity'] / exact - 1):+.3f} %" if exact else "–", f"{row['bits_per_byte']:.4f}",
        ]
        for row in rows
    ]  # fmt: skip
    return format_table(["dtype", "loss", "perplexity", "price", "bits per byte"], lines)


def _tell(sentence: str) -> None:
    click.echo(sentence, err=True)
