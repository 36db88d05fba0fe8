"""Muon where two processes have a part of every matrix each."""

import os
from pathlib import Path

import torch
import torch.distributed
import torch.multiprocessing
from torch import nn
from torch.distributed.fsdp import fully_shard

from gpt_model.muon import Muon

NAMES = ("mlp.c_fc.weight", "attn.c_attn.weight", "attn.c_proj.weight")


def layers() -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList(nn.Linear(8, rows, bias=False) for rows in (32, 24, 7))


def updated(model: nn.ModuleList) -> list[torch.Tensor]:
    """Return the weights after three steps, whole."""
    parameters = [layer.weight for layer in model]
    muon = Muon(dict(zip(NAMES, parameters, strict=True)))
    for step in range(3):
        inputs = torch.randn(16, 8, generator=torch.Generator().manual_seed(step))
        sum(layer(inputs).square().mean() for layer in model).backward()  # type: ignore[union-attr]
        muon.step(0.1, 0.9, 0.1, torch.tensor(float(step == 1)))
        muon.zero_grad()
    return [each.full_tensor() if hasattr(each, "full_tensor") else each for each in parameters]


def shard_and_update(rank: int, directory: str) -> None:
    torch.distributed.init_process_group("gloo", f"file://{directory}/store", rank=rank, world_size=2)
    model = layers()
    for layer in model:
        fully_shard(layer, reshard_after_forward=False)
    mine = updated(model)
    torch.save([each.detach() for each in mine], f"{directory}/{rank}.pt")
    torch.distributed.destroy_process_group()
    os._exit(0)  # the interpreter's end and gloo's threads now and then end in an abort


def test_sharded_matrices_are_updated_as_whole_ones(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(shard_and_update, (str(tmp_path),), nprocs=2)
    wanted = updated(layers())
    for rank in range(2):
        for name, found, whole in zip(NAMES, torch.load(tmp_path / f"{rank}.pt"), wanted, strict=True):
            assert torch.allclose(found, whole, atol=1e-5), name
