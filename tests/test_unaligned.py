"""Tensors in a buffer of bytes may begin anywhere: where the kernels cannot read them they are copied, as torch.nn takes them, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

import elman
from kinds import as_hx, as_states
from kinds import every_kind as every_layer

if TYPE_CHECKING:
    from torch import Tensor

    from kinds import Kind

T, B, I, H = 4, 3, 5, 6  # noqa: E741


def unaligned(values: Tensor) -> Tensor:
    """The same numbers one byte behind where they may begin."""
    memory = torch.frombuffer(bytearray(values.nbytes + 1), dtype=values.dtype, offset=1, count=values.numel()).view(values.shape)
    assert memory.data_ptr() % memory.element_size()
    return memory.copy_(values.detach()).requires_grad_(values.requires_grad)


def results(net: Any, places: str, dtype: torch.dtype, **spans: Any) -> list[Tensor]:
    torch.manual_seed(0)
    place = {name: unaligned if name in places.split() else lambda values: values for name in ("x", "states", "weights", "gradients")}
    x = place["x"](torch.randn(T, B, I, dtype=dtype, requires_grad=True))
    states = [place["states"](torch.randn(1, B, width, dtype=dtype, requires_grad=True)) for width in net.stack.state_sizes]
    for parameter in net.parameters():
        parameter.data = place["weights"](torch.randn(parameter.shape, dtype=dtype).mul_(0.5))
    output, finals = net(x, as_hx(tuple(states)), **spans)
    ends = [output, *as_states(finals)]
    gradients = [place["gradients"](torch.randn_like(end)) for end in ends]
    with torch.no_grad():
        again = net(x, as_hx(tuple(states)), **spans)[0]
    return [*ends, again, *torch.autograd.grad(ends, [x, *states, *net.parameters()], gradients)]


@pytest.mark.parametrize("places", ["x", "states", "weights", "gradients", "x states weights gradients"])
@pytest.mark.parametrize("spans", [{}, {"lengths": [4, 2, 1], "reset": torch.rand(T, B) < 0.3}], ids=["whole", "cut"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@every_layer
def test_a_layer_has_the_same_bits(kind: Kind, dtype: torch.dtype, spans: dict[str, Any], places: str) -> None:
    net = kind.build(elman, I, H, dtype=dtype)
    assert all(map(torch.equal, results(net, places, dtype, **spans), results(net, "", dtype, **spans)))


@pytest.mark.parametrize("places", ["x", "states", "weights", "gradients", "x states weights gradients"])
@pytest.mark.parametrize("spans", [{}, {"lengths": [4, 2, 1]}], ids=["whole", "ragged"])
def test_so_has_ones_own_cell(places: str, spans: dict[str, Any]) -> None:
    net = elman.Recurrent(elman.zoo.PeepholeLSTM(), I, H)
    assert all(map(torch.equal, results(net, places, torch.float32, **spans), results(net, "", torch.float32, **spans)))


@pytest.mark.parametrize("build", [elman.RNNCell, elman.GRUCell, elman.LSTMCell])
def test_so_have_cells_and_streams(build: Any) -> None:
    cell, x = build(I, H), torch.randn(B, I)
    for one, other in zip(as_states(cell(unaligned(x))), as_states(cell(x)), strict=True):
        assert torch.equal(one, other)
    layer = getattr(elman, build.__name__.removesuffix("Cell"))(I, H)
    with torch.no_grad():
        one, other = (elman.stream(layer, B) for _ in range(2))
        for _ in range(2):
            assert torch.equal(one.step(unaligned(x)), other.step(x))


def test_so_have_step_inputs_learned_states_and_a_gradient_that_stands_for_all() -> None:
    found = []
    for place in (unaligned, lambda values: values):
        torch.manual_seed(0)
        net = elman.Recurrent(elman.zoo.CfC(), I, H, learn_initial_state=True)
        net.h_0.data = place(torch.randn(net.h_0.shape))
        dt = place(torch.rand(T, B, requires_grad=True))
        output = net(torch.randn(T, B, I), dt=dt, reset=torch.rand(T, B) < 0.3)[0]
        layer = elman.GRU(I, H)
        of_layer = layer(torch.randn(T, B, I))[0]
        gradient = place(torch.rand(1)).expand(of_layer.shape)
        found.append([output, *torch.autograd.grad(output.sum(), [dt, *net.parameters()])])
        found[-1] += torch.autograd.grad(of_layer, list(layer.parameters()), gradient)
    assert all(map(torch.equal, *found))
