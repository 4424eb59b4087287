"""A step of a cell by torch's own operations, and by its program: the two that tests compare."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from elman.backends.program.build import build
from elman.backends.program.program import Operand, Program, Role
from elman.backends.program.record import record
from elman.cells import take_step, trace_step
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
    """The states after the step, and the gates where it is traced: what the reference computes."""

    def of(role: Role, names: Any) -> list[Tensor]:
        return [given.leaves[role, k] for k in range(len(names))]

    inputs = of(Role.INPUT, cell.input_gates)
    weights = dict(zip(cell.parameters, of(Role.OWN, cell.parameters), strict=True))
    if cell.recurrent_gates:
        weights |= {"weight_hh": given.weight, "bias_hh": given.bias}
    given_inputs = zip(cell.step_inputs.values(), of(Role.STEP_INPUT, cell.step_inputs), strict=True)
    columns = [each if size == "H" else each.squeeze(-1) for size, each in given_inputs]
    draws = of(Role.DRAW, cell.draws) if (Role.DRAW, 0) in given.leaves else None
    arguments = cell, torch.cat(inputs, -1) if inputs else None, tuple(of(Role.STATE, cell.states)), weights, columns, draws
    if traced:
        states, gates = trace_step(*arguments)
        return (*states, *gates)
    return take_step(*arguments)


def program(cell: Any, draws: bool = True, traced: bool = False, dtype: torch.dtype = torch.float64, units: int | None = None) -> Program:
    return build(cell, record(cell, dtype, draws, units), traced)


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
