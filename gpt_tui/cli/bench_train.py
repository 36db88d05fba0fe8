"""gpt-tui bench train: how fast a preset trains here, beside the rate at which this machine multiplies matrices."""

import dataclasses

import click

from gpt_model.presets import PRESETS, load_preset
from gpt_model.processes import keep_freed_memory
from gpt_tui.cli.json_text import to_json
from gpt_tui.cli.options import json_option
from gpt_tui.cli.table import format_bytes, format_fields


@click.command()
@click.option("--preset", "name", default="gpt-micro", metavar="NAME", help=f"{', '.join(PRESETS)}.  [gpt-micro]")
@click.option("--steps", type=click.IntRange(min=1), default=20, metavar="N", help="Medians of so many.  [20]")
@click.option(
    "--precision", type=click.Choice(["auto", "float32", "bfloat16"]), default="auto", help="Of products.  [auto]"
)
@click.option("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or mps.  [auto]")
@click.option("--threads", type=click.IntRange(min=0), default=0, metavar="N", help="CPU threads; 0: torch's choice.")
@json_option
def train(name: str, steps: int, precision: str, device: str, threads: int, as_json: bool) -> None:
    """Tokens a second of training, through everything that updates a run's weights."""
    preset = load_preset(name)
    settings = dataclasses.replace(preset.train, precision=precision, device=device, threads=threads)  # type: ignore[arg-type]
    from gpt_model.step_benchmark import StepBenchmark

    keep_freed_memory()

    pace = StepBenchmark(dataclasses.replace(preset, train=settings)).measure(steps)
    if as_json:
        click.echo(to_json({"schema": 1, "preset": name} | dataclasses.asdict(pace)))
        return
    place = pace.device if pace.device != "cpu" else f"{pace.threads} thread{'s' if pace.threads > 1 else ''}"
    batch, length = pace.batch_size, pace.sequence_length
    click.echo(format_fields([
        ("preset", f"{name}, {pace.parameters / 1e6:.1f} M parameters, {batch} × {length} tokens a step"),
        ("training", f"{pace.tokens_per_second:,.0f} tokens a second, {pace.step_seconds * 1000:,.1f} ms a step"),
        ("computes in", f"{pace.precision}, on {place}"),
        ("machine", f"multiplies {pace.matmul_flops_per_second / 1e9:,.0f} GFLOP/s; a step does "
                    f"{pace.matmul_fraction:.0%} of that"),
        ("peak memory", format_bytes(pace.peak_rss_bytes)),
    ]))  # fmt: skip
