"""What speculation saves: plain decoding beside prompt lookup, same texts, interleaved, medians.

python benchmarks/speculation.py [CHECKPOINT] [--dtype auto] [--rounds 5] [--new-tokens 200]

Ordinary text: prompts from the tail of what the bundled model was not trained on, drawn by the default chain.
Repetitive text: a list that is gone on with, and greedy decoding, which soon repeats itself.
"""

import argparse
import statistics
import time
from pathlib import Path

from gpt_model import Engine, Request
from gpt_model.backend import open_model
from gpt_model.decoding import Decoder, parse_decoder
from gpt_model.token_record import Token
from gpt_tui.locations import bundled_model
from gpt_tui.settings import Settings
from samplers import Chain

ORDINARY = (
    "GREMIO:\nGood morrow, neighbour Baptista.\n\nBAPTISTA:\nGood morrow, neighbour Gremio.\n",
    "PETRUCHIO:\nAnd you, good sir! Pray, have you not a daughter\nCall'd Katharina, fair and virtuous?\n\nBAPTISTA:\n",
    "PROSPERO:\nCanst thou remember\nA time before we came unto this cell?\n",
)
REPETITIVE = (
    "\n".join(f"First Citizen:\nWe are the people, sir.\n\nSecond Citizen:\nSpeak, {name}.\n" for name in "ABCDEF"),
    "ROMEO:\nIt is my lady, O, it is my love!\n\n" * 5,
)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", type=Path, default=bundled_model())
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new-tokens", type=int, default=200)
    parser.add_argument("--decoder", default="lookup")
    options = parser.parse_args()
    opened = open_model(options.checkpoint, "cpu", options.dtype, tell=print)
    engine, plain, guessing = Engine(opened.model, opened.tokenizer), parse_decoder(""), parse_decoder(options.decoder)
    print(f"{options.checkpoint.name} on {opened.backend}; {options.new_tokens} tokens, medians of {options.rounds}\n")
    print(f"{'text':<14}{'chain':<28}{'plain tok/s':>12}{options.decoder:>12}{'×':>7}  same text")
    for kind, prompts, spec in (
        ("ordinary", ORDINARY, Settings().chain), ("ordinary", ORDINARY, "greedy"),
        ("repetitive", REPETITIVE, Settings().chain), ("repetitive", REPETITIVE, "greedy"),
    ):  # fmt: skip
        rates: dict[int, list[float]] = {0: [], 1: []}
        same = True
        for number in range(-1, options.rounds):
            texts = []
            for which, decoder in enumerate((plain, guessing)):
                began, ids = time.perf_counter(), []
                for prompt in prompts:
                    ids += _ids(engine, prompt, Chain.parse(spec), number + 1, options.new_tokens, decoder)
                texts.append(ids)
                if number >= 0:
                    rates[which].append(len(ids) / (time.perf_counter() - began))
            same &= texts[0] == texts[1]
        slow, fast = statistics.median(rates[0]), statistics.median(rates[1])
        print(f"{kind:<14}{spec:<28}{slow:>12,.0f}{fast:>12,.0f}{fast / slow:>7.2f}  {'yes' if same else 'NO'}")


def _ids(engine: Engine, prompt: str, chain: Chain, seed: int, count: int, decoder: Decoder) -> list[int]:
    request = Request(prompt, chain, seed, max_new_tokens=count, ignore_end_of_text=True, candidates=1, decoder=decoder)
    return [event.id for event in engine.generate(request) if isinstance(event, Token)]


if __name__ == "__main__":
    main()
