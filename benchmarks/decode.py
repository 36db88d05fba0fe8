"""How fast text is generated: the engine beside eager torch and transformers, same weights, interleaved, medians.

python benchmarks/decode.py [CHECKPOINT] [--dtype auto] [--rounds 5] [--new-tokens 128]
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import GPT2LMHeadModel
from transformers.utils import logging

from gpt_model import Engine, Request
from gpt_model.backend import open_model
from gpt_model.benchmark import prompts
from gpt_model.checkpoint import load_checkpoint
from gpt_tui.locations import bundled_model
from gpt_tui.settings import Settings
from samplers import Chain


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", type=Path, default=bundled_model())
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new-tokens", type=int, default=128)
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()

    opened = open_model(options.checkpoint, "cpu", options.dtype, tell=print)
    eager, tokenizer = load_checkpoint(options.checkpoint)
    theirs = GPT2LMHeadModel.from_pretrained(options.checkpoint, dtype=torch.float32).eval()
    threads = opened.backend.threads or 1
    chain, count = Chain.parse(Settings().chain), options.new_tokens

    def through(engine: Engine, account: bool) -> Callable[[tuple[int, ...]], object]:
        def generate(prompt: tuple[int, ...]) -> object:
            request = Request(prompt, chain, 1, 1, count, ignore_end_of_text=True, account=account)
            return list(engine.generate(request))

        return generate

    @torch.inference_mode()
    def bare_loop(prompt: tuple[int, ...]) -> object:
        cache, ids = eager.new_cache(), torch.tensor([prompt])
        for _ in range(count):
            ids = eager.next_logits(ids, cache).argmax(dim=-1, keepdim=True)
        return ids

    @torch.inference_mode()
    def transformers(prompt: tuple[int, ...]) -> object:
        ids = torch.tensor([prompt])
        return theirs.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=True, min_p=0.05,
            temperature=0.8, top_k=0, pad_token_id=0, eos_token_id=None,
        )  # fmt: skip

    programs = {
        "engine": (1, through(Engine(opened.model, tokenizer), False)),
        "engine, every stage accounted for": (1, through(Engine(opened.model, tokenizer), True)),
        "engine on eager torch": (threads, through(Engine(eager, tokenizer), False)),
        "eager torch, a bare loop of argmax": (threads, bare_loop),
        "transformers, min_p 0.05, temperature 0.8": (threads, transformers),
    }
    rates: dict[str, list[float]] = {name: [] for name in programs}
    texts = iter(prompts(eager.config.vocab_size, 32))
    for turn, prompt in zip(range(options.rounds + 1), itertools.cycle(itertools.islice(texts, 100)), strict=False):
        for name, (torch_threads, program) in programs.items():
            torch.set_num_threads(torch_threads)
            began = time.perf_counter()
            program(prompt)
            if turn:  # the first warms
                rates[name].append(count / (time.perf_counter() - began))
    slowest = statistics.median(rates["transformers, min_p 0.05, temperature 0.8"])
    print(f"{options.checkpoint.name}: {eager.config.parameter_count / 1e6:.1f} M parameters; engine: {opened.backend}")
    for name, measured in rates.items():
        median = statistics.median(measured)
        print(f"{name:<45} {median:>8,.0f} tok/s  × {median / slowest:.2f}")


if __name__ == "__main__":
    main()
