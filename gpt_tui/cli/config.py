"""gpt-tui config: where settings are, what is in force and why, and how to change one."""

import os
import shlex
import subprocess
from collections.abc import Mapping
from typing import Any

import click
import tomli_w
from click.shell_completion import CompletionItem

from gpt_model.errors import ConfigError, did_you_mean
from gpt_tui.locations import find_locations
from gpt_tui.settings import (
    Settings,
    load_settings,
    save_setting,
    setting_docs,
    setting_types,
    write_text_atomically,
)


def _complete_setting(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in setting_types() if name.startswith(incomplete)]


setting_argument = click.argument("name", shell_complete=_complete_setting)


@click.group()
def config() -> None:
    """Settings: where they are, what is in force, change one.

    A flag goes before GPT_TUI_NAME in the environment, that before ./gpt-tui.toml, that before your settings.toml.
    """


@config.command()
def path() -> None:
    """Print where your settings.toml is, or will be."""
    click.echo(find_locations().settings_file)


@config.command()
@click.option("--origin", is_flag=True, help="Say where each value comes from.")
def show(origin: bool) -> None:
    """Print the settings in force and what each is for, as TOML."""
    loaded = load_settings(find_locations())
    for name, doc in setting_docs().items():
        value = getattr(loaded.settings, name)
        click.echo(f"# {doc}")
        line = f"# {name} is not set" if value is None else _toml(name, value)
        click.echo(f"{line}  # {loaded.origins[name]}" if origin else line)
    _tell(loaded.problems)


@config.command()
@setting_argument
def get(name: str) -> None:
    """Print one setting that is in force: a list a line each, nothing for what is not set."""
    _require(name)
    loaded = load_settings(find_locations())
    value = getattr(loaded.settings, name)
    if isinstance(value, Mapping):
        value = tuple(f"{key} = {keys}" for key, keys in value.items())
    for each in value if isinstance(value, tuple) else () if value is None else (value,):
        click.echo(each)
    _tell(loaded.problems)


@config.command("set")
@setting_argument
@click.argument("values", metavar="VALUE...", nargs=-1, required=True)
def set_(name: str, values: tuple[str, ...]) -> None:
    """Keep a setting in your settings.toml; `none` unsets a seed, several VALUEs make a list of stops."""
    _require(name)
    if len(values) > 1 and name != "stop":
        raise click.UsageError(f"{name} takes one value. Quote a value with spaces in it.")
    locations = find_locations()
    if told := save_setting(locations, name, values if name == "stop" else values[0]):
        click.echo(told, err=True)
    winner = load_settings(locations).origins[name]
    if winner not in (str(locations.settings_file), "default"):
        click.echo(f"Saved, but {winner} says otherwise, and goes first.", err=True)


@config.command()
def edit() -> int:
    """Open your settings.toml in your editor ($VISUAL or $EDITOR), and check it afterwards."""
    file = find_locations().settings_file
    try:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_text_atomically(file, _template())
        editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
        code = subprocess.run([*shlex.split(editor), str(file)], check=False).returncode
    except OSError as error:
        raise ConfigError(f"{file} cannot be edited: {error}. Set EDITOR to an editor that is installed.") from error
    if code:
        raise ConfigError(f"The editor ended with {code}; {file} is as the editor left it.")
    return _check()


@config.command()
def validate() -> int:
    """Check every source of settings; exit with 2 if something in one is wrong."""
    return _check()


def _check() -> int:
    problems = load_settings(find_locations()).problems
    _tell(problems)
    if not problems:
        click.echo("The settings are fine.", err=True)
    return 2 if problems else 0


def _require(name: str) -> None:
    if name not in setting_types():
        raise ConfigError(f"There is no setting '{name}'.{did_you_mean(name, setting_types())}")


def _tell(problems: list[str]) -> None:
    for problem in problems:
        click.echo(f"gpt-tui: {problem}", err=True)


def _toml(name: str, value: Any) -> str:
    """Return a setting as one line of TOML; a table is written inline."""
    if isinstance(value, Mapping):
        pairs = ", ".join(tomli_w.dumps({key: keys}).strip() for key, keys in value.items())
        return f"{name} = {{ {pairs} }}" if pairs else f"{name} = {{}}"
    text = tomli_w.dumps({name: list(value) if isinstance(value, tuple) else value}).strip()
    return " ".join(part.strip() for part in text.splitlines())


def _template() -> str:
    """Return a settings.toml in which every setting stands with its default, commented out."""
    defaults = Settings()
    lines = ["# Settings of gpt-tui. Take the # away from what you change; `gpt-tui config validate` checks it.", ""]
    for name, doc in setting_docs().items():
        value = getattr(defaults, name)
        lines.append(f"## {doc}")
        lines.append(f"# {_toml(name, 1 if value is None else value)}")
    return "\n".join(lines) + "\n"
