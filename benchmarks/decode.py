"""How fast text is generated: our engine beside transformers' generate, on the same weights, interleaved, medians.

python benchmarks/decode.py [CHECKPOINT] [--rounds 5] [--new-tokens 128]
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from transformers import GPT2LMHeadModel
from transformers.utils import logging

from gpt_model import Engine, Request
from gpt_model.checkpoint import load_checkpoint
from gpt_model.device import set_generation_threads
from gpt_tui.locations import bundled_model
from samplers import Chain

CHAIN = "top_k=40,temperature=0.8"


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", type=Path, default=bundled_model())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new-tokens", type=int, default=128)
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()

    model, tokenizer = load_checkpoint(options.checkpoint)
    set_generation_threads(0, model.config)  # for both: what the app and the command line do
    engine = Engine(model, tokenizer)
    theirs = GPT2LMHeadModel.from_pretrained(options.checkpoint, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(1)
    prompt = tuple(torch.randint(model.config.vocab_size - 1, (32,), generator=generator).tolist())

    def ours(chain: str, account: bool) -> int:
        request = Request(
            prompt, Chain.parse(chain), max_new_tokens=options.new_tokens, ignore_end_of_text=True, account=account
        )
        return sum(hasattr(event, "id") for event in engine.generate(request))

    def peer() -> int:
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            whole = theirs.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=options.new_tokens, do_sample=True, top_k=40,
                temperature=0.8, pad_token_id=0, eos_token_id=None,
            )  # fmt: skip
        return int(whole.shape[1]) - len(prompt)

    programs = {
        f"gpt-tui  {CHAIN}": lambda: ours(CHAIN, False),
        "gpt-tui  the same, every stage accounted for": lambda: ours(CHAIN, True),
        "gpt-tui  greedy": lambda: ours("greedy", False),
        "transformers generate, top_k 40, temperature 0.8": peer,
    }
    rates: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(options.rounds):
        for name, program in programs.items():
            began = time.perf_counter()
            tokens = program()
            rates[name].append(tokens / (time.perf_counter() - began))
    slowest = statistics.median(rates["transformers generate, top_k 40, temperature 0.8"])
    shape = model.config
    print(
        f"{options.checkpoint.name}: {shape.parameter_count / 1e6:.1f} M parameters, {torch.get_num_threads()} threads"
    )
    for name, measured in rates.items():
        median = statistics.median(measured)
        print(f"{name:<50} {median:>8,.0f} tok/s  × {median / slowest:.2f}")


if __name__ == "__main__":
    main()
