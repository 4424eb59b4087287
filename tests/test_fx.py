"""torch.fx.symbolic_trace: a network is one node, as torch.nn's layers are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import elman
from kinds import Kind, as_states, every_cell, every_kind


class _Twice(nn.Module):
    """Two networks, the second of which goes on from where the first ended, and two steps of a cell."""

    def __init__(self, kind: Kind, cell: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.cell = kind.build(elman, 3, 4), kind.build(elman, kind.widths(4)[0], 4), cell

    def forward(self, x: Tensor, lengths: Tensor, reset: Tensor) -> Any:
        output, hx = self.first(x, lengths=lengths)
        output, hx = self.second(output, hx, reset=reset)
        return output, hx, self.cell(x[1], self.cell(x[0]))


@every_kind
def test_a_network_is_one_node(kind: Kind) -> None:
    cell = elman.GRUCell(3, 5) if kind.options.get("proj_size") else kind.build_cell(elman, 3, 5)
    model = _Twice(kind, cell)
    traced = fx.symbolic_trace(model)
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["first", "second", "cell", "cell"]
    x, lengths, reset = torch.randn(5, 2, 3), torch.tensor([5, 2]), torch.rand(5, 2) < 0.4
    (output, hx, state), (got, got_hx, got_state) = model(x, lengths, reset), traced(x, lengths, reset)
    for one, other in zip((output, *as_states(hx), *as_states(state)), (got, *as_states(got_hx), *as_states(got_state)), strict=True):
        assert torch.equal(one, other)


@every_cell
def test_a_subclass_with_a_forward_of_its_own_is_none(kind: Kind) -> None:
    """Its node would run that forward, whose beginning is recorded before."""

    class Doubled(getattr(elman, kind.layer)):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return super().forward(x * 2)

    class Renamed(getattr(elman, kind.layer)):  # type: ignore[misc]
        pass

    with pytest.raises(TypeError, match="expected x to be a tensor, got Proxy"):
        fx.symbolic_trace(nn.Sequential(Doubled(3, 4)))
    renamed, x = nn.Sequential(Renamed(3, 4)), torch.randn(5, 2, 3)
    assert torch.equal(fx.symbolic_trace(renamed)(x)[0], renamed(x)[0])


class _Last(nn.Module):
    """Takes the last step of a network's output."""

    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn, self.head = rnn, nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][-1])


@every_cell
def test_a_converted_model_is_recorded_as_before(kind: Kind) -> None:
    class Theirs(getattr(nn, kind.layer)):  # type: ignore[misc]
        pass

    x = torch.randn(5, 2, 3)
    nodes = [str(node) for node in fx.symbolic_trace(_Last(getattr(nn, kind.layer)(3, 4))).graph.nodes]
    for build in (getattr(nn, kind.layer), Theirs):  # torch.fx cannot record Theirs before
        model = elman.convert(_Last(build(3, 4)))
        traced = fx.symbolic_trace(model)
        assert [str(node) for node in traced.graph.nodes] == nodes
        assert torch.equal(traced(x), model(x))
