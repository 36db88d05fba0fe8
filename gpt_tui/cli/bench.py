"""gpt-tui bench: how fast a model generates here, beside what this machine can do. Training is in bench_train.py."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from gpt_model.head_start import begin_opening
from gpt_tui.checkpoint_names import resolve_checkpoint
from gpt_tui.cli.bench_session import DEFAULT_CHAIN, Session
from gpt_tui.cli.bench_train import train
from gpt_tui.cli.options import complete_chain, complete_checkpoint, compute_options, json_option
from gpt_tui.cli.table import format_bytes, format_table
from gpt_tui.locations import find_locations
from gpt_tui.settings import load_settings


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        json_option,
        click.option("--rounds", type=click.IntRange(min=1), default=5, metavar="N", help="Medians of so many.  [5]"),
        compute_options,
        click.option(
            "-m", "--checkpoint", metavar="CHECKPOINT", shell_complete=complete_checkpoint,
            help="A path, a model, RUN, RUN:best …; without a tokenizer too.  [setting, else the newest]",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


_chain_option = click.option(
    "-s", "--chain", metavar="CHAIN", shell_complete=complete_chain, help="Stages.  [the default chain]"
)
_new_tokens = click.option("--new-tokens", type=click.IntRange(min=2), default=128, metavar="N", help="[128]")


def _prompt_tokens(default: int) -> Callable[..., Any]:
    return click.option(
        "--prompt-tokens", type=click.IntRange(min=1), default=default, metavar="N", help=f"[{default}]"
    )


@click.group()
def bench() -> None:
    """Measure generation and training on this machine, beside the limits of its memory and its cores."""


bench.add_command(train)


@bench.command()
@_options
@_chain_option
@click.option("-n", "--samples", type=click.IntRange(min=1), default=1, metavar="N", help="At a time.  [1]")
@_prompt_tokens(32)
@_new_tokens
def decode(
    chain: str | None, samples: int, prompt_tokens: int, new_tokens: int, rounds: int, as_json: bool, **flags: Any
) -> None:
    """Tokens a second, and the time to the first one."""
    session = Session(flags)
    (prompt_tokens,) = session.fitting([prompt_tokens])
    paces, peak = session.paces(chain, [samples], prompt_tokens, new_tokens, rounds)
    rate = statistics.median(pace.tokens_per_second for pace in paces[samples])
    first = statistics.median(pace.time_to_first_token for pace in paces[samples])
    fraction = session.bandwidth_fraction(rate, samples)
    session.show(as_json, {
        "tokens_per_second": rate, "time_to_first_token": first, "bandwidth_fraction": fraction,
        **peak, "samples": samples, "prompt_tokens": prompt_tokens, "new_tokens": new_tokens,
        "chain": DEFAULT_CHAIN if chain is None else chain,
    }, [
        ("decoding", f"{rate:,.1f} tokens a second, {fraction:.0%} of the memory's bandwidth"),
        ("first token", f"after {first * 1000:,.1f} ms, of a prompt of {prompt_tokens} tokens"),
        *(("peak memory", format_bytes(size) + (" on the device" if "device" in name else ""))
          for name, size in peak.items()),
    ])  # fmt: skip


@bench.command()
@_options
@click.option("--sizes", default="32,128,512", metavar="N,N…", help="Prompt lengths.  [32,128,512]")
def prefill(sizes: str, rounds: int, as_json: bool, **flags: Any) -> None:
    """How long prompts take to be read."""
    numbers = _numbers(sizes)
    session = Session(flags)
    lengths = session.fitting(numbers)
    from gpt_model.benchmark import prefill_operations

    seconds = session.first_tokens(lengths, rounds)
    rows = [
        {
            "prompt_tokens": length,
            "time_to_first_token": seconds[length],
            "tokens_per_second": length / seconds[length],
            "matmul_fraction": prefill_operations(session.opened, length) / seconds[length]
            / session.machine.limits.matmul,
        }
        for length in lengths
    ]  # fmt: skip
    table = format_table(
        ["prompt", "first token", "tokens/s", "of the matmul rate"],
        [
            [str(row["prompt_tokens"]), f"{row['time_to_first_token'] * 1000:,.1f} ms",
             f"{row['tokens_per_second']:,.0f}", f"{row['matmul_fraction']:.0%}"]
            for row in rows
        ],
        right=(0, 1, 2, 3),
    )  # fmt: skip
    session.show(as_json, {"prefill": rows}, [], table)


@bench.command()
@_options
@_chain_option
@click.option("--samples", default="1,2,4,8", metavar="N,N…", help="Samples at a time.  [1,2,4,8]")
@_prompt_tokens(32)
@_new_tokens
def batch(
    chain: str | None, samples: str, prompt_tokens: int, new_tokens: int, rounds: int, as_json: bool, **flags: Any
) -> None:
    """Tokens a second of several samples at a time."""
    counts = list(dict.fromkeys(_numbers(samples)))
    session = Session(flags)
    (prompt_tokens,) = session.fitting([prompt_tokens])
    paces, _ = session.paces(chain, counts, prompt_tokens, new_tokens, rounds)
    rows: list[dict[str, Any]] = []
    for count in counts:
        rate = statistics.median(pace.tokens_per_second for pace in paces[count])
        fraction = session.bandwidth_fraction(rate, count)
        rows.append({"samples": count, "tokens_per_second": rate, "bandwidth_fraction": fraction})
    base = next((row for row in rows if row["samples"] == 1), rows[0])
    table = format_table(
        ["samples", "tokens/s", "of one alone" if base["samples"] == 1 else f"of {base['samples']} at a time",
         "of the bandwidth"],
        [[str(row["samples"]), f"{row['tokens_per_second']:,.1f}",
          f"{row['tokens_per_second'] / base['tokens_per_second']:.2f} ×", f"{row['bandwidth_fraction']:.0%}"]
         for row in rows],
        right=(0, 1, 2, 3),
    )  # fmt: skip
    session.show(as_json, {"batch": rows, "prompt_tokens": prompt_tokens}, [], table)


@bench.command()
@_options
def load(rounds: int, as_json: bool, **flags: Any) -> None:
    """From the shell to the first token, in processes of their own, beside importing torch alone."""
    session = Session(flags)  # what is made once is made now, and what cannot be is told now
    commands = {
        "torch_seconds": [sys.executable, "-c", "import torch"],
        "first_token_seconds": [sys.executable, "-m", "gpt_tui", "bench", "first-token", *session.place],
    }
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(rounds + 1):
        for name, command in commands.items():
            began = time.perf_counter()
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            if done.returncode:
                click.echo(done.stderr.rstrip() or f"gpt-tui: {name} could not be measured.", err=True)
                raise click.exceptions.Exit(done.returncode if done.returncode > 0 else 1)
            if turn:  # the first warms the disk
                taken[name].append(time.perf_counter() - began)
        session.machine.measure()
    medians = {name: statistics.median(values) for name, values in taken.items()}
    ratio = medians["first_token_seconds"] / medians["torch_seconds"]
    session.show(as_json, {**medians, "ratio": ratio}, [
        ("first token", f"{medians['first_token_seconds']:.2f} s after the shell's return key"),
        ("import torch", f"{medians['torch_seconds']:.2f} s, of which it takes {ratio:.2f} ×"),
    ])  # fmt: skip


@bench.command("first-token", hidden=True)
@click.option("-m", "--checkpoint")
@compute_options
def first_token(**flags: Any) -> None:
    """Open a model, draw one token, and end: what `load` measures from outside."""
    loaded = load_settings(find_locations(), flags=flags)
    settings = loaded.settings
    chosen = resolve_checkpoint(settings.checkpoint, find_locations())

    begin_opening(chosen.path, settings.device, settings.dtype)
    from gpt_model.backend import open_model
    from gpt_model.generation import Engine, Request

    opened = open_model(chosen.path, settings.device, settings.dtype, settings.threads)
    request = Request((0,), settings.parsed_chain(), max_new_tokens=1, candidates=1)
    for event in Engine(opened.model, opened.tokenizer).generate(request):
        click.echo(getattr(event, "text", ""))


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise click.UsageError(f"'{text}': must be whole numbers above 0, parted by commas, such as 1,8.")
    return numbers
