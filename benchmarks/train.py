"""How fast a preset trains: the Updater beside a plain step as nanoGPT writes it, interleaved, medians.

The plain step is eager torch in float32: all logits, F.cross_entropy, clip_grad_norm_, AdamW that is not fused. Peak
memory is that of processes that make nothing but two steps of one kind.

python benchmarks/train.py [--preset gpt-micro] [--batch-size N] [--rounds 20] [--threads 0]
"""

import argparse
import dataclasses
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from gpt_model.benchmark import peak_memory
from gpt_model.model import GPT
from gpt_model.presets import Preset, load_preset
from gpt_model.step_benchmark import StepBenchmark, random_batch, step_operations

KINDS = ("plain", "float32", "auto")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="gpt-micro")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--memory-of", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    preset = load_preset(options.preset)
    fair = {"device": "cpu", "warmup_steps": 0, "optimizer": "adamw", "ema_decay": 0.0}  # what the plain step has too
    if options.batch_size:
        fair["batch_size"] = options.batch_size
    preset = dataclasses.replace(preset, train=dataclasses.replace(preset.train, **fair))  # type: ignore[arg-type]
    if options.memory_of:
        step = stepper(preset, options.memory_of)
        for turn in range(2):
            step(turn)
        print(peak_memory())
        return

    peaks = {kind: measured_apart(kind, sys.argv[1:]) for kind in KINDS}
    length = preset.train.sequence_length or preset.model.block_size
    steps = {kind: stepper(preset, kind) for kind in KINDS}
    machines = {kind: machine(preset, kind) for kind in KINDS if kind != "plain"}
    taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
    rates: dict[str, list[float]] = {kind: [] for kind in machines}
    for turn in range(options.rounds + 2):
        for kind, step in steps.items():
            seconds = step(turn)
            if turn > 1:  # the first two warm
                taken[kind].append(seconds)
        if turn % max(options.rounds // 10, 1) == 0:
            for kind, rate in machines.items():
                rates[kind].append(rate())
    size, tokens = preset.model.parameter_count / 1e6, preset.train.batch_size * length
    print(f"{options.preset}: {size:.1f} M parameters, {tokens:,} tokens a step, {torch.get_num_threads()} threads")
    operations = step_operations(preset.model, preset.train.batch_size, length)
    for kind, measured in taken.items():
        seconds = statistics.median(measured)
        ratio = statistics.median(a / b for a, b in zip(taken["plain"], measured, strict=True))
        rate = statistics.median(rates.get(kind, rates["float32"]))
        print(
            f"{kind:<8} {seconds * 1000:>9,.1f} ms {tokens / seconds:>9,.0f} tok/s  × {ratio:.2f}  "
            f"{operations / seconds / rate:>4.0%} of {rate / 1e9:,.0f} GFLOP/s  "
            f"{peaks[kind] / 2**20:>7,.0f} MiB  × {peaks[kind] / peaks['plain']:.2f}"
        )


def stepper(preset: Preset, kind: str) -> Callable[[int], float]:
    """Return what makes the step of a number and tells the seconds it took."""
    return plain_stepper(preset) if kind == "plain" else benchmark(preset, kind).step


def machine(preset: Preset, kind: str) -> Callable[[], float]:
    """Return what measures the rate of large products in the precision in which a kind computes."""
    small = dataclasses.replace(preset, model=dataclasses.replace(preset.model, n_layer=1, vocab_size=2))
    return benchmark(small, kind).matmul_rate


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
        lr=train.learning_rate, betas=(train.beta1, train.beta2), fused=False,
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


def measured_apart(kind: str, arguments: list[str]) -> int:
    """Return the peak memory of a process of its own, in bytes."""
    command = [sys.executable, __file__, *arguments, "--memory-of", kind]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    main()
