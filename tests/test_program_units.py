"""A step may compute with H, the number of units: its program is then for that H alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import elman
from elman.backends import Operands
from elman.backends.program.lookup import program_of
from elman.backends.program.stand_in import NotRecordedError
from elman.backends.reference import ReferenceBackend
from native import required

pytestmark = required


class Attending(elman.Cell):
    """Scaled by H as attention is, and in other ways."""

    gates = ("q", "k", "n")
    parameters = {"w": "H"}  # noqa: RUF012

    def step(self, x, r, s, p):
        units = s.h.shape[-1]
        a = torch.sigmoid(((x.q + r.q) * (x.k + r.k)).sum(-1, keepdim=True) / math.sqrt(units))
        n = torch.tanh(x.n + r.n - (x.n + r.n).sum(-1, keepdim=True) / units + math.log(p.w.size(0)))
        return a * s.h + (1 - a) * n * (len(p.w) ** -0.5 + 1) * p.w if units > 4 else a * s.h + n


def compare(net: Any, x: torch.Tensor) -> None:
    """The kernels' results and gradients with the reference's."""
    assert elman.why(net, x).startswith("native")
    leaves = [x, *net.parameters()]
    output, _ = net(x)
    expected, _ = ReferenceBackend().run(net.stack, Operands(x, None, net._params()))
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    grads = [torch.autograd.grad(each.square().sum(), leaves, allow_unused=True) for each in (output, expected)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, torch.zeros_like(one) if other is None else other, rtol=1e-12, atol=1e-12)
    assert torch.equal(net.trace(x).output, output)


@pytest.mark.parametrize("units", [1, 3, 4, 5, 20])
def test_a_step_may_compute_with_the_number_of_units(units: int) -> None:
    x = torch.randn(6, 3, 5, dtype=torch.float64, requires_grad=True)
    compare(elman.Recurrent(Attending(), 5, units, num_layers=2, bidirectional=True, dtype=torch.float64), x)


SCALES = {8: 2.0, 12: 3.0}
LOOKUPS: dict[str, Any] = {
    "a dict": lambda v: SCALES.get(v.shape[-1], 0.5),
    "a set": lambda v: 2.0 if v.shape[-1] in {8, 16} else 0.5,
    "a string": lambda v: 2.0 if str(v.shape[-1]) == "8" else 0.5,
    "a formatted string": lambda v: 2.0 if f"{v.shape[-1]}" == "8" else 0.5,
    "a tuple": lambda v: 2.0 if v.shape[1:] in {(8,), (16,)} else 0.5,
    "a range": lambda v: 2.0 if v.shape[-1] in range(6, 9) else 0.5,
}


@pytest.mark.parametrize("lookup", LOOKUPS.values(), ids=LOOKUPS)
def test_a_number_of_units_may_be_looked_up(lookup: Any) -> None:
    def step(self, x, r, s, p):
        return torch.tanh(x.n + r.n) * lookup(s.h)

    cell = type("Mine", (elman.Cell,), {"gates": ("n",), "step": step})()
    for units in (8, 12, 3):
        compare(elman.Recurrent(cell, 5, units, dtype=torch.float64), torch.randn(6, 3, 5, dtype=torch.float64, requires_grad=True))


@pytest.mark.filterwarnings("ignore:expected the step of Mine to treat each sequence by itself")
@pytest.mark.parametrize("lookup", [lambda v: {3: 2.0}.get(v.shape[0], 0.5), lambda v: float(f"{v.shape[0]}"), lambda v: v.shape[0] in {3}])
def test_a_number_of_sequences_may_not(lookup: Any) -> None:
    def step(self, x, r, s, p):
        return torch.tanh(x.n + r.n) * lookup(s.h)

    net, x = elman.Recurrent(type("Mine", (elman.Cell,), {"gates": ("n",), "step": step})(), 5, 4), torch.randn(6, 3, 5)
    assert "does not run a step that computes with the size B" in elman.why(net, x)


def test_a_shape_may_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    def step(self, x, r, s, p):
        print(s.h.shape, s.h)
        return torch.tanh(x.n + r.n)

    net = elman.Recurrent(type("Mine", (elman.Cell,), {"gates": ("n",), "step": step})(), 5, 4)
    capsys.readouterr()
    assert elman.why(net, torch.randn(6, 3, 5)).startswith("native")
    assert "(B, H) <(B, H), no numbers: the step is being recorded>" in capsys.readouterr().out


def test_each_number_of_units_has_a_program_of_its_own_that_stays() -> None:
    cell = Attending()
    with pytest.raises(NotRecordedError, match="does not run a step that computes with the size H"):
        program_of(cell, torch.float32)
    first, second = (program_of(cell, torch.float32, units=units) for units in (5, 6))
    assert str(first.forward) != str(second.forward)
    assert program_of(Attending(), torch.float32, units=5) is first
    assert program_of(elman.zoo.MGU(), torch.float32, units=5) is program_of(elman.zoo.MGU(), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_so_in_other_dtypes_and_under_autocast(dtype: torch.dtype) -> None:
    net = elman.Recurrent(Attending(), 5, 20, dtype=dtype)
    assert elman.why(net, torch.randn(6, 3, 5, dtype=dtype)).startswith("native")
    with torch.autocast("cpu", torch.bfloat16):
        assert elman.why(net, torch.randn(6, 3, 5, dtype=dtype)).startswith("native")


def test_so_compiled_and_exported() -> None:
    net, x = elman.Recurrent(Attending(), 5, 20), torch.randn(6, 3, 5)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x)[0], net(x)[0])
    free = torch.export.Dim.DYNAMIC
    exported = torch.export.export(net, (x,), dynamic_shapes=({0: free, 1: free},)).module()
    longer = torch.randn(30, 2, 5)
    assert torch.equal(exported(longer)[0], net(longer)[0])


@pytest.mark.filterwarnings("ignore:expected the step of Mine to treat each sequence by itself")
@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (lambda self, x, r, s, p: torch.tanh(x.n + r.n) * s.h.shape[0], "that computes with the size B, at"),
        (
            lambda self, x, r, s, p: torch.tanh(x.n + r.n) * torch.linspace(0, 1, s.h.shape[-1]),
            "with a tensor from outside that has more than one",
        ),
    ],
    ids=["the batch", "a tensor of that size"],
)
def test_what_else_keeps_a_step_from_the_kernels_is_said(step: Any, reason: str) -> None:
    net = elman.Recurrent(type("Mine", (elman.Cell,), {"gates": ("n",), "step": step})(), 5, 20)
    assert f"native does not run a step {reason}" in elman.why(net, torch.randn(6, 3, 5))
