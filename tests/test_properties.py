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
from cases import as_layers, every_backend, refusal
from elman.backends import Backend, Operands, Spans, Stack
from elman.cells import BY_NAME
from kinds import Kind, every_kind

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
def calls(draw: st.DrawFn, kind: Kind) -> tuple[Stack, list[int] | None, Tensor, tuple[Tensor, ...] | None, list[Tensor]]:
    """A stack, lengths (None for a padded batch), input, states, parameters."""
    hidden_size = draw(DIMENSIONS)
    stack = Stack(
        BY_NAME[kind.cell](),
        input_size=draw(DIMENSIONS),
        hidden_size=hidden_size,
        num_layers=draw(st.integers(1, 3)),
        bidirectional=draw(st.booleans()),
        bias=draw(st.booleans()),
        proj_size=draw(st.integers(0, hidden_size - 1)) if "proj_size" in kind.options else 0,
    )
    lengths = draw(st.none() | st.lists(st.integers(1, 6), min_size=1, max_size=5).map(lambda lengths: sorted(lengths, reverse=True)))
    batch_size = draw(st.integers(0, 6)) if lengths is None else len(lengths)
    x = draw(strided(draw(st.integers(1, 6)), batch_size, stack.input_size) if lengths is None else strided(sum(lengths), stack.input_size))
    directions = stack.num_layers * stack.num_directions
    states = draw(st.none() | st.tuples(*(strided(directions, batch_size, size) for size in stack.state_sizes)))
    return stack, lengths, x, states, [0.5 * draw(strided(*shape)) for shape in stack.shapes]


def _batch_sizes(lengths: list[int]) -> Tensor:
    return torch.tensor([sum(length > t for length in lengths) for t in range(lengths[0])])


def _padded(data: Tensor, lengths: list[int]) -> np.ndarray:
    """Packed rows, (N, F), as a padded array (T, B, F)."""
    padded = np.zeros((lengths[0], len(lengths), data.shape[1]))
    place = 0
    for t, alive in enumerate(_batch_sizes(lengths).tolist()):
        padded[t, :alive] = data[place : place + alive].detach()
        place += alive
    return padded


@pytest.mark.slow
@every_kind
@pytest.mark.parametrize("backend", every_backend())
@given(batch_first=st.booleans(), data=st.data())
@settings(max_examples=60, deadline=None)
def test_every_backend_computes_what_the_loops_do(backend: Backend, kind: Kind, batch_first: bool, data: st.DataObject) -> None:
    reason = refusal(backend, kind)
    if reason is not None:
        pytest.skip(f"{backend.name} {reason}")
    stack, lengths, x, states, params = data.draw(calls(kind))
    given_states, count = states or (), 0 if states is None else len(states)
    leaves = [tensor.detach().requires_grad_() for tensor in (x, *given_states, *params)]
    initial, weights = tuple(leaves[1 : 1 + count]) or None, leaves[1 + count :]
    sizes = None if lengths is None else _batch_sizes(lengths)
    operands = Operands(leaves[0], initial, weights, Spans(sizes))
    reason = backend.refuses(stack, operands)
    if reason is not None and x.numel() == 0:
        return  # there is nothing to compute, and nobody has to be good at it
    assert reason is None
    output, finals = backend.run(stack, operands, batch_first)
    grad_output, *grad_finals = (data.draw(strided(*result.shape)) for result in (output, *finals))
    gradients = torch.autograd.grad((output, *finals), leaves, (grad_output, *grad_finals))

    whole: Callable[[Tensor], np.ndarray] = (lambda t: t.detach().numpy()) if lengths is None else (lambda t: _padded(t, lengths))
    expected = oracle.run(
        stack.cell.name,
        as_layers([parameter.numpy() for parameter in params], stack.num_layers, stack.num_directions, stack.bias),
        whole(x),
        tuple(np.zeros(final.shape) for final in finals) if states is None else tuple(state.numpy() for state in states),
        [x.shape[0]] * x.shape[1] if lengths is None else lengths,
        whole(grad_output),
        tuple(gradient.numpy() for gradient in grad_finals),
    )
    expected_grads = list(expected.grad_initial[:count])
    for direction in (direction for layer in expected.grad_layers for direction in layer):
        expected_grads += [getattr(direction, name) for name in direction.names if stack.bias or not name.startswith("b_")]
    _assert_near(whole(output), expected.output)
    _assert_near(whole(gradients[0]), expected.grad_x)
    for got, correct in zip((*finals, *gradients[1:]), (*expected.finals, *expected_grads), strict=True):
        _assert_near(got.detach().numpy(), correct)


def _assert_near(got: np.ndarray, expected: np.ndarray) -> None:
    """Raise unless ``got`` is ``expected`` to 1e-12 of its largest element, or of 1."""
    assert got.shape == expected.shape
    assert (np.abs(got - expected) <= 1e-12 * max(1.0, np.abs(expected).max(initial=0.0))).all()


def test_near_is_not_anywhere() -> None:
    expected = np.array([1.0, 2.0])
    _assert_near(expected + 1e-12, expected)
    for got in (expected + 1e-11, np.array([1.0, np.nan]), expected[None]):
        with pytest.raises(AssertionError):
            _assert_near(got, expected)


@given(tensor=strided(3, 4, 2))
@settings(max_examples=50, deadline=None)
def test_the_strided_tensors_hold_numbers(tensor: Tensor) -> None:
    assert tensor.shape == (3, 4, 2)
    assert tensor.isfinite().all()
