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
    from collections.abc import Iterable, Iterator, Sequence

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
        kernels._native.allow_pairs(-1)


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


def assert_nearer(runs: Iterable[tuple[Iterable[str], Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]]) -> None:
    """Raise unless a first way to compute something is nearer to float64 than a second, by the mean square over several runs.

    Some results are as near, not nearer: of both ways only the same roundings are left. Two sums of n squares of errors of one normal
    distribution have a ratio whose standard deviation is sqrt(2 · 2 / n): three of these may be chance.

    Args:
        runs: the results' names; those in float64, those of the first way, and those of the second.
    """
    errors: dict[str, tuple[list[Tensor], list[Tensor]]] = {}
    for names, *results in runs:
        for name, exact, *found in zip(names, *results, strict=True):
            for all_errors, value in zip(errors.setdefault(name, ([], [])), found, strict=True):
                all_errors.append((value.double() - exact).square().flatten())
    for name, (first, second) in errors.items():
        n = sum(map(len, first))
        assert sum(map(torch.sum, first)) <= (1 + 3 * (4 / n) ** 0.5) * sum(map(torch.sum, second)), name


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()
