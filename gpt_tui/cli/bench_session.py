"""Session: a model, opened as a completion opens it, and the machine beside it, for what `gpt-tui bench` measures."""

import statistics
import time
from typing import TYPE_CHECKING, Any

import click

from gpt_tui.checkpoint_names import ResolvedCheckpoint, resolve_checkpoint
from gpt_tui.cli.json_text import to_json
from gpt_tui.cli.table import format_fields
from gpt_tui.locations import find_locations
from gpt_tui.settings import Settings, load_settings
from samplers import named_chain

if TYPE_CHECKING:
    from gpt_model.backend import OpenModel

DEFAULT_CHAIN = Settings().chain
_QUICK = 1.0
"""Seconds that opening a model may take to be measured more than once."""


class Session:
    """Opens the model twice: at first everything that is made once is made, and only then is opening measured."""

    def __init__(self, flags: dict[str, Any]) -> None:
        locations = find_locations()
        loaded = load_settings(locations, flags=flags)
        self._presets = loaded.settings.presets
        for problem in loaded.problems:
            _tell(f"gpt-tui: {problem}")
        settings = loaded.settings
        self.checkpoint: ResolvedCheckpoint = resolve_checkpoint(settings.checkpoint, locations)
        self.place = [
            "-m", str(self.checkpoint.path), "--device", settings.device, "--dtype", settings.dtype,
            "--threads", str(settings.threads),
        ]  # fmt: skip
        """The same choices, as options."""
        began = time.perf_counter()
        from gpt_model.backend import open_model

        self.import_seconds = time.perf_counter() - began

        def opening() -> "tuple[OpenModel, float]":
            began = time.perf_counter()
            opened = open_model(self.checkpoint.path, settings.device, settings.dtype, settings.threads, tell=_tell)
            return opened, time.perf_counter() - began

        self.prepare_seconds = opening()[1]
        self.opened, seconds = opening()
        taken = [seconds]
        while seconds < _QUICK and len(taken) < 3:
            del self.opened  # never two of them in memory
            self.opened, seconds = opening()
            taken.append(seconds)
        self.load_seconds = statistics.median(taken)
        from gpt_model.benchmark import Machine, prompts
        from gpt_model.generation import Engine

        self.machine: Machine = Machine(self.opened)
        self._engine = Engine(self.opened.model, self.opened.tokenizer)
        self._prompts = prompts

    def fitting(self, lengths: list[int]) -> list[int]:
        """Return lengths of prompts that fit into the model's context, each once; say what was shortened."""
        most = self.opened.model.config.block_size
        if max(lengths) > most:
            _tell(f"This model reads {most:,} tokens at most, so longer prompts are measured at that length.")
        return list(dict.fromkeys(min(each, most) for each in lengths))

    def paces(
        self, chain: str | None, counts: list[int], prompt_tokens: int, new_tokens: int, rounds: int
    ) -> tuple[dict[int, list[Any]], dict[str, int]]:
        """Return the pace of each round with so many samples, and the peak of the memory before the machine's own."""
        from gpt_model.benchmark import measure_pace, peak_device_memory, peak_memory

        parsed = named_chain(DEFAULT_CHAIN if chain is None else chain, self._presets)
        paces: dict[int, list[Any]] = {count: [] for count in counts}
        peak: dict[str, int] = {}
        prompts = iter(self._prompts(self.opened.model.config.vocab_size, prompt_tokens))
        for turn in range(rounds + 1):
            for count in counts:
                pace = measure_pace(self._engine, parsed, next(prompts), new_tokens, count)
                if turn:  # the first warms caches
                    paces[count].append(pace)
            if not turn:
                peak["peak_rss_bytes"] = peak_memory()
                if (on_device := peak_device_memory(self.opened)) is not None:
                    peak["peak_device_bytes"] = on_device
            self.machine.measure()
        return paces, peak

    def first_tokens(self, lengths: list[int], rounds: int) -> dict[int, float]:
        """Return the median seconds to the first token for each length of prompt."""
        from gpt_model.benchmark import measure_pace

        chain = named_chain(DEFAULT_CHAIN)
        taken: dict[int, list[float]] = {length: [] for length in lengths}
        streams = {length: iter(self._prompts(self.opened.model.config.vocab_size, length)) for length in lengths}
        for turn in range(rounds + 1):
            for length, stream in streams.items():
                pace = measure_pace(self._engine, chain, next(stream), 1, 1)
                if turn:
                    taken[length].append(pace.time_to_first_token)
            self.machine.measure()
        return {length: statistics.median(values) for length, values in taken.items()}

    def bandwidth_fraction(self, rate: float, samples: int) -> float:
        """Return how much of the memory's bandwidth so many samples take at a rate: all share a look at the weights."""
        from gpt_model.benchmark import bytes_per_token

        return rate / samples * bytes_per_token(self.opened) / self.machine.limits.bandwidth

    def show(self, as_json: bool, values: dict[str, Any], fields: list[tuple[str, str]], table: str = "") -> None:
        """Print the results beside the machine's limits."""
        limits, backend = self.machine.limits, self.opened.backend
        if backend.note:
            _tell(backend.note)
        if as_json:
            about = {
                "schema": 1, "checkpoint": self.checkpoint.label, "backend": str(backend), "dtype": backend.dtype,
                "prepare_seconds": self.prepare_seconds, "load_seconds": self.load_seconds,
                "import_seconds": self.import_seconds,
                "bandwidth_bytes_per_second": limits.bandwidth, "matmul_flops_per_second": limits.matmul,
            }  # fmt: skip
            click.echo(to_json(about | values))
            return
        loading = f"{self.load_seconds:.2f} s, after {self.import_seconds:.2f} s for torch"
        click.echo(format_fields([
            ("checkpoint", self.checkpoint.label),
            ("runs on", str(backend)),
            ("loading", f"{loading}; {self.prepare_seconds:.2f} s the first time"),
            *fields,
            ("machine", f"reads {limits.bandwidth / 1e9:.1f} GB/s, multiplies {limits.matmul / 1e9:.0f} GFLOP/s"),
        ]))  # fmt: skip
        if table:
            click.echo("\n" + table)


def _tell(sentence: str) -> None:
    click.echo(sentence, err=True)
