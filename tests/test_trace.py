"""trace: every layer's states and gates at every step are those of the equations, and so are the gradients through all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import elman
import pieces
from cases import assert_same
from kinds import GRU, LSTM, TANH, Kind, as_hx, as_states, every_kind
from pieces import Batch

if TYPE_CHECKING:
    from cases import Values
    from elman.backends import Backend

pytestmark = pytest.mark.usefixtures("poisoned")

LENGTHS = [3, 0, 6, 4]


def _step(kind: Kind, a: Tensor, q: Tensor, states: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """One step of the equations in the classes' docstrings, of one sequence: the states before a projection, and the gates."""
    if kind.cell.startswith("rnn"):
        return ((torch.tanh if kind.cell == "rnn_tanh" else torch.relu)(a + q),), {}
    if kind.cell == "gru":
        (a_r, a_z, a_n), (q_r, q_z, q_n) = a.chunk(3), q.chunk(3)
        r, z = torch.sigmoid(a_r + q_r), torch.sigmoid(a_z + q_z)
        n = torch.tanh(a_n + r * q_n)
        return ((1 - z) * n + z * states[0],), {"r": r, "z": z, "n": n}
    i, f, g, o = (a + q).chunk(4)
    i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
    c = f * states[1] + i * g
    return (o * torch.tanh(c), c), {"i": i, "f": f, "g": g, "o": o}


