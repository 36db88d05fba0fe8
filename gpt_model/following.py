"""follow: what the processes beside rank 0 do: take part in what it tells. And which updater a run in company has."""

from typing import Any

import torch

from gpt_model.architectures import build_model
from gpt_model.config import ModelConfig, TrainConfig
from gpt_model.device import choose_device
from gpt_model.distributed import Company
from gpt_model.lora import adapt
from gpt_model.model import GPT
from gpt_model.parallel_update import ParallelUpdater
from gpt_model.sharded_update import ShardedUpdater
from gpt_model.update import Updater

_BYTES_A_PARAMETER = 16
"""float32 weights, gradients and AdamW's two moments."""
_SHARE = 0.7
"""Of a device's memory they may take: the rest is for what a step computes."""


def build_updater(model: GPT, train: TrainConfig, company: Company) -> Updater:
    """Return what updates a model: alone, or in company with all of it in every process or a part of it in each.

    Raises:
        GptError: the settings do not allow it, or a process is gone.
    """
    if company.size == 1:
        return Updater(model, train)
    shards = train.sharding == "shard" or (train.sharding == "auto" and not _fits(model))
    return (ShardedUpdater if shards else ParallelUpdater)(model, train, company)


def follow(company: Company) -> None:
    """Take part in what rank 0 tells until it tells the end.

    Raises:
        GptError: rank 0 is gone, or what it told cannot be done here.
    """
    updater: Any = None
    while True:
        what, arguments = company.hear()
        if what == "end":
            return
        if what == "build":
            del updater  # its memory is needed for what comes
            updater = _build(company, *arguments)
        else:
            getattr(updater, what)(*arguments)


def _build(company: Company, config: ModelConfig, train: TrainConfig, is_sharded: bool) -> ParallelUpdater:
    company.share_threads(train.threads)
    device = company.own_device(choose_device(train.device))
    model = build_model(config)
    if train.lora_rank:
        adapt(model, train.lora_rank, train.lora_alpha)
    return (ShardedUpdater if is_sharded else ParallelUpdater)(model.to(device).train(), train, company)


def _fits(model: GPT) -> bool:
    """Whether a device has room for all that training a model takes. What a CPU has not, it borrows from the disk."""
    if model.device.type != "cuda":
        return True
    total = torch.cuda.get_device_properties(model.device).total_memory
    return _BYTES_A_PARAMETER * model.config.parameter_count <= _SHARE * total
