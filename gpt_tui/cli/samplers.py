"""gpt-tui samplers: which stages and presets there are, what they take, and whether a chain can be."""

import inspect
import shutil
import sys
from collections.abc import Callable
from typing import Any

import click

from gpt_tui.cli.explain import explain
from gpt_tui.cli.json_text import to_json
from gpt_tui.cli.options import complete_chain, json_option
from gpt_tui.cli.table import format_fields, format_table
from gpt_tui.locations import find_locations
from gpt_tui.settings import load_settings
from samplers import (
    DECODER_GROUP,
    PRESETS,
    Chain,
    ChainError,
    Parameter,
    entries,
    format_stage,
    is_off,
    load_decoder,
    load_stage,
    named_chain,
    parameters,
    stage_entries,
)


@click.group()
def samplers() -> None:
    """The stages that a chain can be made of."""


@samplers.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List every stage and every decoder that is installed; a broken one with its error."""
    kinds = {"stage": (stage_entries(), load_stage), "decoder": (entries(DECODER_GROUP), load_decoder)}
    found = [
        {
            "name": name, "kind": kind, "version": entry.version, "distribution": entry.distribution,
            **dict(zip(("state", "about"), _state(name, load), strict=True)),
        }
        for kind, (known, load) in kinds.items()
        for name, entry in known.items()
    ]  # fmt: skip
    if as_json:
        click.echo(to_json(found, indent=2))
        return
    header = ["name", "kind", "version", "distribution", "state", "about"]
    table = format_table(header, [[each[column] for column in header] for each in found])
    if sys.stdout.isatty():  # what is whole in a pipe is a line a plugin on a screen
        width = shutil.get_terminal_size().columns
        table = "\n".join(line if len(line) <= width else f"{line[: width - 1]}…" for line in table.splitlines())
    click.echo(table)


@samplers.command()
@click.argument("name", shell_complete=complete_chain)
@json_option
def show(name: str, as_json: bool) -> None:
    """Show what a stage or a decoder does and what it takes."""
    decoders = entries(DECODER_GROUP)
    is_decoder = name in decoders and name not in stage_entries()
    stage, entry = (load_decoder(name), decoders[name]) if is_decoder else (load_stage(name), stage_entries().get(name))
    assert entry is not None  # what is not announced cannot be loaded
    if as_json:
        about = {"name": name, "distribution": entry.distribution, "version": entry.version, "target": entry.target}
        taken = [_to_dict(each) for each in parameters(stage)]
        click.echo(to_json(about | {"about": inspect.getdoc(stage), "parameters": taken}, indent=2))
        return
    click.echo(f"{name}: {inspect.getdoc(stage) or 'says nothing of itself.'}\n")
    rows = [
        [
            each.name, each.kind.__name__, str(each.default), f"{each.param.lo:g} … {each.param.hi:g}",
            "–" if each.param.off is None else f"{each.param.off:g}", each.param.help,
        ]
        for each in parameters(stage)
    ]  # fmt: skip
    if rows:
        click.echo(format_table(["parameter", "type", "default", "range", "off at", ""], rows) + "\n")
    click.echo(format_fields([("from", f"{entry.distribution} {entry.version}"), ("class", entry.target)]))


@samplers.command()
@click.argument("spec", shell_complete=complete_chain)
def check(spec: str) -> None:
    """Print the chain of SPEC, which may be a preset's name, in its shortest form, or say what is wrong with it."""
    click.echo(str(named_chain(spec, load_settings(find_locations()).settings.presets)))


@samplers.command()
@json_option
def presets(as_json: bool) -> None:
    """List the chains that have a name: ours, and your settings' own, which go first. What is off is in brackets."""
    loaded = load_settings(find_locations())
    for problem in loaded.problems:
        click.echo(f"gpt-tui: {problem}", err=True)
    own = loaded.settings.presets
    found, rows = [], []
    for name, text in (PRESETS | dict(own)).items():
        about: dict[str, Any] = {"name": name, "from": loaded.origins["presets"] if name in own else "gpt-tui"}
        try:
            chain = Chain.parse(text)
            stages = [{"stage": format_stage(stage), "off": is_off(stage)} for stage in chain]
            found.append(about | {"chain": str(chain), "stages": stages})
            shown = " ".join(f"({each['stage']})" if each["off"] else str(each["stage"]) for each in stages)
        except ChainError as error:  # a stage's plugin is gone
            found.append(about | {"chain": text, "error": str(error)})
            shown = str(error)
        rows.append([name, about["from"], shown or "the model's own distribution"])
    click.echo(to_json(found, indent=2) if as_json else format_table(["name", "from", "chain"], rows))


samplers.add_command(explain)


def _state(name: str, load: Callable[[str], type]) -> tuple[str, str]:
    """Return "ok" and the first line of a plugin's documentation, or "broken" and why."""
    try:
        return "ok", (inspect.getdoc(load(name)) or "").partition("\n")[0]
    except ChainError as error:
        return "broken", str(error)


def _to_dict(parameter: Parameter) -> dict[str, Any]:
    param = parameter.param
    limits = {"lo": param.lo, "hi": param.hi, "step": param.step, "off": param.off, "log": param.log}
    return {"name": parameter.name, "type": parameter.kind.__name__, "default": parameter.default, **limits,
            "help": param.help}  # fmt: skip
