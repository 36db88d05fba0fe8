"""The threads of the compiled model, as whoever writes a script meets them."""

import subprocess
import sys

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
