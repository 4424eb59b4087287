"""Cells whose steps are drawn: the kernels' numbers and gradients are those of torch's operators, the reference's."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F

import own_cells
from native import required
from program_runs import Call, Options, assert_is_the_references
from slow import slow

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    import elman

pytestmark = required

UNARY: tuple[Callable[[Tensor], Tensor], ...] = (
    torch.tanh,
    torch.sigmoid,
    torch.relu,
    torch.abs,
    torch.neg,
    torch.square,
    torch.sin,
    F.softplus,
    F.elu,
    F.hardsigmoid,
    F.hardtanh,
    F.leaky_relu,
    lambda v: -1.0 * v,
    lambda v: 1 - v,
    lambda v: 0.5 * v,
    lambda v: v.clamp(-0.7, 0.9),
    lambda v: (1 + v * v).sqrt(),
    lambda v: torch.exp(v.clamp(max=1.0)),
    lambda v: v.softmax(-1),
    lambda v: v.norm(dim=-1, keepdim=True),
    lambda v: F.layer_norm(v, (v.shape[-1],)),
    lambda v: F.rms_norm(v, (v.shape[-1],)),
    lambda v: v.mean(-1, keepdim=True),
)
BINARY: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    torch.add,
    torch.sub,
    torch.mul,
    torch.maximum,
    torch.minimum,
    lambda a, b: a / (1 + b * b),
    lambda a, b: torch.where(a > b, a, 0.3 * b),
    lambda a, b: torch.lerp(a, b, torch.sigmoid(a)),
)
GATES, STATES = ("f", "n"), ("h", "c")


@dataclass(frozen=True)
class Step:
    """A step as functions of earlier values, each named by its place: leaves first, then what is drawn, and the new states last."""

    unary: tuple[tuple[int, int], ...]
    binary: tuple[tuple[int, int, int], ...]
    products: tuple[int, int]  # the values whose products with the gates n and f are two more
    results: tuple[int, int]

    @staticmethod
    def drawn(random: Random) -> Step:
        unary = tuple((random.randrange(len(UNARY)), random.randrange(7 + k)) for k in range(random.randint(2, 7)))
        count = 8 + len(unary)
        binary = tuple((random.randrange(len(BINARY)), random.randrange(count + k), random.randrange(count + k)) for k in range(5))
        return Step(
            unary,
            binary,
            (random.randrange(2, 6), random.randrange(2, 7 + len(unary))),
            (-1 - random.randrange(3), -1 - random.randrange(4)),
        )

    def __call__(self, cell: elman.Cell, x: Any, r: Any, s: Any, p: Any) -> tuple[Tensor, Tensor]:
        values = [x.f, x.n, s.h, s.c, p.k * s.c, -s.h]
        values.append(r("n", values[self.products[0]]))
        for operation, operand in self.unary:
            values.append(UNARY[operation](values[operand]))
        values.append(r("f", values[self.products[1]].expand_as(s.h)))
        for operation, one, other in self.binary:
            values.append(BINARY[operation](values[one], values[other]))
        h, c = (values[place] for place in self.results)
        return torch.tanh(h) + 0 * s.h, 0.5 * s.c + 0.5 * torch.tanh(c)


@pytest.mark.parametrize("seed", [*range(40), *slow(*range(40, 300))])
def test_a_drawn_step_has_the_numbers_and_gradients_of_torchs_operators(seed: int) -> None:
    random = Random(seed)
    drawn = Step.drawn(random)
    cell = own_cells.cell(lambda self, x, r, s, p: drawn(self, x, r, s, p), gates=GATES, states=STATES, parameters={"k": "H"})
    # torch holds the sixth of hardsigmoid's gradient in float32.
    exact = all(UNARY[operation] is not F.hardsigmoid for operation, _ in drawn.unary)
    call = Call.of(cell, Options.drawn(random), seed=seed)
    assert_is_the_references(call, rtol=1e-9 if exact else 1e-5, atol=1e-10 if exact else 1e-6)
