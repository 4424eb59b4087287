"""What the tests of the native kernels share: the backend alone, a number of threads, and one way to run and differentiate a network."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

import raw
from elman.backends import kernels, registry
from elman.backends.native import NativeBackend
from kinds import Kind, as_hx, as_states

if TYPE_CHECKING:
    from collections.abc import Iterator

Values = dict[str, Tensor]

required = pytest.mark.skipif(not kernels.available(), reason=f"the kernels are not built here ({kernels.unavailable_reason()})")
on_every_isa = pytest.mark.usefixtures("every_isa")


@pytest.fixture
def native_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that the native backend refuses is an error."""
    monkeypatch.setattr(registry, "BACKENDS", (NativeBackend(),))


@contextmanager
def instruction_set(isa: str) -> Iterator[None]:
    before = kernels.isa()
    kernels._native.use(isa)
    try:
        yield
    finally:
        kernels._native.use(before)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def tensors_asked(asked: bool = True) -> Iterator[None]:
    """The kernels ask tensors for their attributes, as with a torch that does not show them (before 2.10)."""
    if not (asked and kernels.sees_tensors()):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "sees_tensors", lambda: False)
        kernels._native.offer_exchange(object())
        try:
            yield
        finally:
            kernels._native.offer_exchange(Tensor.__dlpack_c_exchange_api__)


def initial_states(module: nn.Module, batch_size: int) -> tuple[Tensor, ...]:
    """Random initial states of one of elman's networks, of a batch of this size."""
    stack, like = module.stack, next(module.parameters())
    shapes = [(stack.num_layers * stack.num_directions, batch_size, width) for width in stack.state_sizes]
    return tuple(torch.randn(shape, dtype=like.dtype) for shape in shapes)


def chunk(kind: Kind, hidden_size: int, batch_size: int, dtype: torch.dtype = torch.float64) -> int:
    """How many steps the backward pass takes before it adds up what they give for the weights."""
    steps = 2**40  # of a long sequence, whose chunks are about as long as the longest
    size = torch.promote_types(dtype, torch.float32).itemsize  # of what it is computed in
    return raw.chunk_steps(raw.CELLS.index(kind.cell), size, hidden_size, batch_size, 1, steps)


def random_like(tensor: Tensor) -> Tensor:
    """The same random numbers for every tensor of a shape. NumPy draws them in a third of the time that torch takes."""
    return torch.from_numpy(np.random.default_rng(0).standard_normal(tensor.shape)).to(tensor.dtype)


def named(output: Tensor | PackedSequence, hx: Tensor | tuple[Tensor, ...]) -> Values:
    """What a network gives."""
    finals = {f"{name}_n": final for name, final in zip("hc", as_states(hx), strict=False)}
    return {"output": output.data if isinstance(output, PackedSequence) else output, **finals}


@torch.no_grad()
def results(module: nn.Module, x: Tensor | PackedSequence, states: tuple[Tensor, ...] | None = None, **spans: object) -> Values:
    """What a network gives, by itself. ``spans``: lengths and resets."""
    return named(*module(x, None if states is None else as_hx(states), **spans))


def evaluate(module: nn.Module, x: Tensor | PackedSequence, states: tuple[Tensor, ...] | None = None, **spans: object) -> Values:
    """Results, and the gradients of their random combination by all inputs and parameters."""
    data = (x.data if isinstance(x, PackedSequence) else x).detach().requires_grad_()
    initial = tuple(state.detach().requires_grad_() for state in states or ())
    given = PackedSequence(data, x.batch_sizes) if isinstance(x, PackedSequence) else data
    values = named(*module(given, as_hx(initial) if initial else None, **spans))
    leaves = {"x": data, **dict(module.named_parameters())}
    leaves |= {f"initial {name}": state for name, state in zip("hc", initial, strict=False)}
    gradients = torch.autograd.grad(tuple(values.values()), list(leaves.values()), tuple(map(random_like, values.values())))
    values |= {f"d {name}": gradient for name, gradient in zip(leaves, gradients, strict=True)}
    return {name: value.detach() for name, value in values.items()}


def assert_near(got: Values, expected: Values) -> None:
    """Raise unless everything is within 1e-12, relative to the largest element (absolute below 1)."""
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            got[name], value, rtol=0, atol=1e-12 * max(1.0, value.abs().max().item()), msg=lambda m, n=name: f"{n}: {m}"
        )


def assert_same_bits(got: Values, expected: Values) -> None:
    assert got.keys() == expected.keys()
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # in which 0 and -0 differ, and NaN is the same as itself
    for name, value in expected.items():
        as_bits = [tensor.contiguous().view(integers[tensor.element_size()]) for tensor in (got[name], value)]
        assert torch.equal(*as_bits), f"{name} differs by up to {(got[name] - value).abs().max():.3g}"
