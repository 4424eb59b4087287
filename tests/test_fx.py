"""torch.fx.symbolic_trace: a network is one node, as torch.nn's layers are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.fx.experimental import meta_tracer
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils.rnn import PackedSequence

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


class _Begun(nn.Module):
    """A network and a cell that are given a buffer, the network a state that is computed as well."""

    def __init__(self, library: Any, kind: Kind) -> None:
        super().__init__()
        self.rnn, self.cell = kind.build(library, 3, 4), kind.build_cell(library, 3, 4)
        self.register_buffer("start", torch.randn(1, 2, 3))

    def forward(self, x: Tensor, state: Tensor) -> Any:
        output, hx = self.rnn(self.start)
        again = self.rnn(self.start, hx=(state, state) if isinstance(self.rnn, nn.LSTM) else state)
        packed = self.rnn(PackedSequence(x, torch.tensor([2, 1])))[0].data
        return output, hx, again, packed, self.cell(self.start[0])


@every_cell
def test_a_call_with_a_buffer_is_one_node_too(kind: Kind) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = fx.symbolic_trace(_Begun(nn, kind))
        torch.manual_seed(0)
        model = _Begun(elman, kind)
    traced = fx.symbolic_trace(model)
    assert [str(node) for node in traced.graph.nodes] == [str(node) for node in theirs.graph.nodes]
    assert dict(traced.named_parameters()).keys() == dict(model.named_parameters()).keys()
    given = torch.randn(3, 3), torch.randn(1, 2, 4)
    torch.testing.assert_close(traced(*given), model(*given), rtol=0, atol=0)
    torch.testing.assert_close(traced(*given), theirs(*given))


def test_a_network_of_an_own_cell_that_is_given_a_buffer_is_one_node() -> None:
    class Begun(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.cell = elman.Recurrent(elman.zoo.MGU(), 3, 4), elman.RecurrentCell(elman.zoo.MGU(), 3, 4)
            self.register_buffer("start", torch.randn(1, 2, 3))

        def forward(self, x: Tensor) -> Any:
            return self.rnn(self.start)[0] + self.cell(self.start[0]) + x

    model, x = Begun(), torch.randn(1, 2, 4)
    traced = fx.symbolic_trace(model)
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["rnn", "cell"]
    assert torch.equal(traced(x), model(x))


def test_a_tracer_that_records_operators_sees_the_networks_own() -> None:
    rnn, x = elman.GRU(3, 4), torch.randn(5, 2, 3)
    graph = make_fx(lambda x: rnn(x)[0])(x)
    assert any(node.target is torch.ops.elman.scan.default for node in graph.graph.nodes)
    assert torch.equal(graph(x), rnn(x)[0])


@every_cell
def test_a_tracer_that_runs_what_it_records_gets_one_node(kind: Kind) -> None:
    model = _Last(kind.build(elman, 3, 4)).to("meta")
    nodes = [str(node) for node in fx.symbolic_trace(model).graph.nodes]
    traced = meta_tracer.symbolic_trace(model, {"x": torch.zeros(5, 2, 3, device="meta")})
    assert [str(node) for node in traced.graph.nodes] == nodes

    class Shapes(fx.Tracer):
        """Learns the shapes of a result from a call with zeros."""

        seen: list[torch.Size] = []  # noqa: RUF012

        def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
            if isinstance(m, nn.RNNBase):
                self.seen.append(forward(torch.zeros(5, 2, 3, device="meta"))[0].shape)
                return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)
            return super().call_module(m, forward, args, kwargs)

    graph = Shapes().trace(model)
    assert [str(node) for node in graph.nodes] == nodes
    assert Shapes.seen == [(5, 2, 4)]


def test_a_call_of_forward_with_a_buffer_is_none() -> None:
    class Direct(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.start = elman.GRU(3, 4), torch.randn(1, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn.forward(self.start)[0].detach() + x

    model, x = Direct(), torch.randn(1, 2, 4)
    traced = fx.symbolic_trace(model)
    assert "call_module" not in [node.op for node in traced.graph.nodes]
    assert torch.equal(traced(x), model(x))


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
