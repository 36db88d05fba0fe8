"""gpt-tui runs: what runs there are, how they do, and commands to their workers."""

import dataclasses
import sys
import time
import types
from collections.abc import Mapping
from typing import Any

import click

from gpt_model.amending import AMENDING, amend
from gpt_model.config import RunConfig
from gpt_model.errors import RunError
from gpt_model.runs import ALIVE, Run, Status, list_runs
from gpt_tui.cli.follow import Follower, describe, follow_running, launch_and_follow, tell_end
from gpt_tui.cli.json_text import to_json
from gpt_tui.cli.models import name_architecture
from gpt_tui.cli.options import complete_run, json_option, parse_settings, run_argument
from gpt_tui.cli.runs_batch import batch
from gpt_tui.cli.runs_verify import verify
from gpt_tui.cli.table import format_age, format_bytes, format_duration, format_fields, format_loss, format_table
from gpt_tui.locations import find_locations

POLL_SECONDS = 0.1


@click.group()
def runs() -> None:
    """List, watch and command training runs."""


runs.add_command(batch)
runs.add_command(verify)


@runs.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the runs, newest first."""
    found = [(run, run.status()) for run in list_runs(find_locations().runs)]
    if as_json:
        click.echo(to_json([_to_dict(run, status) for run, status in found], indent=2))
        return
    if not found:
        click.echo("There are no runs yet. One starts with: gpt-tui train FILE", err=True)
        return
    rows = [
        [
            run.name, status.state, f"{status.step:,}/{status.max_steps:,}", format_loss(status.train_loss),
            format_loss(status.val_loss), format_loss(status.best_val_loss), str(len(run.checkpoints())),
            format_age(time.time() - status.updated_at) if status.updated_at else "–",
        ]
        for run, status in found
    ]  # fmt: skip
    header = ["run", "state", "step", "train", "val", "best val", "checkpoints", "updated"]
    click.echo(format_table(header, rows, right=(2, 3, 4, 5, 6, 7)))


@runs.command()
@run_argument
@json_option
def show(run_name: str, as_json: bool) -> None:
    """Show a run's state, its configuration and its checkpoints."""
    run = _open(run_name)
    status = run.status()
    if as_json:
        click.echo(to_json(_to_dict(run, status), indent=2))
        return
    config = run.config
    fields = [
        ("run", run.name),
        ("state", status.state + (f" ({status.phase})" if status.phase not in ("", status.state) else "")),
        ("message", status.message or "–"),
        ("progress", describe(dataclasses.replace(status, phase=""))),
        (
            "best",
            f"{format_loss(status.best_val_loss)} at step {status.best_step:,}"
            if status.best_step is not None
            else "–",
        ),
        ("trained", format_duration(status.elapsed_seconds)),
        ("resumed", status.exactness or "–"),
        ("model", f"{config.model.parameter_count / 1e6:.2f} M parameters, {_shape(run)}"),
        ("preset", config.preset or "–"),
        ("tokenizer", config.tokenizer),
        ("starts from", _origin(config)),
        ("text", ", ".join(run.texts) or "the documentation that comes with Python"),
        ("directory", str(run.directory)),
        ("worker", f"pid {status.pid}" if status.pid and status.state in ALIVE else "–"),
    ]
    click.echo(format_fields(fields))
    for saved in run.checkpoints():
        marks = [word for word, is_it in (("best", saved.is_best), ("last", saved.is_last)) if is_it]
        click.echo(f"checkpoint   {run.name}:{saved.step}  {', '.join(marks)}".rstrip())


@runs.command()
@run_argument
def watch(run_name: str) -> int:
    """Follow a run until it ends. Ctrl-C stops the watching, not the run."""
    run = _open(run_name)
    follower = Follower(run)
    try:
        status = follower.follow()
    except KeyboardInterrupt:
        follower.clear()
        raise
    tell_end(run, status)
    return 0


@runs.command()
@run_argument
def pause(run_name: str) -> None:
    """Let a run stop computing; it keeps everything in memory."""
    _command(_open(run_name), "pause")


@runs.command()
@run_argument
@click.option("--nproc", type=click.IntRange(min=1), metavar="N", help="Processes on this machine.  [the run's own]")
@click.option("--detach", is_flag=True, help="Return at once; the run goes on.")
def resume(run_name: str, nproc: int | None, detach: bool) -> int:
    """Go on with a run: after a pause, or from its last checkpoint."""
    run = _open(run_name)
    if not run.is_locked():
        status = run.status()
        if status.state == "finished":
            click.echo(
                f"{status.message} To train on: gpt-tui runs set {run.name} max_steps=N, and resume it. "
                f"To start another run from it: gpt-tui train FILE… --init {run.name}",
                err=True,
            )
            click.echo(run.name)
            return 0
        return launch_and_follow(run, detach, nproc)
    if run.status().state == "paused":
        _command(run, "resume")
    else:
        click.echo(f"The run {run.name} is running already.", err=True)
    if detach:
        click.echo(run.name)
        return 0
    return follow_running(run)


