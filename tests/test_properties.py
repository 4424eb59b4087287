"""Whatever the sizes, lengths and strides: right numbers, from every backend, into memory that was full of NaN."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import oracle
from cases import every_backend
from elman.backends import Backend, Stack
from elman.cells import NONLINEARITIES
from oracle import Direction

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("poisoned")


DIMENSIONS = st.integers(1, 9)


@st.composite
def strided(draw: st.DrawFn, *shape: int) -> Tensor:
    """A float64 tensor of this shape whose axes lie in any order, with gaps, after an offset, or repeated."""
    order = draw(st.permutations(range(len(shape))))
    gaps = [draw(st.integers(1, 3)) for _ in shape]
    expanded = [draw(st.booleans()) and draw(st.booleans()) for _ in shape]
    offset = draw(st.integers(0, 2))
    sizes = [1 if repeated else size for size, repeated in zip(shape, expanded, strict=True)]
    memory = [sizes[axis] * gaps[axis] + offset for axis in order]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    tensor = torch.randn(memory, generator=generator, dtype=torch.float64).permute(*np.argsort(order).tolist())
    for axis, gap in enumerate(gaps):
        tensor = tensor.narrow(axis, offset, sizes[axis] * gap) if sizes[axis] else tensor.narrow(axis, 0, 0)
        tensor = tensor[(slice(None),) * axis + (slice(None, None, gap),)]
    return tensor.expand(shape)


@st.composite
def calls(draw: st.DrawFn) -> tuple[Stack, list[int] | None, Tensor, Tensor | None, list[Tensor]]:
    """A stack, lengths (None for a padded batch), input, states, parameters."""
    stack = Stack(
        NONLINEARITIES[draw(st.sampled_from(["tanh", "relu"]))](),
        input_size=draw(DIMENSIONS),
        hidden_size=draw(DIMENSIONS),
        num_layers=draw(st.integers(1, 3)),
        bidirectional=draw(st.booleans()),
        bias=draw(st.booleans()),
    )
    lengths = draw(st.none() | st.lists(st.integers(1, 6), min_size=1, max_size=5).map(lambda lengths: sorted(lengths, reverse=True)))
    rows = draw(st.integers(0, 6)) if lengths is None else len(lengths)
    x = draw(strided(draw(st.integers(1, 6)), rows, stack.input_size) if lengths is None else strided(sum(lengths), stack.input_size))
    states = stack.num_layers * stack.num_directions
    state = draw(st.none() | strided(states, rows, stack.hidden_size))
    params = []
    for layer in stack.layers:
        h = stack.hidden_size
        for _ in range(stack.num_directions):
            params += [0.5 * draw(strided(*shape)) for shape in ((h, layer.input_size), (h, h), (h,), (h,))[: stack.tensors_per_direction]]
    return stack, lengths, x, state, params


def _batch_sizes(lengths: list[int]) -> Tensor:
    return torch.tensor([sum(length > t for length in lengths) for t in range(lengths[0])])


def _padded(data: Tensor, lengths: list[int]) -> np.ndarray:
    """Packed rows, (N, F), as a padded array (T, B, F)."""
    padded = np.zeros((lengths[0], len(lengths), data.shape[1]))
    place = 0
    for t, rows in enumerate(_batch_sizes(lengths).tolist()):
        padded[t, :rows] = data[place : place + rows].detach()
        place += rows
    return padded


@pytest.mark.parametrize("backend", every_backend())
@given(call=calls(), batch_first=st.booleans(), data=st.data())
@settings(max_examples=60, deadline=None)
def test_every_backend_computes_what_the_loops_do(
    backend: Backend, call: tuple[Stack, list[int] | None, Tensor, Tensor | None, list[Tensor]], batch_first: bool, data: st.DataObject
) -> None:
    stack, lengths, x, state, params = call
    leaves = [tensor.detach().requires_grad_() for tensor in ((x, *params) if state is None else (x, state, *params))]
    given_state = None if state is None else (leaves[1],)
    weights = leaves[1:] if state is None else leaves[2:]
    sizes = None if lengths is None else _batch_sizes(lengths)
    refusal = backend.refuses(stack, leaves[0], given_state, weights, sizes)
    if refusal is not None and x.numel() == 0:
        return  # there is nothing to compute, and nobody has to be good at it
    assert refusal is None
    output, (h_n,) = backend.run(stack, leaves[0], given_state, weights, sizes, batch_first)
    d_output, d_h_n = data.draw(strided(*output.shape)), data.draw(strided(*h_n.shape))
    gradients = torch.autograd.grad((output, h_n), leaves, (d_output, d_h_n))

    whole: Callable[[Tensor], np.ndarray] = (lambda t: t.detach().numpy()) if lengths is None else (lambda t: _padded(t, lengths))
    expected = oracle.run(
        "tanh" if stack.cell.name.endswith("tanh") else "relu",
        _layers(stack, params),
        whole(x),
        np.zeros(h_n.shape) if state is None else state.numpy(),
        [x.shape[0]] * x.shape[1] if lengths is None else lengths,
        whole(d_output),
        d_h_n.numpy(),
    )
    wanted = [expected.d_x] + ([] if state is None else [expected.d_h_0])
    for layer in expected.d_layers:
        for direction in layer:
            wanted += [direction.w_ih, direction.w_hh, direction.b_ih, direction.b_hh][: stack.tensors_per_direction]
    _assert_near(whole(output), expected.output)
    _assert_near(h_n.detach().numpy(), expected.h_n)
    _assert_near(whole(gradients[0]), wanted[0])
    for got, want in zip(gradients[1:], wanted[1:], strict=True):
        _assert_near(got.numpy(), want)


def _layers(stack: Stack, params: list[Tensor]) -> list[list[Direction]]:
    arrays = [parameter.numpy() for parameter in params]
    if not stack.bias:
        zero = np.zeros(stack.hidden_size)
        arrays = [array for pair in zip(arrays[::2], arrays[1::2], strict=True) for array in (*pair, zero, zero)]
    directions = [Direction(*arrays[i : i + 4]) for i in range(0, len(arrays), 4)]
    return [directions[i : i + stack.num_directions] for i in range(0, len(directions), stack.num_directions)]


def _assert_near(got: np.ndarray, want: np.ndarray) -> None:
    """Raise unless ``got`` is ``want`` to 1e-12 of its largest element, or of 1."""
    assert got.shape == want.shape
    assert (np.abs(got - want) <= 1e-12 * max(1.0, np.abs(want).max(initial=0.0))).all()


def test_near_is_not_anywhere() -> None:
    want = np.array([1.0, 2.0])
    _assert_near(want + 1e-12, want)
    for got in (want + 1e-11, np.array([1.0, np.nan]), want[None]):
        with pytest.raises(AssertionError):
            _assert_near(got, want)


@given(tensor=strided(3, 4, 2))
@settings(max_examples=50, deadline=None)
def test_the_strided_tensors_hold_numbers(tensor: Tensor) -> None:
    assert tensor.shape == (3, 4, 2)
    assert tensor.isfinite().all()
