"""elman.RNNCell is torch.nn.RNNCell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

import elman

if TYPE_CHECKING:
    from elman.backends import Backend


def _pair(*arguments: object, **options: object) -> tuple[nn.RNNCell, elman.RNNCell]:
    torch.manual_seed(0)
    theirs = nn.RNNCell(*arguments, **options)
    torch.manual_seed(0)
    return theirs, elman.RNNCell(*arguments, **options)


@pytest.mark.parametrize("unbatched", [False, True], ids=["batched", "unbatched"])
@pytest.mark.parametrize("given_state", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.usefixtures("poisoned")
def test_a_step_and_its_gradients_are_torchs(backend: Backend, nonlinearity: str, bias: bool, given_state: bool, unbatched: bool) -> None:
    results = []
    for cell in _pair(3, 4, bias, nonlinearity):
        torch.manual_seed(1)
        x, hx = (torch.randn(5, size, dtype=torch.float64)[0 if unbatched else slice(None)] for size in (3, 4))
        leaves = [leaf.requires_grad_() for leaf in ((x, hx) if given_state else (x,))]
        h = cell.double()(*leaves)
        results.append([h, *torch.autograd.grad(h.square().sum(), [*leaves, *cell.parameters()])])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_the_same_seed_gives_torchs_parameters(bias: bool) -> None:
    theirs, ours = _pair(3, 4, bias)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, expected in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], expected)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert (ours.bias_ih is None, ours.bias_hh is None) == (not bias, not bias)


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"nonlinearity": "relu"}, {"bias": False, "nonlinearity": "relu"}], ids=str)
def test_it_prints_as_torchs(options: dict[str, object]) -> None:
    theirs, ours = _pair(3, 4, **options)
    assert repr(ours) == repr(theirs)


def test_steps_one_by_one_are_the_sequence(backend: Backend) -> None:
    rnn, cell = elman.RNN(3, 4).double(), elman.RNNCell(3, 4).double()
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in rnn.state_dict().items()})
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    h, steps = None, []
    for step in x:
        h = cell(step, h)
        steps.append(h)
    torch.testing.assert_close(torch.stack(steps), rnn(x)[0], rtol=0, atol=1e-14)


@pytest.mark.parametrize(("input_size", "hidden_size"), [(0, 4), (3, 0), (0, 0)])
def test_sizes_of_zero_are_torchs(input_size: int, hidden_size: int) -> None:
    theirs, ours = _pair(input_size, hidden_size)
    x = torch.randn(2, input_size)
    torch.testing.assert_close(ours(x), theirs(x))


def test_an_empty_batch_gives_an_empty_state() -> None:
    assert elman.RNNCell(3, 4)(torch.randn(0, 3)).shape == (0, 4)


def test_autocast_gives_what_it_gives_in_torch() -> None:
    theirs, ours = _pair(3, 4)
    x, hx = torch.randn(2, 3), torch.randn(2, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(ours(x, hx), theirs(x, hx), rtol=0, atol=0)