@runs.command()
@run_argument
def stop(run_name: str) -> None:
    """Let a run save a checkpoint and leave; wait until it has."""
    run = _open(run_name)
    _command(run, "stop")
    while run.is_locked():  # so that what comes next in a script finds it free
        time.sleep(POLL_SECONDS)


@runs.command()
@run_argument
def checkpoint(run_name: str) -> None:
    """Let a run save a checkpoint now; print its path."""
    run = _open(run_name)
    _command(run, "checkpoint")
    click.echo(run.checkpoint_path("last"))


@runs.command()
@run_argument
def evaluate(run_name: str) -> None:
    """Let a run measure its validation loss now; print it."""
    run = _open(run_name)
    _command(run, "evaluate")
    losses = [record["val_loss"] for record in run.read_metrics()[0] if "val_loss" in record]
    if not losses:
        raise RunError(f"The run '{run_name}' has no text to validate on: val_fraction was 0, or the text too short.")
    click.echo(f"{losses[-1]:.4f}")


@runs.command()
@run_argument
def sample(run_name: str) -> None:
    """Let a run write a sample now; print it."""
    run = _open(run_name)
    _command(run, "sample")
    written = run.read_samples()[0]
    click.echo(written[-1]["prompt"] + written[-1]["text"] if written else "")


@runs.command("set")
@run_argument
@click.argument("settings", metavar="KEY=VALUE...", nargs=-1, required=True, callback=parse_settings)
def set_(run_name: str, settings: dict[str, str]) -> None:
    """Change settings of a run from its next step on: learning_rate=1e-4, max_steps=5000, target_loss=1.5…

    A run that is not running takes them when it is resumed.
    """
    _command(_open(run_name), "set", settings)


@runs.command()
@run_argument
@click.argument("step", type=int, required=False)
def rewind(run_name: str, step: int | None) -> None:
    """Let a run go back to its last checkpoint, or to that of STEP, and train on from there."""
    _command(_open(run_name), "rewind", {} if step is None else {"step": step})


@runs.command()
@click.argument("run_names", metavar="RUN...", nargs=-1, required=True, shell_complete=complete_run)
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(run_names: tuple[str, ...], yes: bool) -> int:
    """Delete runs with all their checkpoints."""
    chosen = [_open(name) for name in run_names]
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("There is no terminal to ask on. To delete without being asked: --yes.")
        size = sum(file.stat().st_size for run in chosen for file in run.directory.rglob("*") if file.is_file())
        names = ", ".join(run.name for run in chosen)
        if not click.confirm(f"Delete {names} ({format_bytes(size)})? Nothing brings that back.", err=True):
            click.echo("Nothing was deleted.", err=True)
            return 1
    for run in chosen:
        run.remove()
    return 0


def _open(name: str) -> Run:
    return Run.open(find_locations().runs, name)


def _command(run: Run, command: str, arguments: Mapping[str, Any] = types.MappingProxyType({})) -> None:
    """Send a command, wait for the worker's answer and tell it; without a worker, note what the next one is to obey.

    Raises:
        RunError: there is no worker, it refused, or it died before it answered.
    """
    if command in AMENDING and not run.is_locked():
        click.echo(amend(run, command, arguments), err=True)
        return
    command_id = run.send(command, **arguments)
    if not command_id:
        _tell_terminated(run)
        return
    while True:
        alive = run.is_locked()  # asked first: what a worker answers it answers while it is alive
        if answer := run.acknowledgement(command_id):
            break
        if not alive:
            raise RunError(f"The worker of the run '{run.name}' ended before it could {command}.")
        time.sleep(POLL_SECONDS)
    if not answer.ok:
        raise RunError(answer.message)
    click.echo(answer.message, err=True)


def _tell_terminated(run: Run) -> None:
    """Wait for a worker that was sent TERM, and tell how it ended.

    Raises:
        RunError: it could not save.
    """
    told = f"Nothing can be written to {run.directory}, so its worker was sent the signal TERM: to save, and leave."
    click.echo(told, err=True)
    while run.is_locked():
        time.sleep(POLL_SECONDS)
    tell_end(run, run.status())


def _to_dict(run: Run, status: Status) -> dict[str, Any]:
    checkpoints = [dataclasses.asdict(saved) for saved in run.checkpoints()]
    about = {"name": run.name, "directory": run.directory, "config": dataclasses.asdict(run.config)}
    return about | dataclasses.asdict(status) | {"checkpoints": checkpoints}


def _shape(run: Run) -> str:
    model = run.config.model
    shape = f"{model.n_layer} layers, {model.n_head} heads, width {model.n_embd}, context {model.block_size}"
    return shape if model.arch == "gpt2" else f"{shape}, {name_architecture(model.arch)}"


def _origin(config: RunConfig) -> str:
    origin = f"{config.parent} ({config.init})" if config.parent else config.init or "–"
    return f"{origin}, with adapters of rank {config.train.lora_rank}" if config.train.lora_rank else origin
