"""gpt-tui bench: how fast a model generates here, beside what this machine can do. Training is in bench_train.py."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from gpt_tui.checkpoint_names import ResolvedCheckpoint, resolve_checkpoint
from gpt_tui.cli.bench_train import train
from gpt_tui.cli.json_text import to_json
from gpt_tui.cli.options import complete_chain, complete_checkpoint, compute_options, json_option
from gpt_tui.cli.table import format_bytes, format_fields, format_table
from gpt_tui.locations import find_locations
from gpt_tui.settings import Settings, load_settings
from samplers import Chain, named_chain

if TYPE_CHECKING:
    from gpt_model.backend import OpenModel


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
    session = _Session(flags)
    paces, peak = session.paces(chain, samples, prompt_tokens, new_tokens, rounds)
    rate = statistics.median(pace.tokens_per_second for pace in paces)
    first = statistics.median(pace.time_to_first_token for pace in paces)
    from gpt_model.benchmark import bytes_per_token

    limits = session.machine.limits
    fraction = rate / samples * bytes_per_token(session.opened) / limits.bandwidth
    session.show(as_json, {
        "tokens_per_second": rate, "time_to_first_token": first, "bandwidth_fraction": fraction,
        "peak_rss_bytes": peak, "samples": samples, "prompt_tokens": prompt_tokens, "new_tokens": new_tokens,
        "chain": chain or Settings().chain,
    }, [
        ("decoding", f"{rate:,.1f} tokens a second, {fraction:.0%} of the memory's bandwidth"),
        ("first token", f"after {first * 1000:,.1f} ms, of a prompt of {prompt_tokens} tokens"),
        ("peak memory", format_bytes(peak)),
    ])  # fmt: skip


@bench.command()
@_options
@click.option("--sizes", default="32,128,512", metavar="N,N…", help="Prompt lengths.  [32,128,512]")
def prefill(sizes: str, rounds: int, as_json: bool, **flags: Any) -> None:
    """How long prompts take to be read."""
    session = _Session(flags)
    lengths = [min(each, session.opened.model.config.block_size) for each in _numbers(sizes)]
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
        for length in dict.fromkeys(lengths)
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
    session = _Session(flags)
    rows = []
    for count in _numbers(samples):
        paces, _ = session.paces(chain, count, prompt_tokens, new_tokens, rounds)
        rate = statistics.median(pace.tokens_per_second for pace in paces)
        rows.append({"samples": count, "tokens_per_second": rate})
    alone = rows[0]["tokens_per_second"] / rows[0]["samples"]
    table = format_table(
        ["samples", "tokens/s", "of one alone"],
        [[str(row["samples"]), f"{row['tokens_per_second']:,.1f}", f"{row['tokens_per_second'] / alone:.2f} ×"]
         for row in rows],
        right=(0, 1, 2),
    )  # fmt: skip
    session.show(as_json, {"batch": rows}, [], table)


@bench.command()
@_options
def load(rounds: int, as_json: bool, **flags: Any) -> None:
    """From the shell to the first token, in processes of their own, beside importing torch alone."""
    loaded = load_settings(find_locations(), flags=flags)
    chosen = resolve_checkpoint(loaded.settings.checkpoint, find_locations())
    settings = loaded.settings
    place = ["--device", settings.device, "--dtype", settings.dtype, "--threads", str(settings.threads)]
    commands = {
        "torch_seconds": [sys.executable, "-c", "import torch"],
        "first_token_seconds": [
            sys.executable, "-m", "gpt_tui", "complete", "-q", "Hello", "-m", str(chosen.path), "--max-new-tokens",
            "1", *place,
        ],
    }  # fmt: skip
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(rounds + 1):
        for name, command in commands.items():
            began = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise click.ClickException((done.stderr.strip().splitlines() or ["it failed"])[-1])
            if turn:  # the first warms the disk
                taken[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    ratio = medians["first_token_seconds"] / medians["torch_seconds"]
    if as_json:
        click.echo(to_json({"schema": 1, "checkpoint": chosen.label, **medians, "ratio": ratio}))
        return
    click.echo(format_fields([
        ("checkpoint", chosen.label),
        ("first token", f"{medians['first_token_seconds']:.2f} s after the shell's return key"),
        ("import torch", f"{medians['torch_seconds']:.2f} s, of which it takes {ratio:.2f} ×"),
    ]))  # fmt: skip


class _Session:
    """A model, opened as a completion opens it, and the machine beside it."""

    def __init__(self, flags: dict[str, Any]) -> None:
        self._locations = find_locations()
        loaded = load_settings(self._locations, flags=flags)
        self._presets = loaded.settings.presets
        for problem in loaded.problems:
            click.echo(f"gpt-tui: {problem}", err=True)
        settings = loaded.settings
        self.checkpoint: ResolvedCheckpoint = resolve_checkpoint(settings.checkpoint, self._locations)
        began = time.perf_counter()
        import torch

        from gpt_model.backend import open_model

        self.import_seconds = time.perf_counter() - began
        tell = lambda sentence: click.echo(sentence, err=True)  # noqa: E731
        began = time.perf_counter()
        self.opened: OpenModel = open_model(
            self.checkpoint.path, settings.device, settings.dtype, settings.threads, tell=tell
        )
        self.load_seconds = time.perf_counter() - began
        from gpt_model.benchmark import Machine, prompts
        from gpt_model.generation import Engine

        self.machine: Machine = Machine(self.opened.backend.threads or torch.get_num_threads())
        self._engine = Engine(self.opened.model, self.opened.tokenizer)
        self._prompts = prompts

    def paces(
        self, chain: str | None, samples: int, prompt_tokens: int, new_tokens: int, rounds: int
    ) -> tuple[list[Any], int]:
        """Return the pace of each round and the peak of the memory before the machine's own measures."""
        from gpt_model.benchmark import measure_pace, peak_memory

        parsed = named_chain(chain or Settings().chain, self._presets)
        paces, peak = [], 0
        for turn, prompt in zip(
            range(rounds + 1), self._prompts(self.opened.model.config.vocab_size, prompt_tokens), strict=False
        ):
            pace = measure_pace(self._engine, parsed, prompt, new_tokens, samples)
            if turn:  # the first warms caches
                paces.append(pace)
            else:
                peak = peak_memory()
            self.machine.measure()
        return paces, peak

    def first_tokens(self, lengths: list[int], rounds: int) -> dict[int, float]:
        """Return the median seconds to the first token for each length of prompt."""
        from gpt_model.benchmark import measure_pace

        taken: dict[int, list[float]] = {length: [] for length in lengths}
        streams = {length: iter(self._prompts(self.opened.model.config.vocab_size, length)) for length in lengths}
        for turn in range(rounds + 1):
            for length, stream in streams.items():
                pace = measure_pace(self._engine, Chain.parse(Settings().chain), next(stream), 1, 1)
                if turn:
                    taken[length].append(pace.time_to_first_token)
            self.machine.measure()
        return {length: statistics.median(values) for length, values in taken.items()}

    def show(self, as_json: bool, values: dict[str, Any], fields: list[tuple[str, str]], table: str = "") -> None:
        """Print the results beside the machine's limits."""
        limits, backend = self.machine.limits, self.opened.backend
        if backend.note:
            click.echo(backend.note, err=True)
        if as_json:
            about = {
                "schema": 1, "checkpoint": self.checkpoint.label, "backend": str(backend), "dtype": backend.dtype,
                "load_seconds": self.load_seconds, "import_seconds": self.import_seconds,
                "bandwidth_bytes_per_second": limits.bandwidth, "matmul_flops_per_second": limits.matmul,
            }  # fmt: skip
            click.echo(to_json(about | values))
            return
        click.echo(format_fields([
            ("checkpoint", self.checkpoint.label),
            ("runs on", str(backend)),
            ("loading", f"{self.load_seconds:.2f} s, after {self.import_seconds:.2f} s for torch"),
            *fields,
            ("machine", f"reads {limits.bandwidth / 1e9:.1f} GB/s, multiplies {limits.matmul / 1e9:.0f} GFLOP/s"),
        ]))  # fmt: skip
        if table:
            click.echo("\n" + table)


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise click.UsageError(f"'{text}': must be whole numbers above 0, parted by commas, such as 1,8.")
    return numbers
