"""The threads of the compiled model: what they begin ahead of time, and how they end."""

import itertools
import subprocess
import sys
import threading

import pytest
import torch

from gpt_model import Engine, Request
from gpt_model.compiled.model import CompiledGPT
from gpt_model.compiled.packing import pack
from gpt_model.config import ModelConfig
from gpt_model.model import GPT
from samplers import Chain

CONFIG = ModelConfig(n_layer=2, n_head=2, n_embd=32, block_size=48, vocab_size=64)


def model_of(threads: int, ahead: bool) -> CompiledGPT:
    torch.manual_seed(3)
    return CompiledGPT(pack(CONFIG, GPT(CONFIG).state_dict(), "float32"), threads, ahead)


@pytest.mark.parametrize("threads", [1, 3])
def test_what_was_begun_is_what_is_asked_for_or_it_is_forgotten(threads: int) -> None:
    ahead, plain = model_of(threads, True), model_of(threads, False)
    torch.manual_seed(0)
    ids = torch.randint(64, (1, 40))
    cache, other = ahead.new_cache(), plain.new_cache()

    def same(chosen: torch.Tensor) -> None:
        assert torch.equal(ahead.next_logits(chosen, cache), plain.next_logits(chosen, other))

    same(ids[:, :3])
    ahead.begin(ids[:, 3:4], cache)
    same(ids[:, 3:4])  # as guessed
    ahead.begin(ids[:, 4:5], cache)
    same(ids[:, 5:6])  # another token
    ahead.begin(ids[:, 6:7], cache)
    same(ids[:, 6:36])  # more of them, and more room for numbers in passing
    ahead.begin(ids[:, 36:37], cache)
    cache.length = other.length = 5
    same(ids[:, 36:37])  # elsewhere
    ahead.begin(ids[:, 7:8], cache)
    ahead.begin(ids[:, 8:9], cache)  # twice
    same(ids[:, 8:9])
    ahead.begin(ids[:, 9:10], cache)
    fresh = ahead.new_cache()
    assert torch.equal(ahead.next_logits(ids[:, :4], fresh), plain.next_logits(ids[:, :4]))


def test_what_was_begun_and_never_asked_for_disturbs_nothing() -> None:
    """A text that ends early leaves a token half-read."""
    texts = {}
    for ahead in (False, True):
        engine = Engine(model_of(1, ahead), None)
        found = []
        for seed in range(20):
            request = Request((1, 2, 3), Chain.parse("temperature=1.5"), seed, max_new_tokens=70)
            found.append(
                [getattr(token, "id", None) for token in itertools.islice(engine.generate(request), 1 + 5 * seed)]
            )
        texts[ahead] = found
    assert texts[False] == texts[True]


def test_threads_that_slept_are_woken() -> None:
    model = model_of(3, True)
    ids, cache = torch.randint(64, (1, 8)), model.new_cache()
    whole = model(ids)
    for t in range(8):
        threading.Event().wait(0.02)  # they sleep after a millisecond
        if t % 2:
            model.begin(ids[:, t : t + 1], cache)
        assert torch.equal(model.next_logits(ids[:, t : t + 1], cache), whole[:, t])


SCRIPT = """
import torch
from gpt_model.compiled.model import CompiledGPT
from gpt_model.compiled.packing import pack
from gpt_model.config import ModelConfig
from gpt_model.model import GPT

model = GPT(ModelConfig(n_layer=1, n_head=2, n_embd=32, block_size=32, vocab_size=64))
compiled = CompiledGPT(pack(model.config, model.state_dict(), "float32"), 4)
for _ in range(3):
    compiled.next_logits(torch.zeros(1, 4, dtype=torch.long))
print("done")
"""


def test_a_script_may_end_while_the_threads_still_look_for_work() -> None:
    """The interpreter must not stop them: that aborted every other script."""
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
