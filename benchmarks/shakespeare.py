"""How far a preset comes in how much time: gpt-micro beside the same model trained as nanoGPT does, on one text.

The two take turns of a few steps, so that what else the machine does falls on both; a run's time is its steps times
the median of one. Evaluation, which is not counted, is over the whole end of the text, whose last tenth is not trained
on. Both go through the real Updater, in float32: what is compared is the recipe.

python benchmarks/shakespeare.py TEXT [--preset gpt-micro] [--plain gpt-micro-plain] [--seed 1337] [--threads 0]
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from gpt_model.architectures import build_model
from gpt_model.batches import Batch, Batches, evaluation_batches
from gpt_model.initialisation import zero_residual_projections
from gpt_model.presets import load_preset
from gpt_model.tokenizer import build_tokenizer
from gpt_model.update import Updater

TURNS = 80
"""Into so many the longer of the two is cut; both take as many."""
EVALUATIONS = 20


@dataclass
class Contender:
    """A preset in training."""

    name: str
    seed: int
    train_text: str
    seconds: list[float] = field(default_factory=list)
    """Of every step."""
    curve: list[tuple[int, float]] = field(default_factory=list)
    """Validation losses, in nats a token, and the steps after which they were measured."""

    def __post_init__(self) -> None:
        preset = load_preset(self.name)
        self.train = dataclasses.replace(preset.train, seed=self.seed, device="cpu", precision="float32")
        self.length = self.train.sequence_length or preset.model.block_size
        tokenizer = build_tokenizer(preset.tokenizer)
        tokens = tokenizer.encode_array(self.train_text)
        torch.manual_seed(self.seed)
        model = build_model(dataclasses.replace(preset.model, vocab_size=tokenizer.vocab_size)).train()
        if self.train.zero_init:
            zero_residual_projections(model)
        self.parameters = model.config.parameter_count
        self._updater = Updater(model, self.train)
        self._batches = Batches(tokens, self.train.batch_size, self.length, self.seed)

    def advance(self, share: float) -> None:
        """Train until this share of the steps is done."""
        for step in range(len(self.seconds), round(share * self.train.max_steps)):
            began = time.perf_counter()
            self._updater.update(self._batches.batch(step), step, self.train)
            self.seconds.append(time.perf_counter() - began)

    def evaluate(self, batches: list[Batch]) -> None:
        """Measure the validation loss."""
        loss = self._updater.evaluate(batches, lambda: False)
        assert loss is not None
        self.curve.append((len(self.seconds), loss))

    @property
    def step_seconds(self) -> float:
        """Median time of a step."""
        return statistics.median(self.seconds)

    @property
    def final(self) -> float:
        """Validation loss at the end."""
        return self.curve[-1][1]


def main() -> None:
    """Train both and print their losses against time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--preset", default="gpt-micro")
    parser.add_argument("--plain", default="gpt-micro-plain")
    parser.add_argument("--seed", type=int, default=1337)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    text = options.text.read_text(encoding="utf-8")
    cut = int(len(text) * 0.9)
    plain, ours = (Contender(name, options.seed, text[:cut]) for name in (options.plain, options.preset))
    tokens = build_tokenizer(load_preset(options.preset).tokenizer).encode_array(text[cut:])
    validation = evaluation_batches(tokens, 64, ours.length, len(tokens))
    for turn in range(1, TURNS + 1):
        for contender in (plain, ours):
            contender.advance(turn / TURNS)
            if turn % (TURNS // EVALUATIONS) == 0:
                contender.evaluate(validation)
                step, loss = contender.curve[-1]
                print(f"{contender.name}, step {step:,}: validation loss {loss:.4f}", file=sys.stderr)
    tell(plain, ours)
    if options.json:
        options.json.write_text(json.dumps([to_record(each) for each in (plain, ours)], indent=1) + "\n")


def tell(plain: Contender, ours: Contender) -> None:
    """Print both curves, and when ours crosses where plain ends."""
    whole = plain.step_seconds * len(plain.seconds)
    print(f"{ours.parameters / 1e6:.2f} M parameters, {torch.get_num_threads()} threads")
    for each in (plain, ours):
        train = each.train
        print(
            f"{each.name}: {train.max_steps:,} steps of {train.batch_size} × {each.length} tokens, "
            f"{each.step_seconds * 1000:.1f} ms each"
        )
        for step, loss in each.curve:
            share = step * each.step_seconds / whole
            print(f"  step {step:>5,}  {step * each.step_seconds:>6.1f} s  {share:>4.0%}  validation loss {loss:.4f}")
    crossing = next((step for step, loss in ours.curve if loss <= plain.final), None)
    reached = f"after {crossing * ours.step_seconds / whole:.0%}" if crossing else "not in"
    share = len(ours.seconds) * ours.step_seconds / whole
    print(
        f"{ours.name} reaches {plain.name}'s {plain.final:.4f} {reached} of its time "
        f"and ends at {ours.final:.4f} after {share:.0%} of it"
    )


def to_record(contender: Contender) -> dict[str, object]:
    """Return what JSON takes."""
    return {
        "preset": contender.name, "train": dataclasses.asdict(contender.train), "curve": contender.curve,
        "step_seconds": contender.step_seconds, "steps": len(contender.seconds),
    }  # fmt: skip


if __name__ == "__main__":
    main()
