"""Gradients of operations with rules of their own, where a simpler way to the value passes by the operand that gets them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F

import own_cells
from elman.backends.reference import REFERENCE
from native import required
from program_runs import NATIVE, Call, Options, assert_is_the_references

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    import elman

pytestmark = required

OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "hardsigmoid": F.hardsigmoid,
    "hardtanh": F.hardtanh,
    "relu6": F.relu6,
    "elu": F.elu,
    "selu": F.selu,
    "leaky_relu": F.leaky_relu,
    "logsigmoid": F.logsigmoid,
    "softplus": lambda v: F.softplus(v, threshold=1),
    "threshold": lambda v: F.threshold(v, 0.1, 0.2),
    "softshrink": lambda v: F.softshrink(v, 0.1),
    "clamp": lambda v: v.clamp(-0.5, 0.5),
    "clamp from": lambda v: v.clamp(min=-0.5),
    "clamp by itself": lambda v: v.clamp(min=-v),
    "maximum": lambda v: torch.maximum(v, v),
    "norm": lambda v: v.norm(dim=-1, keepdim=True),
    "normalize": lambda v: F.normalize(v, dim=-1),
    "rms_norm": lambda v: F.rms_norm(v, (v.shape[-1],)),
    "layer_norm": lambda v: F.layer_norm(v, (v.shape[-1],)),
    "softmax": lambda v: v.softmax(-1),
    "log_softmax": lambda v: v.log_softmax(-1),
    "logsumexp": lambda v: v.logsumexp(-1, keepdim=True),
    "amax": lambda v: v.amax(-1, keepdim=True),
    "sum": lambda v: v.sum(-1, keepdim=True),
}
OPERANDS: dict[str, Callable[[Tensor], Tensor]] = {
    "v": lambda v: v,
    "-v": lambda v: -v,
    "-1 v": lambda v: -1.0 * v,
    "-2 v": lambda v: v * -2,
    "|v|": lambda v: v.abs(),
    "0 - v": lambda v: 0 - v,
    "v v": lambda v: v * v,
    "mean": lambda v: v.mean(-1, keepdim=True).expand_as(v),
}


@pytest.mark.parametrize("operand", OPERANDS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_rule_gives_its_operand_the_gradient(operation: str, operand: str) -> None:
    act, of = OPERATIONS[operation], OPERANDS[operand]
    cell = own_cells.cell(lambda self, x, r, s, p: torch.tanh(x.n + r.n) * 0.5 + 0.3 * act(of(s.h)), gates=("n",), states=("h",))
    # torch holds the sixth of hardsigmoid's gradient in float32; what is added up is below 4.
    atol = 4 * 2**-24 if operation == "hardsigmoid" else 1e-12
    call = Call.of(cell, Options(steps=3, batch=4, inputs=2, hidden=3, layers=1, bidirectional=False))
    assert_is_the_references(call, rtol=1e-10, atol=atol)


@pytest.mark.parametrize("hidden", [1, 3])
@pytest.mark.parametrize(
    "of",
    [
        lambda s, p: s.h.norm(dim=-1, keepdim=True),
        lambda s, p: s.h.mean(-1, keepdim=True).norm(dim=-1, keepdim=True),
        lambda s, p: (0 * p.k).norm(),
    ],
    ids=["a row", "one number of each row", "one number"],
)
def test_the_norm_of_zeros_has_a_gradient_of_zeros(of: Callable[[Any, Any], Tensor], hidden: int) -> None:
    def step(self: elman.Cell, x: Any, r: Any, s: Any, p: Any) -> Tensor:
        return 0 * torch.tanh(x.n + r.n) + p.k * of(s, p)

    cell = own_cells.cell(step, gates=("n",), states=("h",), parameters={"k": ""})
    assert_is_the_references(Call.of(cell, Options(hidden=hidden, layers=1, given_state=False)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("number", [3e19, -3e19, 1e-24, -1e-40, 0.0, -0.0, math.inf, math.nan])
@pytest.mark.parametrize(
    "of",
    [
        lambda s, p: s.h.mean(-1, keepdim=True).norm(dim=-1, keepdim=True),
        lambda s, p: p.k.norm(),
        lambda s, p: s.h.norm(dim=-1, keepdim=True),
        lambda s, p: torch.norm(s.h, dim=1)[:, None],
        lambda s, p: torch.nn.functional.normalize(s.h, eps=1e-44),
        lambda s, p: s.h.norm(dim=-1, keepdim=True) / s.h.shape[-1],
    ],
    ids=["of each row", "in all", "over one unit", "without its axis", "divided by it", "and this H"],
)
def test_the_norm_of_one_number_is_its_size(of: Callable[[Any, Any], Tensor], number: float) -> None:
    """In float32, where its square may be infinite, or 0."""
    cell = own_cells.cell(
        lambda self, x, r, s, p: 0 * x.n + of(s, p), gates=("n",), recurrent_gates=(), states=("h",), parameters={"k": ""}
    )
    call = Call.of(cell, Options(steps=1, batch=2, hidden=1, layers=1, bidirectional=False), torch.float32)
    assert call.states is not None
    call.states[0].fill_(number)
    call.params[-1].fill_(number)
    arriving = [torch.ones(1, 2, 1), torch.ones(1, 2, 1)]
    ours, theirs = (call.differentiate(backend, arriving) for backend in (NATIVE, REFERENCE))
    for mine, expected in zip((*ours[0], *ours[1]), (*theirs[0], *theirs[1]), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-6, atol=0, equal_nan=True)
