"""gpt-tui train: from texts and options to a run that a worker trains; this process only watches it."""

import contextlib
import dataclasses

import click

from gpt_model.presets import PRESETS
from gpt_model.runs import Run
from gpt_tui.cli.follow import launch_and_follow
from gpt_tui.cli.options import complete_checkpoint, parse_settings
from gpt_tui.cli.spooled_input import spooled_input
from gpt_tui.locations import find_locations
from gpt_tui.new_run import check_texts, plan_run


@click.command()
@click.argument("files", nargs=-1, metavar="[FILE]...", type=click.Path())
@click.option("--preset", metavar="NAME", help=f"{', '.join(PRESETS)}.  [one that fits the machine]")
@click.option("--name", metavar="RUN", help="What the run is called.  [after its text]")
@click.option("--tokenizer", metavar="SPEC", help="gpt2, bytes, or bpe:N, trained on the text.  [the preset's]")
@click.option(
    "--init", metavar="CHECKPOINT", shell_complete=complete_checkpoint, help="Start from these weights: fine-tuning."
)
@click.option(
    "--set", "sets", multiple=True, metavar="KEY=VALUE", callback=parse_settings,
    help="An option of the model or the run, such as n_layer=4 or max_steps=2000; repeatable.",
)  # fmt: skip
@click.option("--target-loss", type=float, metavar="X", help="Finish when the smoothed training loss is at or below X.")
@click.option("--nproc", type=click.IntRange(min=1), metavar="N", help="Processes on this machine that share a batch.")
@click.option("--detach", is_flag=True, help="Return at once; the run goes on.")
def train(
    files: tuple[str, ...], preset: str | None, name: str | None, tokenizer: str | None, init: str | None,
    sets: dict[str, str], target_loss: float | None, nproc: int | None, detach: bool,
) -> int:  # fmt: skip
    """Train a model on FILEs: text files, directories of them, or globs; - is standard input.

    Without a FILE the text is the documentation that comes with Python. The run is trained by a process of its own:
    closing the terminal changes nothing. The first Ctrl-C saves and stops it, the second leaves it to itself.
    """
    locations = find_locations()
    sets |= {"processes": str(nproc)} if nproc else {}
    if "-" in files and len(files) > 1:
        raise click.UsageError("Standard input (-) cannot be mixed with files: pipe them all in, or name them all.")
    with contextlib.ExitStack() as kept:
        text = kept.enter_context(spooled_input(locations.runs)) if files == ("-",) else None
        plan = plan_run([text] if text else files, preset, tokenizer, sets, target_loss, init, locations)
        check_texts(plan.config)
        config = dataclasses.replace(plan.config, files=("stdin.txt",)) if text else plan.config
        run = Run.create(locations.runs, config, name, text)
    click.echo(f"Run {run.name}: {' '.join(plan.notes)}", err=True)
    return launch_and_follow(run, detach)
