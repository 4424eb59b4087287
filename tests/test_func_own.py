"""What is special to cells of one's own under torch.func's transforms: step inputs and random numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, vjp, vmap

import elman
from func_transforms import EVERYTHING, SPANS, TOLERANCE, B, H, I, T, V, doubles, loss, only, parameters, ran, states_of
from native import required
from own_cells import Decay, Gru2014

pytestmark = required
__all__ = ["ran"]


def test_random_numbers_of_a_cell_of_ones_own_go_to_the_reference(ran: list[str]) -> None:
    rnn = elman.Recurrent(elman.Zoneout(Gru2014(), h=0.5), I, H)

    def run(x: Tensor) -> Tensor:
        return rnn(x)[0].sum()

    x = torch.randn(T, B, I)
    for training in (True, False):
        rnn.train(training)
        assert grad(run)(x).shape == x.shape
    assert ran == ["reference", "native"]


@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["plain", "everything"])
def test_step_inputs_are_mapped_and_differentiated(options: dict[str, Any], ran: list[str]) -> None:
    """With lengths, resets, initial states; also in members of an ensemble, and where only some have examples."""
    rnn = elman.Recurrent(Decay(), I, H, **options, dtype=torch.float64)
    x = doubles(V, B, T, I) if rnn.batch_first else doubles(V, T, B, I)
    dt, mask, states = torch.rand(x.shape[:3], dtype=x.dtype), torch.rand((*x.shape[:3], H), dtype=x.dtype), states_of(rnn, V)
    spans = SPANS["ragged and reset"]
    reset = spans["reset"].t() if rnn.batch_first else spans["reset"]

    def of(values: dict[str, Tensor], x: Tensor, dt: Tensor, mask: Tensor, states: tuple[Tensor, ...]) -> Tensor:
        whole = loss(rnn, values, x, dt=dt, mask=mask)
        return whole + loss(rnn, values, x, *states, dt=dt, mask=mask, lengths=spans["lengths"], reset=reset)

    def run() -> Any:
        values, every = parameters(rnn), (0, 1, 2, 3, 4)
        stacked = {name: torch.stack([value, 2 * value, -value]) for name, value in values.items()}
        return (
            vmap(lambda x, dt, mask: rnn(x, dt=dt, mask=mask))(x, dt, mask),
            vmap(lambda dt: rnn(x[0], dt=dt, mask=mask[0])[0], in_dims=2, out_dims=1)(dt.movedim(0, 2)),
            grad(of, every)(values, x[0], dt[0], mask[0], tuple([state[0] for state in states])),
            vmap(grad(of, every), (None, 0, 0, None, 0))(values, x, dt, mask[0], states),
            vmap(grad(of, every), (0, 0, None, 0, 0))(stacked, x, dt[0], mask, states),
            vmap(vmap(grad(of, every), (None, 0, 0, 0, 0)), (0, None, None, None, None))(stacked, x, dt, mask, states),
        )

    got = run()
    assert set(ran) == {"native"}
    with only("reference"):
        torch.testing.assert_close(got, run(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", [Decay(), Gru2014()], ids=lambda cell: type(cell).__name__)
def test_examples_may_have_lengths_of_their_own(cell: elman.Cell, layers: int, ran: list[str]) -> None:
    """Of other sums, too, where each has gradients of its own or parameters of its own."""
    rnn, x = elman.Recurrent(cell, I, H, num_layers=layers, dtype=torch.float64), doubles(V, T, B, I)
    beside = {name: torch.rand((T, B, *[H] * bool(size)), dtype=torch.float64) for name, size in cell.step_inputs.items()}
    lengths, values = torch.tensor([[1, 2], [4, 4], [0, 3]]), parameters(rnn)
    stacked = {name: torch.stack([value, 2 * value, -value]) for name, value in values.items()}

    def of(values: dict[str, Tensor], x: Tensor, lengths: Tensor) -> Tensor:
        return loss(rnn, values, x, lengths=lengths, **beside)

    def run() -> Any:
        each = vmap(grad(of, (0, 1)), (None, 0, 0))(values, x, lengths), vmap(grad(of, (0, 1)), (0, 0, 0))(stacked, x, lengths)
        leaves = {name: value.clone().requires_grad_() for name, value in stacked.items()}
        whole = vmap(of)(leaves, x, lengths).sum()  # and by plain autograd, through vmap
        return each, torch.autograd.grad(whole, list(leaves.values()))

    got = run()
    assert set(ran) == {"native"}
    with only("reference"):
        torch.testing.assert_close(got, run(), rtol=0, atol=TOLERANCE)


def test_what_changes_before_the_gradient_changes_nothing() -> None:
    """The cell's options, and the resets."""
    cell = Decay()
    rnn, x = elman.Recurrent(cell, I, H, dtype=torch.float64), doubles(T, B, I)
    beside = {"dt": torch.rand(T, B, dtype=torch.float64), "mask": torch.rand(T, B, H, dtype=torch.float64)}
    reset = torch.rand(T, B) < 0.5

    def run(x: Tensor) -> Tensor:
        return rnn(x, reset=reset, **beside)[0].square().sum()

    expected, (output, pull) = grad(run)(x), vjp(run, x)
    cell.floor, before = 0.9, reset.clone()
    reset.logical_not_()
    assert torch.equal(pull(torch.ones_like(output))[0], expected)
    assert not torch.equal(grad(run)(x), expected)
    cell.floor = 0.1
    reset.copy_(before)
    assert torch.equal(grad(run)(x), expected)


@pytest.mark.parametrize("rnn", [elman.Recurrent(Gru2014(), I, H, learn_initial_state=True), elman.GRU(I, H, learn_initial_state=True)])
def test_unbatched_examples_start_from_the_learned_state(rnn: Any) -> None:
    x = torch.randn(V, T, I)
    torch.nn.init.normal_(rnn.h_0)
    expected = torch.stack([rnn(each)[0] for each in x])
    torch.testing.assert_close(vmap(lambda x: rnn(x)[0])(x), expected)
    (wanted,) = torch.autograd.grad(expected.square().sum(), rnn.h_0)
    found = grad(lambda h_0: torch.func.functional_call(rnn, {"h_0": h_0}, (x.transpose(0, 1),))[0].square().sum())(rnn.h_0.detach())
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(torch.autograd.grad(vmap(lambda x: rnn(x)[0])(x).square().sum(), rnn.h_0)[0], wanted)