def _unrolled(kind: Kind, rnn: nn.Module, batch: Batch) -> Values:
    """What ``trace`` is to give, time first: a loop over layers, directions, sequences and the steps of each."""
    directions = 2 if rnn.bidirectional else 1
    steps, batch_size, _ = batch.x.shape
    lengths = batch.lengths or [steps] * batch_size
    reset = torch.zeros(steps, batch_size, dtype=torch.bool) if batch.reset is None else batch.reset
    fresh = [getattr(rnn, f"{name}_0") for name in kind.states]
    below = batch.x
    seen: dict[str, list[Tensor]] = {}
    finals: list[list[Tensor]] = [[] for _ in kind.states]
    for layer in range(rnn.num_layers):
        outputs = []
        for d in range(directions):
            k, tail = layer * directions + d, f"_l{layer}{'_reverse' * d}"
            w = {name: getattr(rnn, name + tail) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
            grid: dict[str, list[list[Tensor]]] = {}
            ended = []
            for b, length in enumerate(lengths):
                states = tuple((f[k] if batch.states is None else s[k, b]) for f, s in zip(fresh, batch.states or fresh, strict=True))
                line: dict[str, list[Tensor]] = {}
                for t in range(length) if d == 0 else range(length - 1, -1, -1):
                    begun = t if d == 0 else t + 1  # where the sequence would have to end for a direction to begin at t
                    if begun < length and reset[begun, b]:
                        states = tuple(state[k] for state in fresh)
                    a = w["weight_ih"] @ below[t, b] + w["bias_ih"]
                    q = w["weight_hh"] @ states[0] + w["bias_hh"]
                    states, gates = _step(kind, a, q, states)
                    if "proj_size" in kind.options:
                        states = (getattr(rnn, "weight_hr" + tail) @ states[0], *states[1:])
                    for name, value in {**dict(zip(kind.states, states, strict=True)), **gates}.items():
                        line.setdefault(name, []).append(value)
                ended.append(states)
                for name in (*kind.states, *GATES[kind.cell]):
                    width = kind.widths(4)[0] if name == "h" else 4
                    padding = [torch.zeros(width, dtype=torch.float64)] * (steps - length)
                    in_time = line.get(name, [])[:: 1 if d == 0 else -1]
                    grid.setdefault(name, []).append([*in_time, *padding])
            for name, lines in grid.items():
                seen.setdefault(name, []).append(torch.stack([torch.stack(line) for line in lines], 1))
            outputs.append(seen["h"][-1])
            for state, each in zip(finals, zip(*ended, strict=True), strict=True):
                state.append(torch.stack(each))
        below = torch.cat(outputs, -1)
    laid_out = {name: torch.stack(each).unflatten(0, (rnn.num_layers, directions)) for name, each in seen.items()}
    last = torch.cat(finals[0][-directions:], -1)
    return {"output": below, "last": last, **laid_out, **{f"final {k}": torch.stack(each) for k, each in enumerate(finals)}}


GATES = {"rnn_tanh": (), "rnn_relu": (), "gru": ("r", "z", "n"), "lstm": ("i", "f", "g", "o")}


def _traced(rnn: nn.Module, batch: Batch, form: str = "padded") -> Values:
    """What ``trace`` gives, time first and with a batch axis, whatever the form of the call."""
    x, states, lengths, reset = batch.x, batch.states, batch.lengths, batch.reset
    first = rnn.batch_first
    if form == "unbatched":
        hx = None if states is None else as_hx(tuple(state[:, 0] for state in states))
        traced = rnn.trace(x[:, 0], hx, lengths=lengths, reset=None if reset is None else reset[:, 0])
    elif form == "packed":
        reset = None if reset is None else reset.t() if first else reset
        traced = rnn.trace(pack_padded_sequence(x, lengths, enforce_sorted=False), as_hx(states), reset=reset)
    else:
        x, reset = (x.transpose(0, 1), None if reset is None else reset.t()) if first else (x, reset)
        traced = rnn.trace(x, None if states is None else as_hx(states), lengths=lengths, reset=reset)

    def time_first(value: Tensor, time: int) -> Tensor:
        if form == "unbatched":
            return value.unsqueeze(time + 1)
        return value.transpose(time, time + 1) if first else value

    output = traced.output
    if form == "packed":
        called, _ = rnn(pack_padded_sequence(x, lengths, enforce_sorted=False), as_hx(states), reset=reset)
        assert all(map(torch.equal, output[1:], called[1:]))  # how it is packed
        output, _ = pad_packed_sequence(output, first, total_length=len(x))
    assert (traced.c is not None) == (rnn.mode == "LSTM")
    steps = {"h": traced.h, **traced.gates} | ({} if traced.c is None else {"c": traced.c})
    finals = tuple(state.unsqueeze(1) if form == "unbatched" else state for state in as_states(traced.final))
    return {
        "output": time_first(output, 0),
        "last": traced.last.unsqueeze(0) if form == "unbatched" else traced.last,
        **{name: time_first(value, 2) for name, value in steps.items()},
        **{f"final {k}": final for k, final in enumerate(finals)},
    }


def _network(kind: Kind, **options: object) -> nn.Module:
    rnn = kind.build(elman, 3, 4, **options, learn_initial_state=True, dtype=torch.float64)
    with torch.no_grad():
        for name, p in rnn.named_parameters():
            nn.init.normal_(p, std=0.5 if "weight" in name else 1.0)
    return rnn


def _assert_is_unrolled(kind: Kind, rnn: nn.Module, batch: Batch, form: str = "padded") -> None:
    got, expected = _traced(rnn, batch, form), _unrolled(kind, rnn, batch)
    leaves = batch.leaves | dict(rnn.named_parameters())
    got, expected = pieces.values(got, leaves, unused=True), pieces.values({name: expected[name] for name in got}, leaves, unused=True)
    assert_same(got, expected, 1e-12)


@every_kind
@pytest.mark.parametrize(("num_layers", "bidirectional"), [(1, False), (3, False), (2, True)], ids=str)
@pytest.mark.parametrize("given_state", [False, True], ids=["no hx", "hx"])
def test_states_and_gates_are_those_of_the_equations(
    backend: Backend, kind: Kind, num_layers: int, bidirectional: bool, given_state: bool
) -> None:
    rnn = _network(kind, num_layers=num_layers, bidirectional=bidirectional)
    _assert_is_unrolled(kind, rnn, Batch.draw(kind, num_layers * (1 + bidirectional), None, None, given=given_state))


@pytest.mark.slow
@every_kind
@pytest.mark.parametrize(("lengths", "resets"), [(LENGTHS, None), (None, 0.4), (LENGTHS, 0.4), ([0, 0, 0, 0], 0.4)], ids=str)
@pytest.mark.parametrize("given_state", [False, True], ids=["no hx", "hx"])
def test_so_they_are_with_lengths_and_resets(
    backend: Backend, kind: Kind, lengths: list[int] | None, resets: float | None, given_state: bool
) -> None:
    rnn = _network(kind, num_layers=2, bidirectional=True)
    _assert_is_unrolled(kind, rnn, Batch.draw(kind, 4, lengths, resets, given=given_state))


@every_kind
@pytest.mark.parametrize("batch_first", [False, True], ids=["time first", "batch first"])
@pytest.mark.parametrize("form", ["padded", "packed", "unbatched"])
def test_so_they_are_in_every_form_of_the_call(backend: Backend, kind: Kind, form: str, batch_first: bool) -> None:
    rnn = _network(kind, num_layers=2, bidirectional=True, batch_first=batch_first)
    lengths = {"padded": [3, 0, 6, 4], "packed": [3, 1, 6, 4], "unbatched": [4]}[form]
    _assert_is_unrolled(kind, rnn, Batch.draw(kind, 4, lengths, 0.4, batch_size=len(lengths)), form)


@pytest.mark.slow
@every_kind
def test_each_part_can_be_differentiated_alone(backend: Backend, kind: Kind) -> None:
    rnn, batch = _network(kind, num_layers=2, bidirectional=True), Batch.draw(kind, 4, None, None)
    got, expected = _traced(rnn, batch), _unrolled(kind, rnn, batch)
    assert set(got) == set(expected)
    for name, value in got.items():
        for top in (slice(None), slice(0, 1)):  # all layers, and the lowest alone
            if value.dim() < 5 and top.stop:
                continue
            results = [pieces.values({name: part[top]}, batch.leaves, unused=True) for part in (value, expected[name])]
            assert_same(*results, 1e-12)


@every_kind
@pytest.mark.parametrize("options", [{}, {"batch_first": True, "bidirectional": True}, {"dropout": 0.5}], ids=str)
def test_output_and_final_are_what_a_call_returns(backend: Backend, kind: Kind, options: dict[str, object]) -> None:
    rnn, x = kind.build(elman, 3, 4, num_layers=3, **options, dtype=torch.float64), torch.randn(6, 6, 3, dtype=torch.float64)
    torch.manual_seed(0)
    output, hx = rnn(x)
    torch.manual_seed(0)
    traced = rnn.trace(x)
    torch.testing.assert_close(traced.output, output, rtol=0, atol=1e-12)
    torch.testing.assert_close(traced.final, hx, rtol=0, atol=1e-12)
    assert isinstance(traced.final, tuple) == isinstance(hx, tuple)


@every_kind
def test_the_output_may_be_written_into_before_the_gradient(backend: Backend, kind: Kind) -> None:
    rnn, x = kind.build(elman, 3, 4, dtype=torch.float64), torch.randn(6, 4, 3, dtype=torch.float64)

    def gradients(spoil: bool) -> tuple[Tensor, ...]:
        traced = rnn.trace(x)
        loss = traced.output.sum() + sum(gate.sum() for gate in traced.gates.values())
        if spoil:
            traced.output.detach().zero_()
        return torch.autograd.grad(loss, list(rnn.parameters()))

    torch.testing.assert_close(gradients(spoil=True), gradients(spoil=False), rtol=0, atol=1e-12)


@every_kind
def test_with_dropout_h_is_seen_before_anything_falls(backend: Backend, kind: Kind) -> None:
    rnn = kind.build(elman, 3, 4, num_layers=3, bidirectional=True, dropout=0.5, dtype=torch.float64)
    x = torch.randn(6, 4, 3, dtype=torch.float64)
    training, evaluation = rnn.train().trace(x), rnn.eval().trace(x)
    torch.testing.assert_close(training.h[0], evaluation.h[0], rtol=0, atol=1e-12)
    assert not torch.isclose(training.h[1], evaluation.h[1]).all()
    assert training.h.shape == evaluation.h.shape
    assert {name: gate.shape for name, gate in training.gates.items()} == {name: gate.shape for name, gate in evaluation.gates.items()}


def test_last_is_what_the_last_step_is_taken_for(backend: Backend) -> None:
    rnn, x = elman.GRU(3, 4, num_layers=2, bidirectional=True), torch.randn(6, 4, 3)
    traced = rnn.trace(x)
    assert torch.equal(traced.last[:, :4], traced.output[-1, :, :4])
    assert torch.equal(traced.last[:, 4:], traced.output[0, :, 4:])
    assert torch.equal(traced.last, torch.cat([traced.final[2], traced.final[3]], -1))


def test_the_parts_have_names(backend: Backend) -> None:
    for kind in (TANH, GRU, LSTM):
        traced = kind.build(elman, 3, 4).trace(torch.zeros(6, 4, 3))
        assert traced._fields == ("output", "final", "h", "c", "gates", "last", "states")
        assert tuple(traced.gates) == GATES[kind.cell]
        assert tuple(traced.states) == kind.states
        assert traced.states["h"] is traced.h
        assert traced.states.get("c") is traced.c
        assert all(gate.shape == (1, 1, 6, 4, 4) for gate in (*traced.gates.values(), traced.h))


def test_no_rows_have_no_states() -> None:
    traced = elman.LSTM(3, 4, num_layers=2, bidirectional=True).trace(torch.zeros(6, 0, 3))
    assert traced.h.shape == traced.c.shape == traced.gates["o"].shape == (2, 2, 6, 0, 4)
    assert traced.last.shape == (0, 8)


def test_a_trace_is_checked_as_a_call_is() -> None:
    rnn = elman.LSTM(3, 4)
    with pytest.raises(RuntimeError, match=r"expected input of 3 features \(input_size\), got 5"):
        rnn.trace(torch.zeros(6, 4, 5))
    with pytest.raises(TypeError, match=r"expected hx to be a tuple \(h_0, c_0\), got Tensor"):
        rnn.trace(torch.zeros(6, 4, 3), torch.zeros(1, 4, 4))
    with pytest.raises(RuntimeError, match=r"expected input of 3 features \(input_size\), got 5"):
        rnn.trace(pack_padded_sequence(torch.zeros(6, 2, 5), [6, 3]))
    with pytest.raises(TypeError, match="expected x to be a tensor or a PackedSequence, got list"):
        rnn.trace([1.0])


def test_a_trace_prints_its_shapes() -> None:
    x = torch.randn(5, 3, 10)
    text = repr(elman.GRU(10, 20).trace(x))
    assert text.startswith("Trace(output=(5, 3, 20), final=(1, 3, 20), h=(1, 1, 5, 3, 20), c=None, gates={'r': (1, 1, 5, 3, 20), ")
    assert "final=((1, 3, 20), (1, 3, 20)), " in repr(elman.LSTM(10, 20).trace(x))


def test_a_compiler_takes_a_trace_in_one_graph() -> None:
    """Also torch 2.8's, which does not know the id of a tensor."""
    rnn, x = elman.GRU(3, 4), torch.randn(5, 2, 3)
    torch.compiler.reset()
    found = torch.compile(lambda x: rnn.trace(x).gates, backend="eager", fullgraph=True)(x)
    torch.testing.assert_close(found, rnn.trace(x).gates)
