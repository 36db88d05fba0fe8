"""Options and arguments that several commands share, and what the shell completes for them."""

from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def settings_options(command: Decorated) -> Decorated:
    """Add the options that stand for a setting each, under the setting's own name."""
    command = compute_options(command)
    for option in reversed((
        click.option(
            "-m", "--checkpoint", metavar="CHECKPOINT", shell_complete=complete_checkpoint,
            help="A path, a model, RUN, RUN:best, RUN:last or RUN:STEP.  [setting, else the newest]",
        ),
        click.option(
            "-s", "--chain", metavar="CHAIN", shell_complete=complete_chain,
            help="Stages, such as top_k=40,temperature=0.8, or a preset's name.  [setting]",
        ),
        click.option(
            "--decoder", metavar="DECODER", shell_complete=_complete_decoder,
            help="What drives the model: plain, beam=4, draft:model=CHECKPOINT …  [setting]",
        ),
        click.option(
            "--seed", type=click.IntRange(min=0), metavar="N", help="Seed of the draws.  [setting, else a new one]"
        ),
        click.option(
            "--max-new-tokens", type=click.IntRange(min=1), metavar="N", help="Tokens of a completion.  [setting]"
        ),
    )):  # fmt: skip
        command = option(command)
    return command


def compute_options(command: Decorated) -> Decorated:
    """Add what says where and how precisely to compute."""
    dtype = click.option(
        "--dtype", metavar="DTYPE", shell_complete=_complete_dtype,
        help="Of the weights: auto, float32, float16, bfloat16, int8, int4.  [setting]",
    )  # fmt: skip
    return dtype(place_options(command))


def place_options(command: Decorated) -> Decorated:
    """Add what says where to compute."""
    threads = click.option(
        "--threads", type=click.IntRange(min=0), metavar="N", help="CPU threads; 0: by the model's size.  [setting]"
    )
    return click.option("--device", metavar="DEVICE", help="auto, cpu, cuda or mps.  [setting]")(threads(command))


def _complete_decoder(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from samplers import DECODER_GROUP, entries

    return [CompletionItem(name) for name in entries(DECODER_GROUP) if name.startswith(incomplete)]


def _complete_dtype(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from gpt_model.config import DTYPES

    return [CompletionItem(name) for name in DTYPES if name.startswith(incomplete)]


tokenizer_option = click.option(
    "--tokenizer", type=click.Choice(["gpt2", "bytes"]), help="For a checkpoint that brings none of its own."
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")


def checkpoint_argument(command: Decorated) -> Decorated:
    """Add a required CHECKPOINT."""
    return click.argument("checkpoint", shell_complete=complete_checkpoint)(command)


def run_argument(command: Decorated) -> Decorated:
    """Add a required RUN."""
    return click.argument("run_name", metavar="RUN", shell_complete=complete_run)(command)


def complete_run(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the runs whose names begin so."""
    from gpt_model.runs import list_runs
    from gpt_tui.locations import find_locations

    names = [run.name for run in list_runs(find_locations().runs)]
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def complete_checkpoint(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the checkpoints whose names begin so; the shell adds paths."""
    from gpt_tui.checkpoint_names import list_checkpoints
    from gpt_tui.locations import find_locations

    labels = [each.label for each in list_checkpoints(find_locations())]
    found = [CompletionItem(label) for label in labels if label.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


def complete_chain(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the chains with one stage more whose name begins so, and the presets; no stage is imported."""
    from samplers import PRESETS, stage_names

    before, comma, begun = incomplete.rpartition(",")
    names = stage_names() if comma else sorted({*stage_names(), *PRESETS, *_own_presets()})
    return [CompletionItem(f"{before}{comma}{name}") for name in names if name.startswith(begun)]


def _own_presets() -> list[str]:
    from gpt_tui.locations import find_locations
    from gpt_tui.settings import load_settings

    return list(load_settings(find_locations()).settings.presets)


def parse_settings(context: click.Context, parameter: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str]:
    """Return the settings that `key=value` words stand for, for a click parameter."""
    parsed = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise click.BadParameter(f"'{pair}' is not of the form key=value, such as max_steps=500.")
        parsed[name.strip()] = value.strip()
    return parsed
