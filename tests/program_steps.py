"""A step of a cell by torch's own operations, and by its program: the two that tests compare."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from elman.backends.program.build import build
from elman.backends.program.program import Operand, Program, Role
from elman.backends.program.record import record
from elman.cells.gates import GateTracker
from program_interpreter import ProgramStep


@dataclass
class Arguments:
    """What a step is called with: the leaves, W_hh and b_hh."""

    leaves: dict[Operand, Tensor]
    weight: Tensor
    bias: Tensor

    @property
    def tensors(self) -> list[Tensor]:
        return [self.weight, self.bias, *self.leaves.values()]


def arguments(cell: Any, batch: int = 3, units: int = 4, seed: int = 0, draws: bool = True) -> Arguments:
    """Random ones, all of which ask for a gradient but the draws."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    leaves = {(Role.INPUT, k): normal(batch, units) for k in range(len(cell.input_gates))}
    leaves |= {(Role.STATE, k): normal(batch, units) for k in range(len(cell.states))}
    leaves |= {(Role.OWN, k): normal(*(units,) * (size == "H")) for k, size in enumerate(cell.parameters.values())}
    leaves |= {(Role.STEP_INPUT, k): normal(batch, units if size == "H" else 1) for k, size in enumerate(cell.step_inputs.values())}
    if draws:
        uniform = torch.rand(len(cell.draws), batch, units, generator=generator, dtype=torch.float64)
        leaves |= {(Role.DRAW, k): each for k, each in enumerate(uniform)}
    rows = len(cell.recurrent_gates) * units
    return Arguments(leaves, normal(rows, units), normal(rows))


def by_torch(cell: Any, given: Arguments, traced: bool = False) -> tuple[Tensor, ...]:
    """The states after the step, and the gates where it is traced."""

    def named(role: Role, names: Any) -> dict[str, Tensor]:
        return {name: given.leaves[role, k] for k, name in enumerate(names)}

    s = SimpleNamespace(**named(Role.STATE, cell.states))
    x = named(Role.INPUT, cell.input_gates)
    parts = dict(zip(cell.recurrent_gates, zip(*(each.chunk(len(cell.recurrent_gates) or 1) for each in (given.weight, given.bias)))))  # noqa: B905
    r = _Recurrent(parts, given.leaves[Role.STATE, 0])
    drawn = (Role.DRAW, 0) in given.leaves
    d = (SimpleNamespace(**named(Role.DRAW, cell.draws)) if drawn else None,) if cell.draws else ()
    p = SimpleNamespace(**named(Role.OWN, cell.parameters))
    with GateTracker({gate: [each[gate] for each in (x, vars(r)) if gate in each] for gate in cell.traced}) as tracker:
        after = cell.step(SimpleNamespace(**x, **named(Role.STEP_INPUT, cell.step_inputs)), r, s, p, *d)
    gates = tuple(tracker.value(gate) for gate in cell.traced) if traced else ()
    return tuple(
        each.expand_as(given.leaves[Role.STATE, 0]) for each in ((*after, *gates) if isinstance(after, tuple) else (after, *gates))
    )


class _Recurrent:
    def __init__(self, parts: dict[str, tuple[Tensor, Tensor]], h: Tensor) -> None:
        self._parts = parts
        for gate in parts:
            setattr(self, gate, self(gate, h))

    def __call__(self, gate: str, v: Tensor) -> Tensor:
        return linear(v, *self._parts[gate])


def program(cell: Any, draws: bool = True, traced: bool = False, dtype: torch.dtype = torch.float64) -> Program:
    return build(cell, record(cell, dtype, draws), traced)


def by_program(program: Program, given: Arguments, training: bool = True) -> tuple[Tensor, ...]:
    leaves = tuple(given.leaves)
    found: tuple[Tensor, ...] = ProgramStep.apply(program, training, leaves, given.weight, given.bias, *given.leaves.values())
    return found


def gradients(results: tuple[Tensor, ...], given: Arguments) -> list[Tensor]:
    """Of a sum of all results, each by other numbers."""
    total = torch.stack(
        [(each * torch.cos(torch.arange(each.numel()) + k).reshape(each.shape)).sum() for k, each in enumerate(results)]
    ).sum()
    tensors = [each for each in given.tensors if each.requires_grad]
    found = torch.autograd.grad(total, tensors, allow_unused=True)
    return [torch.zeros_like(tensor) if each is None else each for tensor, each in zip(tensors, found, strict=True)]


def assert_same(got: Any, expected: Any, most: float = 1e-12) -> None:
    """Numbers within ``most`` of each other, relative to the largest; infinities and NaN in the same places."""
    for a, b in zip(got, expected, strict=True):
        finite = b.detach()[torch.isfinite(b)].abs()
        scale = max(1.0, float(finite.max()) if finite.numel() else 0.0)
        assert math.isfinite(scale)
        torch.testing.assert_close(a, b, rtol=0, atol=most * scale, equal_nan=True)
