"""What each opcode computes, in torch's words: constants are folded by it, and the kernels are tested against it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from elman.backends.program.program import Opcode

if TYPE_CHECKING:
    from collections.abc import Callable


def _compare(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda a, b: function(a, b).to(a.dtype)


def _spread(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The result in each of a sequence's numbers."""
    return lambda *values: function(*values).expand_as(torch.broadcast_tensors(*values)[0])  # type: ignore[no-untyped-call]


OVER_ROWS: dict[Opcode, Callable[..., Tensor]] = {
    Opcode.ROW_SUM: lambda a: a.sum(-1, keepdim=True),
    Opcode.ROW_MEAN: lambda a: a.mean(-1, keepdim=True),
    Opcode.ROW_MAX: lambda a: a.amax(-1, keepdim=True),
    Opcode.ROW_SUM_FMA: lambda a, b, c: (a * b + c).sum(-1, keepdim=True),
    Opcode.ROW_MEAN_FMA: lambda a, b, c: (a * b + c).mean(-1, keepdim=True),
}
"""What those over a sequence's numbers compute, once for each sequence."""

COMPUTE: dict[Opcode, Callable[..., Tensor]] = {
    Opcode.COPY: lambda a: a,
    Opcode.ADD: torch.add,
    Opcode.SUB: torch.sub,
    Opcode.MUL: torch.mul,
    Opcode.DIV: torch.div,
    Opcode.NEG: torch.neg,
    Opcode.FMA: lambda a, b, c: a * b + c,
    Opcode.POW: lambda a, b: torch.pow(a, b.flatten()[0].item()),  # of a tensor torch's exponents differ at infinities
    Opcode.MIN: torch.minimum,
    Opcode.MAX: torch.maximum,
    Opcode.WHERE: lambda a, b, c: torch.where(a != 0, b, c),
    Opcode.LT: _compare(torch.lt),
    Opcode.LE: _compare(torch.le),
    Opcode.GT: _compare(torch.gt),
    Opcode.GE: _compare(torch.ge),
    Opcode.EQ: _compare(torch.eq),
    Opcode.NE: _compare(torch.ne),
    Opcode.ABS: torch.abs,
    Opcode.SIGN: torch.sign,
    Opcode.SQRT: torch.sqrt,
    Opcode.RSQRT: torch.rsqrt,
    Opcode.EXP: torch.exp,
    Opcode.LOG: torch.log,
    Opcode.LOG1P: torch.log1p,
    Opcode.EXPM1: torch.expm1,
    Opcode.TANH: torch.tanh,
    Opcode.SIGMOID: torch.sigmoid,
    Opcode.RELU: torch.relu,
    Opcode.SOFTPLUS: torch.nn.functional.softplus,
    Opcode.SIN: torch.sin,
    Opcode.COS: torch.cos,
    Opcode.ERF: torch.erf,
    Opcode.RECIPROCAL: torch.reciprocal,
    Opcode.SQUARE: torch.square,
    Opcode.FNMA: lambda a, b, c: c - a * b,
    **{opcode: _spread(function) for opcode, function in OVER_ROWS.items()},
}


def computed(opcode: Opcode, *numbers: float) -> float:
    """The opcode of numbers, in float64."""
    return float(COMPUTE[opcode](*(torch.tensor(number, dtype=torch.float64, device="cpu") for number in numbers)))
