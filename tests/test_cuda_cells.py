"""Cells of one's own on a GPU, against the reference: numbers, gradients, and what torch does with a layer. Skipped without a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import elman
from elman import zoo
from elman.backends import registry
from elman.backends.cuda import launcher
from elman.backends.reference import ReferenceBackend
from test_cuda_layers import DTYPES, ROUNDING, assert_a_graph_replays, error, new

pytestmark = pytest.mark.skipif(launcher.unavailable_reason() is not None, reason=f"no kernel can run: {launcher.unavailable_reason()}")

T, B, I = 12, 9, 24  # noqa: E741
# Quotients of states, sines of time, and a rectifier of sums near zero: a rounding of 16 bits may cost anything there.
SENSITIVE = (zoo.SLSTM, zoo.PhasedLSTM, zoo.LiGRU)


class Attention(elman.Cell):
    """Sums over the units on both sides of a product of something else than h."""

    gates = ("a", "n")

    def step(self, x, r, s, p):
        weights = torch.softmax(x.a + r.a, -1)
        return torch.tanh(x.n + r("n", weights * s.h)) + 0.1 * torch.nn.functional.layer_norm(s.h, (s.h.shape[-1],))


CELLS = [*zoo.CELLS, Attention]


def given(cell: elman.Cell, hidden: int, dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: torch.rand(T, B, *([hidden] if size else []), device="cuda", dtype=dtype) for name, size in cell.step_inputs.items()}


def run(net: elman.Recurrent, x: Tensor, grad: Tensor, **call: Any) -> list[Tensor]:
    """The outputs, and the gradients of x and of every parameter."""
    x = x.detach().clone().requires_grad_()
    output = net(x, **call)[0]
    found = torch.autograd.grad(output, [x, *net.parameters()], grad.to(output.dtype), allow_unused=True, materialize_grads=True)
    return [output.detach(), *found]


@pytest.mark.parametrize("hidden", [37, 256])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_errors_are_the_references(cell: type[elman.Cell], dtype: torch.dtype, hidden: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if cell in SENSITIVE and dtype is not torch.float32:
        pytest.skip("its reference in 16 bits is not of use either")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    net = elman.Recurrent(cell(), I, hidden, bidirectional=True, device="cuda", dtype=dtype)
    options = {"lengths": [12, 3, 0, 7, 12, 1, 12, 5, 9], "reset": torch.rand(T, B, device="cuda") < 0.1}
    x, grad, beside = new(T, B, I, dtype=dtype), new(T, B, 2 * hidden, dtype=dtype), given(net.stack.cell, hidden, dtype)
    assert elman.why(net, x, **options, **beside).startswith("cuda")
    found = run(net, x, grad, **options, **beside)
    with monkeypatch.context() as changed:
        changed.setattr(registry, "BACKENDS", (ReferenceBackend(),))
        rounded = run(net, x, grad, **options, **beside)
        exact = {name: each.double() for name, each in beside.items()}
        expected = run(net.double(), x.double(), grad.double(), **options, **exact)
    rounding = 30 * 2.0**-24 if dtype is torch.float32 else 4 * ROUNDING[dtype]
    for one, other, right in zip(found, rounded, expected, strict=True):
        assert error(one, right) <= 1.5 * error(other, right) + rounding


@pytest.mark.parametrize("cell", [zoo.GRU2014, zoo.LayerNormLSTM, zoo.IndRNN, Attention])
def test_bits_do_not_move(cell: type[elman.Cell]) -> None:
    net, x, grad = elman.Recurrent(cell(), 64, 300, device="cuda", dtype=torch.bfloat16), new(T, 20, 64), new(T, 20, 300)
    first = run(net, x, grad)
    for _ in range(100):
        assert all(map(torch.equal, run(net, x, grad), first))


def test_autocast_gives_the_dtypes_of_the_step() -> None:
    net, x = elman.Recurrent(zoo.LeakyRNN(), 32, 64, device="cuda"), new(T, B, 32, dtype=torch.float32)
    found = []
    with torch.autocast("cuda", torch.bfloat16):
        found.append(net(x))
        with pytest.MonkeyPatch.context() as changed:
            changed.setattr(registry, "BACKENDS", (ReferenceBackend(),))
            found.append(net(x))
    (ours, our_finals), (theirs, their_finals) = found
    assert [ours.dtype, *(each.dtype for each in our_finals)] == [theirs.dtype, *(each.dtype for each in their_finals)]
    assert error(ours, theirs) < 12 * ROUNDING[torch.bfloat16]


def test_a_cuda_graph_replays_it() -> None:
    assert_a_graph_replays(elman.Recurrent(Attention(), 64, 128, device="cuda", dtype=torch.bfloat16), new(50, 8, 64))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("cell", [zoo.MGU, zoo.GRU2014, Attention])
def test_a_compiled_network_gives_the_bits_of_the_eager_one(cell: type[elman.Cell], dtype: torch.dtype) -> None:
    net = elman.Recurrent(cell(), 32, 64, 2, bidirectional=True, device="cuda", dtype=dtype)
    x, grad, lengths = new(60, 4, 32, dtype=dtype), new(60, 4, 128, dtype=dtype), torch.tensor([60, 1, 0, 33])
    compiled = torch.compile(net, fullgraph=True)
    for options in ({}, {"lengths": lengths}):
        assert all(map(torch.equal, run(compiled, x, grad, **options), run(net, x, grad, **options)))
