"""What tests of bfloat16 share: numbers, networks, and the instruction sets in turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

import elman
from elman.backends import kernels
from kinds import Kind, as_hx, as_states
from native import instruction_set, threads

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from torch import Tensor, nn

U = 2.0**-8  # half the distance from 1 to the next number
LEAST = 2.0**-126  # below the smallest normal number, products may count as zero


@pytest.fixture(params=[*(kernels.isas() if kernels.available() else ()), "avx512 without products of pairs"])
def every_isa(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each instruction set in turn, and AVX-512 as it is on processors without AVX-512 BF16."""
    isa = request.param.split()[0]
    if isa not in kernels.isas():
        pytest.skip(f"{isa} is not offered by this processor and this build")
    with instruction_set(isa):
        kernels._native.allow_pairs(isa == request.param)
        yield
        kernels._native.allow_pairs(True)


@pytest.fixture
def seeded_and_on_one_thread() -> Iterator[None]:
    torch.manual_seed(0)
    with threads(1):
        yield


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape).bfloat16()


def build(kind: Kind, *sizes: int, **options: object) -> nn.Module:
    return kind.build(elman, *sizes, **options).bfloat16()


def states_of(kind: Kind, directions: int, batch: int, hidden_size: int) -> tuple[Tensor, ...]:
    return tuple(randn(directions, batch, width) for width in kind.widths(hidden_size))


@torch.no_grad()
def results(module: nn.Module, x: Tensor, states: tuple[Tensor, ...] | None = None) -> tuple[Tensor, ...]:
    """The output and the final states."""
    output, hx = module(x, None if states is None else as_hx(states))
    return output, *as_states(hx)


def assert_same_bits(got: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype is b.dtype is torch.bfloat16
        assert torch.equal(a, b), f"differs by up to {(a - b).abs().max():.3g}"


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()
