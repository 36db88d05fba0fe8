"""GradientSum: adds up the gradients of all processes while the backward pass still computes. Knows no model.

What DistributedDataParallel does (Li et al. 2020, arXiv 2006.15704, section 3.2.3), but with buckets that never change:
DDP puts gradients into other buckets after a process's first step, so that from three processes on a resumed run would
add in another order than one that was never interrupted.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, distributed, nn

_BUCKET = 2**22
"""Numbers of a bucket, 16 MiB in float32: sent while the next is computed."""


class GradientSum:
    """The sum over processes of the gradients of some parameters, for all of which every backward pass has one."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        """Watch the parameters. Every process is to give them in the same order, that of the forward pass."""
        self._buckets: list[list[nn.Parameter]] = [[]]
        for parameter in reversed(parameters):  # the last is ready first
            if self._buckets[-1] and sum(each.numel() for each in self._buckets[-1]) + parameter.numel() > _BUCKET:
                self._buckets.append([])
            self._buckets[-1].append(parameter)
        self._bucket_of = {each: number for number, bucket in enumerate(self._buckets) for each in bucket}
        self._missing: list[int] = []
        self._under_way: list[tuple[Tensor, distributed.Work]] = []
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(self._ready)  # type: ignore[no-untyped-call]

    def begin(self) -> None:
        """Have the next backward pass be the one after which gradients are whole, and are to be added up."""
        self._missing = [len(bucket) for bucket in self._buckets]

    def finish(self) -> None:
        """Wait until the gradients are the sums."""
        for bucket, (numbers, work) in zip(self._buckets, self._under_way, strict=True):
            work.wait()
            sums = torch.split(numbers, [each.numel() for each in bucket])
            gradients = [each.grad for each in bucket if each.grad is not None]
            torch._foreach_copy_(gradients, [one.view_as(each) for one, each in zip(sums, bucket, strict=True)])
        self._under_way, self._missing = [], []

    def abandon(self) -> None:
        """Take part in what is left of the sums with zeros: the others wait for it, and what comes is of no use."""
        for bucket in self._buckets[len(self._under_way) :]:
            self._send(torch.zeros(sum(each.numel() for each in bucket), device=bucket[0].device))
        for _, work in self._under_way:
            work.wait()
        self._under_way, self._missing = [], []

    def _ready(self, parameter: Tensor) -> None:
        if not self._missing:  # more of the batch is to come
            return
        self._missing[self._bucket_of[parameter]] -= 1  # type: ignore[index]
        # In one order in all processes, whatever order gradients come in.
        while len(self._under_way) < len(self._buckets) and not self._missing[len(self._under_way)]:
            bucket = self._buckets[len(self._under_way)]
            self._send(torch.cat([each.grad.flatten() for each in bucket if each.grad is not None]))

    def _send(self, numbers: Tensor) -> None:
        work = distributed.all_reduce(numbers, async_op=True)
        assert work is not None
        self._under_way.append((numbers, work))
