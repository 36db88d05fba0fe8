"""gpt-tui runs verify: whether a run would do again what it did."""

import dataclasses
import sys

import click

from gpt_model.runs import Run
from gpt_tui.cli.json_text import to_json
from gpt_tui.cli.options import json_option, run_argument
from gpt_tui.locations import find_locations


@click.command()
@run_argument
@click.option("--from", "from_step", type=int, metavar="STEP", help="The checkpoint to begin from.  [the last but one]")
@json_option
def verify(run_name: str, from_step: int | None, as_json: bool) -> int:
    """Make the steps between two checkpoints again and compare the weights; the run is only read.

    The exit code is 0 when they are the same, bit for bit, and 1 when they are not.
    """
    run = Run.open(find_locations().runs, run_name)
    from gpt_model.verification import verify as replay

    is_watched = sys.stderr.isatty()

    def tell(step: int, last: int) -> None:
        if is_watched:
            click.echo(f"\rReplaying: step {step:,} of {last:,}", err=True, nl=False)

    found = replay(run, from_step, tell)
    if is_watched:
        click.echo("\r\033[K", err=True, nl=False)
    if as_json:
        verdict = {"schema": 1, "run": run.name, "same": found.same, "verdict": str(found.exactness)}
        click.echo(to_json(verdict | dataclasses.asdict(found)))
    elif found.same:
        click.echo(f"EXACT: steps {found.first:,} to {found.last:,} made again, weights and optimizer identical.")
        click.echo(f"sha256  {found.found}")
    else:
        what = "weights differ" if found.expected != found.found else "weights identical, optimizer's state differs"
        click.echo(f"DIFFERENT: steps {found.first:,} to {found.last:,} made again, {what}.")
        click.echo(f"sha256  {found.expected}  run\nsha256  {found.found}  replay")
        why = "Nothing here is known to differ from where it was trained: the run's files may have been changed."
        click.echo(why if found.exactness.exact else f"To be expected here. {found.exactness}.")
    return 0 if found.same else 1
