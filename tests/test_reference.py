"""The reference backend is the equation, and lets every kind of tensor through."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from elman.backends import Operands, Spans, Stack
from elman.backends.reference import ReferenceBackend
from elman.cells import Cell, ElmanRelu, ElmanTanh, Gru, Lstm
from elman.zoo import CfC

if TYPE_CHECKING:
    from elman.cells.values import RecurrentParts, Values

BACKEND = ReferenceBackend()


def _numbers(stack: Stack, x_shape: tuple[int, ...]) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(0)
    x = torch.randn(x_shape, dtype=torch.float64)
    return x, [torch.randn(shape, dtype=torch.float64) for shape in stack.shapes]


def test_parameters_have_their_shapes_in_torchs_order() -> None:
    stack = Stack(Lstm(), 3, 5, num_layers=2, bidirectional=True, proj_size=2)
    first = ((20, 3), (20, 2), (20,), (20,), (2, 5))
    assert stack.shapes == 2 * first + 2 * ((20, 4), *first[1:])
    assert (stack.tensors_per_direction, stack.state_sizes, stack.output_size) == (5, (2, 5), 4)
    assert Stack(Gru(), 3, 5, bias=False).shapes == ((15, 3), (15, 5))


@pytest.mark.parametrize(("cell", "activation"), [(ElmanTanh(), torch.tanh), (ElmanRelu(), torch.relu)], ids=["tanh", "relu"])
def test_two_steps_are_the_equation_written_out(cell: Cell, activation: object) -> None:
    stack = Stack(cell, 3, 4)
    x, (w_ih, w_hh, b_ih, b_hh) = _numbers(stack, (2, 5, 3))
    first = activation(x[0] @ w_ih.T + b_ih + b_hh)
    second = activation(x[1] @ w_ih.T + b_ih + first @ w_hh.T + b_hh)
    output, (h_n,) = BACKEND.run(stack, Operands(x, None, (w_ih, w_hh, b_ih, b_hh)))
    torch.testing.assert_close(output, torch.stack((first, second)), rtol=0, atol=1e-14)
    torch.testing.assert_close(h_n, second.unsqueeze(0), rtol=0, atol=1e-14)


def test_two_steps_of_a_gru_are_the_equation_written_out() -> None:
    stack = Stack(Gru(), 3, 4)
    x, (w_ih, w_hh, b_ih, b_hh) = _numbers(stack, (2, 5, 3))
    h = torch.zeros(5, 4, dtype=torch.float64)
    for step in x:
        (w_ir, w_iz, w_in), (b_ir, b_iz, b_in) = w_ih.chunk(3), b_ih.chunk(3)
        (w_hr, w_hz, w_hn), (b_hr, b_hz, b_hn) = w_hh.chunk(3), b_hh.chunk(3)
        r = torch.sigmoid(step @ w_ir.T + b_ir + h @ w_hr.T + b_hr)
        z = torch.sigmoid(step @ w_iz.T + b_iz + h @ w_hz.T + b_hz)
        n = torch.tanh(step @ w_in.T + b_in + r * (h @ w_hn.T + b_hn))
        h = (1 - z) * n + z * h
    output, (h_n,) = BACKEND.run(stack, Operands(x, None, (w_ih, w_hh, b_ih, b_hh)))
    torch.testing.assert_close(output[1], h, rtol=0, atol=1e-14)
    torch.testing.assert_close(h_n[0], h, rtol=0, atol=1e-14)


@pytest.mark.parametrize("proj_size", [0, 2])
def test_two_steps_of_an_lstm_are_the_equation_written_out(proj_size: int) -> None:
    stack = Stack(Lstm(), 3, 4, proj_size=proj_size)
    x, params = _numbers(stack, (2, 5, 3))
    w_ih, w_hh, b_ih, b_hh, *w_hr = params
    h, c = (torch.zeros(5, size, dtype=torch.float64) for size in stack.state_sizes)
    for step in x:
        i, f, g, o = (step @ w_ih.T + b_ih + h @ w_hh.T + b_hh).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        h = h @ w_hr[0].T if w_hr else h
    output, (h_n, c_n) = BACKEND.run(stack, Operands(x, None, params))
    for got, expected in ((output[1], h), (h_n[0], h), (c_n[0], c)):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-14)


def test_the_reverse_direction_is_the_forward_one_on_the_reversed_sequence() -> None:
    both, one = Stack(ElmanTanh(), 3, 4, bidirectional=True), Stack(ElmanTanh(), 3, 4)
    x, params = _numbers(both, (6, 2, 3))
    output, (h_n,) = BACKEND.run(both, Operands(x, None, params))
    backwards, (last,) = BACKEND.run(one, Operands(x.flip(0), None, params[4:]))
    torch.testing.assert_close(output[..., 4:], backwards.flip(0), rtol=0, atol=1e-14)
    torch.testing.assert_close(h_n[1:], last, rtol=0, atol=1e-14)
    assert torch.equal(h_n[1], output[0, :, 4:])


class _TwoStates(Cell):
    """Counts its steps in a second state, to show that a cell may have several."""

    gates = ("h",)
    states = ("h", "count")

    def step(self, x: Values, r: RecurrentParts, s: Values, p: Values) -> tuple[Tensor, Tensor]:
        return (x.h + r.h).tanh(), s.count + 1


def test_a_cell_may_have_several_states() -> None:
    stack = Stack(_TwoStates(), 3, 4, num_layers=2, bidirectional=True)
    x, params = _numbers(stack, (9, 3))
    output, (h_n, count) = BACKEND.run(stack, Operands(x, None, params, Spans(torch.tensor([3, 3, 2, 1]))))
    assert output.shape == (9, 8)
    assert h_n.shape == count.shape == (4, 3, 4)
    assert torch.equal(count, torch.tensor([4.0, 3.0, 2.0], dtype=torch.float64).view(1, 3, 1).expand(4, 3, 4))
    again = BACKEND.run(stack, Operands(x, (h_n, count), params, Spans(torch.tensor([3, 3, 2, 1]))))[1][1]
    assert torch.equal(again, 2 * count)


class _Independent(Cell):
    """Has no recurrent weights, but a vector of its own."""

    gates = ("z",)
    recurrent_gates = ()
    parameters = {"decay": "H"}  # noqa: RUF012 - as it is written

    def step(self, x: Values, r: RecurrentParts, s: Values, p: Values) -> Tensor:
        return (x.z + p.decay * s.h).tanh()


@pytest.mark.parametrize("bias", [True, False])
def test_a_cell_may_have_no_recurrent_weights_and_parameters_of_its_own(bias: bool) -> None:
    stack = Stack(_Independent(), 3, 4, num_layers=2, bias=bias)
    assert stack.kinds == (("weight_ih", "bias_ih", "decay") if bias else ("weight_ih", "decay"))
    x, params = _numbers(stack, (5, 2, 3))
    output, (h_n,) = BACKEND.run(stack, Operands(x, None, params))
    for layer in range(2):
        w_ih, *biases, decay = params[layer * len(stack.kinds) : (layer + 1) * len(stack.kinds)]
        h, outputs = torch.zeros(2, 4, dtype=torch.float64), []
        for step in x:
            h = (step @ w_ih.T + sum(biases) + decay * h).tanh()
            outputs.append(h)
        x = torch.stack(outputs)
        torch.testing.assert_close(h_n[layer], h, rtol=0, atol=1e-14)
    torch.testing.assert_close(output, x, rtol=0, atol=1e-14)


def test_equal_lengths_packed_are_the_padded_batch() -> None:
    stack = Stack(ElmanTanh(), 3, 4, num_layers=2, bidirectional=True, bias=False)
    x, params = _numbers(stack, (5, 2, 3))
    padded, (h_n,) = BACKEND.run(stack, Operands(x, None, params))
    packed, (last,) = BACKEND.run(stack, Operands(x.flatten(0, 1), None, params, Spans(torch.tensor([2] * 5))))
    torch.testing.assert_close(packed.view_as(padded), padded, rtol=0, atol=1e-14)
    torch.testing.assert_close(last, h_n, rtol=0, atol=1e-14)


def test_nothing_it_is_given_is_written_to() -> None:
    stack = Stack(ElmanTanh(), 3, 4, bidirectional=True)
    x, params = _numbers(stack, (5, 2, 3))
    state = torch.randn(2, 2, 4, dtype=torch.float64)
    before = [tensor.clone() for tensor in (x, state, *params)]
    BACKEND.run(stack, Operands(x, (state,), params))
    assert all(torch.equal(one, two) for one, two in zip((x, state, *params), before, strict=True))


def test_step_inputs_in_the_padding_reach_no_gradient() -> None:
    stack = Stack(CfC(), 3, 4)
    x, params = _numbers(stack, (5, 2, 3))
    dt = torch.rand(5, 2, dtype=torch.float64)
    dt[3:, 1] = torch.nan
    output, _ = BACKEND.run(
        stack, Operands(x, None, [p.requires_grad_() for p in params], Spans(lengths=torch.tensor([5, 3]), step_inputs=(dt,)))
    )
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(output.sum(), params))
