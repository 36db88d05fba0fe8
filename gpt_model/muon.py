"""Muon: momentum whose matrices are made orthogonal before they update the weights. Knows no model and no run.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks", kellerjordan.github.io/posts/muon. What
makes them orthogonal is in polar.py.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gpt_model.polar import PolarFactor

MakePolarFactor = Callable[[int, int, int, torch.device], PolarFactor]
"""What makes a PolarFactor, of whatever kind, for matrices of one shape on a device."""
_STACK_NUMBERS = 2**24
"""Numbers of the matrices that are computed at once: enough to keep a GPU busy, at most 64 MiB a buffer."""


@dataclass(frozen=True)
class _Matrix:
    """A parameter that is one matrix, or several of one shape below each other."""

    name: str
    parameter: nn.Parameter
    parts: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a part."""
        rows, columns = self.parameter.shape
        return rows // self.parts, columns


class Muon:
    """Muon over matrices, those of one shape in one batched product, whichever side is the longer.

    An update is lr · √max(1, rows / columns) times the polar factor of the Nesterov momentum (Jordan et al.), so that
    the change of a layer's output has one size whatever its shape. Weight decay is decoupled: lr · weight_decay of a
    weight is taken off. Queries, keys and values, which one matrix holds below each other, are three matrices here.

    Under FSDP every process has whole momenta and computes whole updates of its parts: the polar factor needs a matrix.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter],
        polar_factor: MakePolarFactor = PolarFactor,
    ) -> None:  # fmt: skip
        """Take matrices (out, in) by their names; a `c_attn.weight` is three of them.

        Args:
            parameters: the matrices.
            polar_factor: makes what makes them orthogonal, as PolarFactor does.
        """
        alike: dict[tuple[int, ...], list[_Matrix]] = {}
        for name, parameter in parameters.items():
            matrix = _Matrix(name, parameter, 3 if name.endswith("c_attn.weight") else 1)
            alike.setdefault(tuple(sorted(matrix.shape)), []).append(matrix)
        self._stacks = [_Stack(some, polar_factor) for matrices in alike.values() for some in _portions(matrices)]
        self._momenta = {name: momentum for stack in self._stacks for name, momentum in stack.momenta.items()}

    @torch.no_grad()
    def step(self, learning_rate: float, momentum: float, weight_decay: float, skip: Tensor | None = None) -> None:
        """Update the matrices by their gradients, which all must have.

        Args:
            learning_rate: of matrices that have no more rows than columns.
            momentum: the share of the momentum that stays.
            weight_decay: times the learning rate, the share of a weight that is taken off.
            skip: a scalar on the device, 1 to change nothing after all; it is not waited for.
        """
        for stack in self._stacks:
            stack.step(learning_rate, momentum, weight_decay, skip)

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for stack in self._stacks:
            for parameter in stack.parameters:
                parameter.grad = None

    def to_state(self) -> dict[str, Tensor]:
        """Return the momenta by their matrices' names. They are those in use: they change with the next step."""
        return self._momenta

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `to_state` returned."""
        for name, momentum in self._momenta.items():
            momentum.copy_(state[name])


class _Stack:
    """Matrices of one shape, the shorter side first, with their momenta and the room to compute all at once."""

    def __init__(self, matrices: Sequence[_Matrix], polar_factor: MakePolarFactor) -> None:
        self.parameters: list[Tensor] = [matrix.parameter for matrix in matrices]
        count, device = sum(matrix.parts for matrix in matrices), self.parameters[0].device
        short_and_long = min(matrices[0].shape), max(matrices[0].shape)
        self._updates = torch.empty(count, *short_and_long, device=device)  # begin as the gradients
        self._momenta = torch.zeros_like(self._updates)
        self._by_parameter = _views(self._updates, matrices)
        self.momenta = dict(zip((each.name for each in matrices), _views(self._momenta, matrices), strict=True))
        scales = [math.sqrt(max(1.0, each.shape[0] / each.shape[1])) for each in matrices for _ in range(each.parts)]
        self._scales = torch.tensor(scales, device=device)[:, None, None]
        self._polar = polar_factor(count, *short_and_long, device)

    def step(self, learning_rate: float, momentum: float, weight_decay: float, skip: Tensor | None) -> None:
        gradients: list[Tensor] = [_whole(parameter.grad) for parameter in self.parameters]  # type: ignore[arg-type]
        torch._foreach_copy_(self._by_parameter, gradients)
        if skip is None:
            self._momenta.lerp_(self._updates, 1 - momentum)
        else:
            self._updates.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)  # 0 · NaN is NaN, which skip could not stop
            self._momenta.lerp_(self._updates, (1 - skip) * (1 - momentum))
        self._updates.lerp_(self._momenta, momentum)  # Nesterov's: as if the next gradient were this one
        self._polar.replace(self._updates)
        self._updates.mul_(self._scales)
        decay = learning_rate * weight_decay
        weights, updates = _own_parts(self.parameters, self._by_parameter)
        if skip is None:
            torch._foreach_mul_(weights, 1 - decay)
        else:
            torch._foreach_mul_(weights, 1 - (1 - skip) * decay)
            torch._foreach_mul_(updates, 1 - skip)
        torch._foreach_add_(weights, updates, alpha=-learning_rate)


def _whole(gradient: Tensor) -> Tensor:
    """Return a gradient whole, which processes that share the model (FSDP) have a part of each."""
    return gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient


def _own_parts(parameters: list[Tensor], updates: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return of parameters, and of their whole updates, what is this process's: all of it where nothing is shared."""
    if not hasattr(parameters[0], "full_tensor"):
        return parameters, updates
    from torch.distributed.tensor import DTensor, Replicate  # a second's import, which few runs need

    parts = []
    for parameter, update in zip(parameters, updates, strict=True):
        assert isinstance(parameter, DTensor)
        mesh = parameter.device_mesh
        whole = DTensor.from_local(update, mesh, [Replicate()] * mesh.ndim, run_check=False)
        parts.append(whole.redistribute(placements=parameter.placements).to_local())
    return [parameter.to_local() for parameter in parameters], parts  # type: ignore[attr-defined]


def _views(stack: Tensor, matrices: Sequence[_Matrix]) -> list[Tensor]:
    """Return views of a stack (count, short, long), one for each parameter in its own shape."""
    views, first = [], 0
    for matrix in matrices:
        own = stack[first : first + matrix.parts]
        rows, columns = matrix.shape
        views.append(own[0].mT if rows > columns else own.view(matrix.parameter.shape))
        first += matrix.parts
    return views


def _portions(matrices: Sequence[_Matrix]) -> Iterator[Sequence[_Matrix]]:
    """Yield matrices of one shape in portions that can be computed at once."""
    size = max(1, _STACK_NUMBERS // max(matrix.parameter.numel() for matrix in matrices))
    return (matrices[at : at + size] for at in range(0, len(matrices), size))
