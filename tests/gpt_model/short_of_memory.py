"""Two processes of a company of which the follower runs out of memory: a script, for each must be a process.

python short_of_memory.py RANK PORT MICRO_BATCH_SIZE WHERE ROOM

WHERE is `forward` or `backward`: where the follower, while it computes more than ROOM sequences at once, has no memory.
The leader prints losses, the micro-batch size and the weights' checksum as JSON.
"""

import hashlib
import json
import os
import sys
from typing import Any

import torch
from torch import distributed

from gpt_model import gradient_sum
from gpt_model.architectures import build_model
from gpt_model.config import ModelConfig, TrainConfig
from gpt_model.distributed import Company
from gpt_model.errors import RunError
from gpt_model.following import build_updater, follow
from gpt_model.model import GPT
from gpt_model.step_benchmark import random_batch


def main() -> None:
    """Be one of the two."""
    rank, port, micro_batch_size, where, room = sys.argv[1:]
    torch.set_num_threads(1)
    torch.manual_seed(1)
    gradient_sum._BUCKET = 1  # a parameter each: some are on their way when the memory is found too small
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": rank, "WORLD_SIZE": "2"}
    distributed.init_process_group("gloo")
    company = Company(int(rank), 2, int(rank), 2)
    if company.rank:
        run_short(where, int(room))
        follow(company)
    else:
        train = TrainConfig(batch_size=7, micro_batch_size=int(micro_batch_size), device="cpu", threads=1)
        model = build_model(ModelConfig(n_layer=2, n_head=2, n_embd=16, block_size=8, vocab_size=300, dropout=0.2))
        try:
            print(json.dumps(lead(model.train(), train, company)))
        except RunError as error:
            print(json.dumps({"error": str(error)}))
            return
        company.tell("end")
    distributed.destroy_process_group()


def lead(model: GPT, train: TrainConfig, company: Company) -> dict[str, Any]:
    """Make some updates and tell what came of them."""
    updater = build_updater(model, train, company)
    losses = [updater.update(random_batch(300, 7, 8, step), step, train)[0].loss for step in range(4)]
    weights = b"".join(each.detach().numpy().tobytes() for each in updater.model.parameters())
    digest = hashlib.sha256(weights).hexdigest()
    return {"losses": losses, "micro_batch_size": updater.micro_batch_size, "weights": digest}


def run_short(where: str, room: int) -> None:
    """Have no memory for a pass over more sequences than there is room for."""
    whole_loss = GPT.loss

    def loss(model: GPT, ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        def fail(*_: Any) -> None:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")

        if len(ids) > room:
            if where == "backward":  # the last block's gradients are there by then
                handle = model.h[0].register_full_backward_hook(fail)
                found = whole_loss(model, ids, *rest)
                handle.remove()
                return found
            whole_loss(model, ids, *rest)  # draws random numbers
            fail()
        return whole_loss(model, ids, *rest)

    GPT.loss = loss  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
