"""How fast a chain decides and draws: ours beside transformers' processors and torch.multinomial, interleaved, medians.

python benchmarks/chains.py [--rounds 200] [--json]

On one thread, on a vocabulary of 50,257, on logits with a trained model's entropy and on flat ones.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from gpt_model.compiled.drawer import Drawer
from gpt_model.compiled.machine_code import compile_missing
from samplers import Chain, ChainRun, keyed_uniform

VOCAB = 50_257
PROMPT = 128

PEERS: dict[str, list[object]] = {
    "repetition_penalty=1.1,top_k=40,top_p=0.95,min_p=0.05,temperature=0.8": [
        RepetitionPenaltyLogitsProcessor(1.1), TopKLogitsWarper(40), TopPLogitsWarper(0.95), MinPLogitsWarper(0.05),
        TemperatureLogitsWarper(0.8),
    ],
    "top_p=0.9": [TopPLogitsWarper(0.9)],
    "min_p=0.05,temperature=0.8": [MinPLogitsWarper(0.05), TemperatureLogitsWarper(0.8)],
    "typical=0.9": [TypicalLogitsWarper(0.9)],
}  # fmt: skip


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    compile_missing(("scan", "draw"), lambda sentence: None)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(VOCAB, (1, PROMPT), generator=generator)
    kinds = {"trained": 1.2, "flat": 0.05}  # how fast probabilities fall
    told = []
    for kind, exponent in kinds.items():
        rows = [_row(exponent, generator) for _ in range(16)]
        entropy = statistics.mean(float(torch.distributions.Categorical(logits=row).entropy()) for row in rows)
        for spec, processors in PEERS.items():
            rounds = options.rounds if kind == "trained" else max(options.rounds // 5, 5)
            ours, theirs = _ours(spec, tokens), _theirs(processors, tokens)
            seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
            for number in range(-3, rounds):
                for name, step in (("ours", ours), ("theirs", theirs)):
                    row = rows[number % len(rows)].clone()
                    began = time.perf_counter()
                    step(row)
                    if number >= 0:
                        seconds[name].append(time.perf_counter() - began)
            mine, other = (statistics.median(seconds[name]) * 1e3 for name in ("ours", "theirs"))
            told.append({"logits": kind, "entropy": entropy, "chain": spec, "ms": mine, "transformers_ms": other})
    if options.json:
        print(json.dumps(told, indent=2))
        return
    print(f"vocabulary {VOCAB:,}, 1 thread, medians; the chain, the draw and what is told of the token\n")
    print(f"{'logits':<18}{'ms':>8}{'transformers':>14}{'×':>8}  chain")
    for each in told:
        kind = f"{each['logits']} {each['entropy']:.1f} nats"
        ratio = each["transformers_ms"] / each["ms"]
        print(f"{kind:<18}{each['ms']:>8.3f}{each['transformers_ms']:>14.3f}{ratio:>8.1f}  {each['chain']}")


def _row(exponent: float, generator: torch.Generator) -> Tensor:
    """Return logits (1, V) whose probabilities fall by a power of their rank, in a random order, a little rough."""
    ranks = torch.arange(1, VOCAB + 1, dtype=torch.float64)
    rough = torch.randn(VOCAB, generator=generator, dtype=torch.float64) * 0.1
    logits = -exponent * 1.5 * ranks.log() + rough
    return logits[torch.randperm(VOCAB, generator=generator)].float()[None]


def _ours(spec: str, tokens: Tensor) -> Callable[[Tensor], object]:
    run, drawer = ChainRun(Chain.parse(spec), [1]), Drawer(VOCAB)
    step = iter(range(10**9))

    @torch.inference_mode()
    def decide(logits: Tensor) -> object:
        rows = drawer.finite(logits)
        chosen = run.process(rows, tokens, 0).chosen
        return drawer(rows, chosen, [keyed_uniform(1, next(step))], 10)

    return decide


def _theirs(processors: list[object], tokens: Tensor) -> Callable[[Tensor], object]:
    chain = LogitsProcessorList(processors)

    @torch.inference_mode()
    def decide(logits: Tensor) -> object:
        return torch.multinomial(chain(tokens, logits).softmax(dim=-1), 1).item()

    return decide


if __name__ == "__main__":
    main()
