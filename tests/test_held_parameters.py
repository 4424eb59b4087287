"""A cell that holds parameters: a network of it would neither list nor save them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

import elman
import own_cells

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("held", [nn.Linear(4, 4), [nn.Parameter(torch.ones(4))], {"a": nn.PReLU()}], ids=lambda held: type(held).__name__)
def test_what_a_cell_holds_is_not_trained_in_silence(held: Any) -> None:
    mine = own_cells.Gru()
    mine.held = held  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match=r"expected Gru to declare what it trains, got held, .*: name it in gates or parameters"):
        elman.Recurrent(mine, 3, 4)
    for each in held.values() if isinstance(held, dict) else held if isinstance(held, list) else [held]:
        each.requires_grad_(False)
    elman.Recurrent(mine, 3, 4)


outside = nn.Parameter(torch.ones(4))


class OfGlobals(own_cells.Gru):
    def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
        return super().step(x, r, s, p) * outside


def of_closures() -> elman.Cell:
    linear = nn.Linear(4, 4)

    class OfClosures(own_cells.Gru):
        def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
            return linear(super().step(x, r, s, p))

    return OfClosures()


@pytest.mark.parametrize("wrap", [lambda cell: cell, lambda cell: elman.Zoneout(cell, h=0.1)], ids=["alone", "wrapped"])
@pytest.mark.parametrize("make", [OfGlobals, of_closures])
def test_nor_is_what_its_step_reads_from_elsewhere(make: Callable[[], elman.Cell], wrap: Callable[[elman.Cell], elman.Cell]) -> None:
    words = r"expected the step of Of\w+ to train the parameters of its network alone, got a gradient .* \(at .*\): name it in gates"
    with pytest.warns(UserWarning, match=words) as caught:
        elman.Recurrent(wrap(make()), 3, 4)
    assert len(caught) == 1


class OfAnEnergy(own_cells.Gru):
    """Its step makes a leaf, to differentiate by it; nothing outside is trained."""

    def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
        v = s.h.detach().requires_grad_()
        (force,) = torch.autograd.grad((torch.tanh(v) * v).sum(), v, create_graph=True)
        return super().step(x, r, s, p) - force


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        ctx.variable = 2
        return v * ctx.variable

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return grad * ctx.variable


class OfAFunction(own_cells.Gru):
    def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
        return Doubled.apply(super().step(x, r, s, p))


@pytest.mark.parametrize("cell", [OfAnEnergy, OfAFunction])
def test_what_a_step_makes_itself_is_not_from_elsewhere(cell: type[elman.Cell]) -> None:
    elman.Recurrent(cell(), 3, 4)


def test_what_has_no_gradient_may_come_from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "outside", outside.detach())
    elman.Recurrent(OfGlobals(), 3, 4)
