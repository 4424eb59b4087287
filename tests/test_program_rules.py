"""Gradients of operations with rules of their own, where a simpler way to the value passes by the operand that gets them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F

import elman
import own_cells
from elman.backends import BACKENDS, registry
from native import required

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

pytestmark = required

T, B, I, H = 3, 4, 2, 3  # noqa: E741

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
def test_every_rule_gives_its_operand_the_gradient(operation: str, operand: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    act, of = OPERATIONS[operation], OPERANDS[operand]
    cell = own_cells.cell(lambda self, x, r, s, p: torch.tanh(x.n + r.n) * 0.5 + 0.3 * act(of(s.h)), gates=("n",), states=("h",))
    rnn = elman.Recurrent(cell, I, H, dtype=torch.float64)
    x, h_0 = torch.randn(T, B, I, dtype=torch.float64), torch.randn(1, B, H, dtype=torch.float64)
    assert elman.why(rnn, x).startswith("native")
    found = []
    for backends in (BACKENDS[:1], BACKENDS[-1:]):
        monkeypatch.setattr(registry, "BACKENDS", backends)
        leaves = [x.clone().requires_grad_(), h_0.clone().requires_grad_(), *rnn.parameters()]
        output, _ = rnn(*leaves[:2])
        found.append([output.detach(), *torch.autograd.grad(output.sin().sum(), leaves)])
    for ours, theirs in zip(*found, strict=True):
        # torch holds the sixth of hardsigmoid's gradient in float32; what is added up is below 4.
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=4 * 2**-24 if operation == "hardsigmoid" else 1e-12)
