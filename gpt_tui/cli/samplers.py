"""gpt-tui samplers: which stages and presets there are, what they take, and whether a chain can be."""

import inspect
from typing import Any

import click

from gpt_tui.cli.explain import explain
from gpt_tui.cli.json_text import to_json
from gpt_tui.cli.options import complete_chain, json_option
from gpt_tui.cli.table import format_fields, format_table
from gpt_tui.locations import find_locations
from gpt_tui.settings import load_settings
from samplers import (
    PRESETS,
    Chain,
    ChainError,
    Parameter,
    format_stage,
    is_off,
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
    """List every stage that is installed; a broken one with its error."""
    found = [
        {
            "name": name, "distribution": entry.distribution, "version": entry.version,
            **dict(zip(("state", "about"), _state(name), strict=True)),
        }
        for name, entry in stage_entries().items()
    ]  # fmt: skip
    if as_json:
        click.echo(to_json(found, indent=2))
        return
    header = ["name", "version", "distribution", "state", "about"]
    click.echo(format_table(header, [[each[column] for column in header] for each in found]))


@samplers.command()
@click.argument("name", shell_complete=complete_chain)
@json_option
def show(name: str, as_json: bool) -> None:
    """Show what a stage does and what it takes."""
    stage = load_stage(name)
    entry = stage_entries()[name]
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


def _state(name: str) -> tuple[str, str]:
    """Return "ok" and the first line of a stage's documentation, or "broken" and why."""
    try:
        return "ok", (inspect.getdoc(load_stage(name)) or "").partition("\n")[0]
    except ChainError as error:
        return "broken", str(error)


def _to_dict(parameter: Parameter) -> dict[str, Any]:
    param = parameter.param
    limits = {"lo": param.lo, "hi": param.hi, "step": param.step, "off": param.off, "log": param.log}
    return {"name": parameter.name, "type": parameter.kind.__name__, "default": parameter.default, **limits,
            "help": param.help}  # fmt: skip
