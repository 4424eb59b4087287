"""What is special to cells of one's own under torch.func's transforms: step inputs and random numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

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
