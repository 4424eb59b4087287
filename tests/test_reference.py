"""The reference backend is the equation, and lets every kind of tensor through."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from elman.backends import Stack
from elman.backends.reference import ReferenceBackend
from elman.cells import Cell, ElmanRelu, ElmanTanh

BACKEND = ReferenceBackend()


def _numbers(stack: Stack, x_shape: tuple[int, ...]) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(0)
    x = torch.randn(x_shape, dtype=torch.float64)
    gates = len(stack.cell.gates) * stack.hidden_size
    shapes = [
        shape
        for layer in stack.layers
        for _ in range(stack.num_directions)
        for shape in ((gates, layer.input_size), (gates, stack.hidden_size), (gates,), (gates,))[: stack.tensors_per_direction]
    ]
    return x, [torch.randn(shape, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize(("cell", "activation"), [(ElmanTanh(), torch.tanh), (ElmanRelu(), torch.relu)], ids=["tanh", "relu"])
def test_two_steps_are_the_equation_written_out(cell: Cell, activation: object) -> None:
    stack = Stack(cell, 3, 4)
    x, (w_ih, w_hh, b_ih, b_hh) = _numbers(stack, (2, 5, 3))
    first = activation(x[0] @ w_ih.T + b_ih + b_hh)
    second = activation(x[1] @ w_ih.T + b_ih + first @ w_hh.T + b_hh)
    output, (h_n,) = BACKEND.run(stack, x, None, (w_ih, w_hh, b_ih, b_hh))
    torch.testing.assert_close(output, torch.stack((first, second)), rtol=0, atol=1e-14)
    torch.testing.assert_close(h_n, second.unsqueeze(0), rtol=0, atol=1e-14)


def test_the_reverse_direction_is_the_forward_one_on_the_reversed_sequence() -> None:
    both, one = Stack(ElmanTanh(), 3, 4, bidirectional=True), Stack(ElmanTanh(), 3, 4)
    x, params = _numbers(both, (6, 2, 3))
    output, (h_n,) = BACKEND.run(both, x, None, params)
    backwards, (last,) = BACKEND.run(one, x.flip(0), None, params[4:])
    torch.testing.assert_close(output[..., 4:], backwards.flip(0), rtol=0, atol=1e-14)
    torch.testing.assert_close(h_n[1:], last, rtol=0, atol=1e-14)
    assert torch.equal(h_n[1], output[0, :, 4:])


class _TwoStates(Cell):
    """Counts its steps in a second state, to show that a cell may have several."""

    name = "two_states"
    gates = ("h",)
    states = ("h", "count")

    def step(self, projected: Tensor, recurrent: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (projected + recurrent).tanh(), states[1] + 1


def test_a_cell_may_have_several_states() -> None:
    stack = Stack(_TwoStates(), 3, 4, num_layers=2, bidirectional=True)
    x, params = _numbers(stack, (9, 3))
    output, (h_n, count) = BACKEND.run(stack, x, None, params, torch.tensor([3, 3, 2, 1]))
    assert output.shape == (9, 8)
    assert h_n.shape == count.shape == (4, 3, 4)
    assert torch.equal(count, torch.tensor([4.0, 3.0, 2.0], dtype=torch.float64).view(1, 3, 1).expand(4, 3, 4))
    again = BACKEND.run(stack, x, (h_n, count), params, torch.tensor([3, 3, 2, 1]))[1][1]
    assert torch.equal(again, 2 * count)


def test_equal_lengths_packed_are_the_padded_batch() -> None:
    stack = Stack(ElmanTanh(), 3, 4, num_layers=2, bidirectional=True, bias=False)
    x, params = _numbers(stack, (5, 2, 3))
    padded, (h_n,) = BACKEND.run(stack, x, None, params)
    packed, (last,) = BACKEND.run(stack, x.flatten(0, 1), None, params, torch.tensor([2] * 5))
    torch.testing.assert_close(packed.view_as(padded), padded, rtol=0, atol=1e-14)
    torch.testing.assert_close(last, h_n, rtol=0, atol=1e-14)


def test_nothing_it_is_given_is_written_to() -> None:
    stack = Stack(ElmanTanh(), 3, 4, bidirectional=True)
    x, params = _numbers(stack, (5, 2, 3))
    state = torch.randn(2, 2, 4, dtype=torch.float64)
    before = [tensor.clone() for tensor in (x, state, *params)]
    BACKEND.run(stack, x, (state,), params)
    assert all(torch.equal(one, two) for one, two in zip((x, state, *params), before, strict=True))
