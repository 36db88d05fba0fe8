"""gpt-tui runs batch: what a run trains on at a step."""

import dataclasses
import sys

import click

from gpt_model.runs import Run
from gpt_tui.cli.json_text import to_json
from gpt_tui.cli.options import json_option, run_argument
from gpt_tui.cli.table import format_loss
from gpt_tui.locations import find_locations
from gpt_tui.widgets.visible_text import picture


@click.command()
@run_argument
@click.argument("step", type=click.IntRange(min=1))
@click.option(
    "--row", type=click.IntRange(min=1), metavar="N", help="Only the N-th sequence, and nothing but its text."
)
@json_option
def batch(run_name: str, step: int, row: int | None, as_json: bool) -> None:
    """Print the text that a run trains on at a step: the update that STEP counts, as in the metrics.

    The order is a pure function of the seed and the step, so any step can be asked for, past or to come.
    """
    from gpt_model.batch_text import read_batch

    found = read_batch(Run.open(find_locations().runs, run_name), step)
    if row is not None and row > len(found.rows):
        raise click.BadParameter(f"a batch of this run has {len(found.rows)} sequences.", param_hint="--row")
    if as_json:
        rows = found.rows if row is None else [found.rows[row - 1]]
        click.echo(to_json({"schema": 1, "run": run_name} | dataclasses.asdict(dataclasses.replace(found, rows=rows))))
        return
    show = picture if sys.stdout.isatty() else str
    if row is not None:
        click.echo(show(found.rows[row - 1].text), nl=sys.stdout.isatty())
        return
    shown = f"loss {format_loss(found.train_loss)}" if found.train_loss is not None else "not trained yet"
    click.echo(f"step {step:,}: {len(found.rows)} sequences, {shown}")
    for number, each in enumerate(found.rows, 1):
        click.echo(f"\n[{number}] epoch {each.epoch + 1}, token {each.first_token:,}")
        click.echo(show(each.text))
