"""What the tests of the native kernels share: the backend alone, a number of threads, and one way to run and differentiate a network."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

import elman
from elman.backends import kernels, registry
from elman.backends.native import NativeBackend

if TYPE_CHECKING:
    from collections.abc import Iterator

Values = dict[str, Tensor]

required = pytest.mark.skipif(not kernels.available(), reason=f"the kernels are not built here ({kernels.unavailable_reason()})")


@pytest.fixture
def native_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that the native backend refuses is an error."""
    monkeypatch.setattr(registry, "BACKENDS", (NativeBackend(),))


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def pair(*sizes: int, dtype: torch.dtype = torch.float64, **options: object) -> tuple[nn.RNN, elman.RNN]:
    """The networks of torch and ours, with the same parameters."""
    theirs, ours = nn.RNN(*sizes, **options, dtype=dtype), elman.RNN(*sizes, **options, dtype=dtype)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def random_like(tensor: Tensor) -> Tensor:
    """The same random numbers for every tensor of a shape."""
    return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(tensor.dtype)


def evaluate(module: nn.Module, x: Tensor | PackedSequence, hx: Tensor | None = None) -> Values:
    """Results, and the gradients of their random combination by all inputs and parameters."""
    data = (x.data if isinstance(x, PackedSequence) else x).detach().requires_grad_()
    state = None if hx is None else hx.detach().requires_grad_()
    given = PackedSequence(data, x.batch_sizes) if isinstance(x, PackedSequence) else data
    output, h_n = module(given, state)
    output = output.data if isinstance(output, PackedSequence) else output
    leaves = {"x": data, **dict(module.named_parameters())} | ({} if state is None else {"hx": state})
    gradients = torch.autograd.grad((output, h_n), list(leaves.values()), (random_like(output), random_like(h_n)))
    values = {"output": output, "h_n": h_n} | {f"d {name}": gradient for name, gradient in zip(leaves, gradients, strict=True)}
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
    for name, value in expected.items():
        assert torch.equal(got[name], value), f"{name} differs by up to {(got[name] - value).abs().max():.3g}"
