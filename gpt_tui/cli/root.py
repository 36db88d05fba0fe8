"""The root command: the app without a subcommand, and the list of subcommands, none of which it imports."""

import os
import sys
from typing import Any

import click

from gpt_tui.cli.lazy_group import LazyGroup
from gpt_tui.cli.options import settings_options

_COMMANDS = {
    "complete": ("gpt_tui.cli.complete:complete", "Continue a text: stdin or an argument in, text out."),
    "train": ("gpt_tui.cli.train:train", "Train a model on your own text."),
    "runs": ("gpt_tui.cli.runs:runs", "List, watch and command training runs."),
    "models": ("gpt_tui.cli.models:models", "List, import and export checkpoints."),
    "eval": ("gpt_tui.cli.evaluate:evaluate", "Loss, perplexity and bits per byte on a text."),
    "samplers": ("gpt_tui.cli.samplers:samplers", "The stages that a chain can be made of."),
    "config": ("gpt_tui.cli.config:config", "Settings: where they are, what is in force, change one."),
    "bench": ("gpt_tui.cli.bench:bench", "How fast models generate here, beside the machine's limits."),
    "engine": ("gpt_tui.cli.engine:engine", "Serve the app's wire on standard input and output."),
    "web": ("gpt_tui.cli.web:web", "The completion page for a browser (extra: web)."),
    "completion": ("gpt_tui.cli.completion:completion", "A script that teaches the shell to complete commands."),
}

_EXIT_CODES = """\b
Exit codes:
  0    fine
  1    failed while running
  2    wrong usage, settings, text or chain
  3    checkpoint missing or unusable
  130  interrupted    141  output closed    143  terminated"""


def _show_version(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from importlib.metadata import version

        python = ".".join(map(str, sys.version_info[:3]))
        click.echo(f"gpt-tui {version('gpt-tui')} (Python {python}, torch {version('torch')})")
        context.exit()


@click.group(
    cls=LazyGroup, lazy=_COMMANDS, invoke_without_command=True, epilog=_EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
@settings_options
@click.option("--theme", metavar="THEME", help="The app's colours.  [setting]")
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show versions."
)
@click.pass_context
def root(context: click.Context, /, **flags: Any) -> int:
    """Train small GPT-2 class models and study how they write, in a terminal.

    Without a command the app opens; text piped into it becomes its prompt.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    if context.invoked_subcommand is None:
        return _open_app(given)
    if given:
        option = f"--{next(iter(given)).replace('_', '-')}"
        raise click.UsageError(f"{option} belongs behind the command: gpt-tui {context.invoked_subcommand} {option} …")
    return 0


def _open_app(flags: dict[str, Any]) -> int:
    if os.environ.get("TERM", "") == "dumb" or not (sys.stdout.isatty() and sys.stderr.isatty()):
        raise click.UsageError("The app needs a terminal that can be drawn on. For pipes: gpt-tui complete.")
    prompt = None
    if not sys.stdin.isatty():
        prompt = _read_prompt_and_reopen_terminal()
    from gpt_tui.app import run_app
    from gpt_tui.locations import find_locations

    return run_app(find_locations(), flags, prompt)


def _read_prompt_and_reopen_terminal() -> str:
    """Return what was piped in, and give the app the terminal's keys.

    Done before Textual is imported: it reads keys from `sys.__stdin__`, whatever that is then.
    """
    from gpt_tui.cli.prompt_source import decode_prompt, has_piped_text

    if not has_piped_text():
        raise click.UsageError("The app needs a terminal for its keys. For pipes: gpt-tui complete.")
    prompt = decode_prompt(sys.stdin.buffer.read(), "Standard input")
    try:
        terminal = os.open("/dev/tty", os.O_RDWR)
    except OSError:
        raise click.UsageError("There is no terminal to read keys from. For pipes: gpt-tui complete.") from None
    os.dup2(terminal, 0)
    os.close(terminal)
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    return prompt
