"""How fast a preset trains: the Updater beside a plain step as nanoGPT writes it, interleaved, medians.

The plain step is eager torch in float32: all logits, F.cross_entropy, clip_grad_norm_, AdamW that is not fused. Each
kind has a process of its own, and they take turns of half a second and a step at least: what a step of a run finds in
the caches is what the step before left there. A kind's peak memory is that after four turns, which
are not counted.

python benchmarks/train.py [--preset gpt-micro] [--batch-size N] [--rounds 10] [--threads 0]
"""

import argparse
import dataclasses
import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch
from torch.nn import functional as F

from gpt_model.benchmark import peak_memory
from gpt_model.model import GPT
from gpt_model.presets import Preset, load_preset
from gpt_model.processes import keep_freed_memory
from gpt_model.step_benchmark import StepBenchmark, random_batch, step_operations

KINDS = ("plain", "float32", "auto")
_TURN_SECONDS = 0.5
_WARM = 4
"""Turns before those that count: so long the allocator finds new places, and a page that is new costs."""


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="gpt-micro")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    preset = load_preset(options.preset)
    fair = {"device": "cpu", "warmup_steps": 0, "optimizer": "adamw", "ema_decay": 0.0}  # what the plain step has too
    if options.batch_size:
        fair["batch_size"] = options.batch_size
    preset = dataclasses.replace(preset, train=dataclasses.replace(preset.train, threads=options.threads, **fair))  # type: ignore[arg-type]
    runners = {kind: Runner(preset, kind) for kind in KINDS}
    taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
    rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
    peaks: dict[str, int] = {}
    for turn in range(options.rounds + _WARM):
        for kind, runner in runners.items():
            seconds = runner.ask("step", turn)
            if turn >= _WARM:
                taken[kind].append(seconds)
            else:
                peaks[kind] = int(runner.ask("peak"))
        if turn % max(options.rounds // 10, 1) == 0:
            for kind, runner in runners.items():
                rates[kind].append(runner.ask("rate"))
    threads = int(runners["plain"].ask("threads"))
    for runner in runners.values():
        runner.end()
    length = preset.train.sequence_length or preset.model.block_size
    size, tokens = preset.model.parameter_count / 1e6, preset.train.batch_size * length
    print(f"{options.preset}: {size:.1f} M parameters, {tokens:,} tokens a step, {threads} threads")
    operations = step_operations(preset.model, preset.train.batch_size, length)
    for kind, measured in taken.items():
        seconds = statistics.median(measured)
        ratio = statistics.median(a / b for a, b in zip(taken["plain"], measured, strict=True))
        rate = statistics.median(rates[kind])
        print(
            f"{kind:<8} {seconds * 1000:>9,.1f} ms {tokens / seconds:>9,.0f} tok/s  × {ratio:.2f}  "
            f"{operations / seconds / rate:>4.0%} of {rate / 1e9:,.0f} GFLOP/s  "
            f"{peaks[kind] / 2**20:>7,.0f} MiB  × {peaks[kind] / peaks['plain']:.2f}"
        )


class Runner:
    """A process that makes steps of one kind when it is asked to, so that each has its own memory and allocator."""

    def __init__(self, preset: Preset, kind: str) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, other = spawn.Pipe()
        self._process = spawn.Process(target=answer, args=(other, preset, kind), daemon=True)
        self._process.start()

    def ask(self, what: str, turn: int = 0) -> float:
        """Have it make a turn's steps, or tell its matmul rate, peak memory or threads."""
        self._pipe.send((what, turn))
        return float(self._pipe.recv())

    def end(self) -> None:
        """Let it end."""
        self._pipe.send(("end", 0))
        self._process.join()


def answer(pipe: Connection, preset: Preset, kind: str) -> None:
    """Do in this process what is asked for through a pipe."""
    precision = "float32" if kind == "plain" else kind
    small = dataclasses.replace(preset, model=dataclasses.replace(preset.model, n_layer=1, vocab_size=2))
    machine = benchmark(small, precision)  # sets the threads too
    if kind == "plain":
        step = plain_stepper(preset)
    else:
        keep_freed_memory()  # as the worker of a run does
        step = benchmark(preset, kind).step
    doing: dict[str, Callable[[], float]] = {
        "rate": machine.matmul_rate, "peak": peak_memory, "threads": torch.get_num_threads,
    }  # fmt: skip
    while (asked := pipe.recv())[0] != "end":
        what, turn = asked
        pipe.send(steps(step, turn) if what == "step" else doing[what]())


def steps(step: Callable[[int], float], turn: int) -> float:
    """Make a turn's steps and return the median of their seconds."""
    until, taken = time.perf_counter() + _TURN_SECONDS, []
    while not taken or time.perf_counter() < until:
        taken.append(step(turn))
    return statistics.median(taken)


def benchmark(preset: Preset, precision: str) -> StepBenchmark:
    """Return the preset's Updater in a precision."""
    train = dataclasses.replace(preset.train, precision=precision)  # type: ignore[arg-type]
    return StepBenchmark(dataclasses.replace(preset, train=train))


def plain_stepper(preset: Preset) -> Callable[[int], float]:
    """Return nanoGPT's step."""
    torch.manual_seed(0)
    config, train = preset.model, preset.train
    model = GPT(config).train()
    optimizer = torch.optim.AdamW(
        [
            {"params": [each for each in model.parameters() if each.dim() >= 2], "weight_decay": train.weight_decay},
            {"params": [each for each in model.parameters() if each.dim() < 2], "weight_decay": 0.0},
        ],
        lr=1e-9, betas=(train.beta1, train.beta2), fused=False,
    )  # fmt: skip

    def step(turn: int) -> float:
        length = train.sequence_length or config.block_size
        ids, targets = (
            torch.from_numpy(part) for part in random_batch(config.vocab_size, train.batch_size, length, turn)
        )
        began = time.perf_counter()
        logits = model(ids)
        loss = F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), train.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - began

    return step


if __name__ == "__main__":
    main()
