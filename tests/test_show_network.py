"""What the tour and explain tell of a network is true of it, and the checks they print would notice if it were not."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import elman
from elman._files import to_json
from elman.show.ends import End, trap, unrolled
from elman.show.network import Network
from elman.show.specification import Run, Spec, rounding

SPECS = {
    "one direction": Spec("rnn", 10, 20),
    "both directions": Spec("rnn", 10, 20, bidirectional=True),
    "two layers": Spec("rnn", 5, 10, num_layers=2, seq_len=4),
    "bidirectional, two layers": Spec("rnn", 4, 6, num_layers=2, bidirectional=True, seq_len=3, batch=2),
    "batch_first": Spec("rnn", 4, 6, num_layers=2, bidirectional=True, batch_first=True, seq_len=3, batch=2),
    "relu, no bias, float64": Spec("rnn", 4, 6, num_layers=3, nonlinearity="relu", bias=False, dtype="float64"),
    "dropout": Spec("rnn", 4, 6, num_layers=2, dropout=0.5),
    "one step": Spec("rnn", 4, 6, bidirectional=True, seq_len=1, batch=1),
    "one unit": Spec("rnn", 1, 1, num_layers=2, seq_len=2, batch=1),
    "gru": Spec("gru", 4, 6, num_layers=2, bidirectional=True, seq_len=3, batch=2),
    "gru, no bias, batch_first": Spec("gru", 4, 6, bias=False, batch_first=True),
    "lstm": Spec("lstm", 4, 6, num_layers=2, bidirectional=True, seq_len=3, batch=2),
    "lstm, no bias, float64": Spec("lstm", 4, 6, bias=False, dtype="float64"),
    "lstm, projected": Spec("lstm", 4, 6, num_layers=2, bidirectional=True, proj_size=3, batch_first=True),
    "lstm, projected, no bias": Spec("lstm", 4, 6, num_layers=2, bias=False, proj_size=1, seq_len=1),
    "bfloat16": Spec("rnn", 4, 6, num_layers=2, dtype="bfloat16"),
}
OWN = {
    "MGU": Spec("zoo.MGU", 4, 6, num_layers=2, bidirectional=True, batch_first=True, seq_len=3, batch=2),
    "states of other names, gates without an input": Spec("zoo.CoRNN", 4, 6, num_layers=2, dropout=0.5),
    "gates without a state": Spec("zoo.STAR", 4, 6, bidirectional=True, dtype="float64", bias=False),
    "no product with the state": Spec("zoo.SRU", 4, 6),
    "step inputs, three states, parameters of its own": Spec("zoo.PhasedLSTM", 4, 6, num_layers=2, seq_len=4),
}


def ends(spec: Spec, run: Run) -> list[End]:
    return [end for each in unrolled(spec, run) for end in each.ends]


def places(network: Network) -> list[End]:
    return [end for each in network.unrolled for end in each.ends]


@pytest.fixture(params=SPECS.values(), ids=SPECS.keys())
def spec(request: pytest.FixtureRequest) -> Spec:
    return request.param


def run_torch(spec: Spec) -> tuple[Any, ...]:
    """What torch.nn makes of the same seed: network, input, output, final states."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "LSTM with projections")
        torch.manual_seed(spec.seed)
        network = spec.build(getattr(torch.nn, spec.module))
        x = torch.randn(*spec.in_order(spec.seq_len, spec.batch), spec.input_size, dtype=getattr(torch, spec.dtype))
        output, finals = network(x)
        return network, x, output, *(finals if isinstance(finals, tuple) else (finals,))


def test_shapes_are_those_of_torch(spec: Spec) -> None:
    network, x, output, *finals = run_torch(spec)
    facts = Network(spec, timed=False)
    assert [tensor.shape for tensor in facts.tensors] == [x.shape, output.shape, *(state.shape for state in finals)]
    assert [(tensor.name, tensor.shape) for tensor in facts.parameters] == [(name, p.shape) for name, p in network.named_parameters()]
    for tensor in (*facts.tensors, *facts.parameters):
        assert tuple(axis.size for axis in tensor.axes) == tensor.shape


def test_the_values_are_the_networks(spec: Spec) -> None:
    network, *_ = run_torch(spec)
    assert [tensor.values for tensor in Network(spec, timed=False).parameters] == [p.tolist() for p in network.parameters()]


def test_every_row_of_the_weights_is_a_gates(spec: Spec) -> None:
    facts = Network(spec, timed=False)
    assert [gate.gate for gate in facts.gates] == list(spec.stack.cell.gates)
    rows = [row for gate in facts.gates for row in range(gate.start, gate.stop)]
    assert all(rows == list(range(tensor.shape[0])) for tensor in facts.parameters if not tensor.name.startswith("weight_hr"))


def test_costs_count_every_weight(spec: Spec) -> None:
    network, *_ = run_torch(spec)
    costs = Network(spec, timed=False).costs
    assert costs.parameters == sum(p.numel() for p in network.parameters())
    assert costs.bytes == sum(p.numel() * p.element_size() for p in network.parameters())
    assert costs.multiply_adds_per_step == sum(p.numel() for p in network.parameters() if p.dim() == 2)
    assert costs.multiply_adds_per_call == costs.multiply_adds_per_step * spec.seq_len * spec.batch


def test_agrees_with_torch(spec: Spec) -> None:
    agreement = Network(spec, timed=False).agreement
    bound = 100 * torch.finfo(getattr(torch, spec.dtype)).eps
    assert agreement.same_seed
    assert agreement.output <= bound
    assert agreement.state <= bound


def test_typing_the_code_gives_the_numbers_shown(spec: Spec) -> None:
    facts = Network(spec, timed=False)
    names: dict[str, Any] = {"elman": elman, "torch": torch}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        exec("\n".join(facts.code), names)
    h_n = names["h_n"]
    assert [place.numbers for place in places(facts)] == [tuple(row[0, :8].tolist()) for row in h_n]
    for place in places(facts):
        if place.where is not None:
            assert torch.equal(eval(place.where, names), eval(place.state, names))
        torch.testing.assert_close(eval(place.trace, names), eval(place.state, names), rtol=0, atol=rounding(h_n))
    if facts.trap is not None:
        wrong = eval(str(facts.trap.where), names)
        assert not torch.equal(wrong, eval(facts.trap.state, names))
        torch.testing.assert_close(eval(facts.trap.trace, names), wrong, rtol=0, atol=rounding(h_n))


def test_every_place_holds(spec: Spec) -> None:
    facts = Network(spec, timed=False)
    assert all(place.holds for place in places(facts))
    assert [place.where is None for place in places(facts)] == [place.layer < spec.num_layers - 1 for place in places(facts)]


def test_a_wrong_state_is_noticed(spec: Spec) -> None:
    run = Run(spec)
    right = run["h_n"]
    assert all(place.holds for place in ends(spec, run))
    for index in range(len(right)):
        for wrong in (right[index, -1, -1] + 1, torch.nan):
            run.names["h_n"] = right.clone()
            run.names["h_n"][index, -1, -1] = wrong
            assert [place.holds for place in ends(spec, run)] == [other != index for other in range(len(right))]


def test_an_output_in_the_wrong_order_is_noticed() -> None:
    spec = SPECS["both directions"]
    run = Run(spec)
    run.names["output"] = run["output"].flip(0)
    assert not any(place.holds for place in ends(spec, run))


def test_only_a_reverse_direction_of_several_steps_has_a_trap(spec: Spec) -> None:
    found = trap(spec, Run(spec))
    assert (found is not None) == (spec.bidirectional and spec.seq_len > 1)
    if found is not None:
        assert found.difference > 0
        assert not found.holds


def test_the_random_generator_is_left_as_it_was() -> None:
    before = torch.random.get_rng_state()
    Network(SPECS["one direction"], timed=False)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_race_leaves_the_threads_as_they_were_and_says_what_it_took() -> None:
    before = torch.get_num_threads()
    speed = Network(SPECS["one direction"]).speed
    assert torch.get_num_threads() == before
    assert speed is not None
    assert speed.threads == 1
    for times in (speed.elman, speed.torch):
        assert 0 < times.low <= times.median <= times.high
    assert speed.ratio > 0


def test_a_tensor_too_long_to_list_is_described() -> None:
    facts = Network(Spec("rnn", 300, 300, seq_len=2, batch=1), timed=False)
    assert [tensor.values is None for tensor in facts.parameters] == [True, True, False, False]


def test_the_facts_are_plain_data() -> None:
    network = json.loads(to_json(Network(SPECS["two layers"])))
    assert network["spec"]["num_layers"] == 2
    assert network["unrolled"][1]["ends"][0]["where"] == "output[-1]"


# --- Cells of one's own -----------------------------------------------------------------------------------------------


@pytest.fixture(params=OWN.values(), ids=OWN.keys())
def own(request: pytest.FixtureRequest) -> Spec:
    return request.param


def test_the_code_makes_the_network_that_is_told_of(own: Spec) -> None:
    facts = Network(own)
    names: dict[str, Any] = {"elman": elman, "torch": torch}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        exec("\n".join(facts.code), names)
    parameters = dict(names["net"].named_parameters())
    assert [(tensor.name, tensor.shape) for tensor in facts.parameters] == [(name, p.shape) for name, p in parameters.items()]
    assert [tensor.values for tensor in facts.parameters] == [p.tolist() for p in parameters.values()]
    assert [tensor.shape for tensor in facts.tensors] == [names[tensor.name].shape for tensor in facts.tensors]
    assert facts.costs.parameters == sum(p.numel() for p in parameters.values())
    assert (facts.agreement, facts.speed, facts.equations) == (None, None, ())


def test_the_code_of_a_cell_that_draws_evaluates_it() -> None:
    run = Run(spec := Spec(f"{Path(__file__).with_name('test_draws.py')}:Scaled", 4, 6))
    assert torch.equal(run["output"], run[f"{spec.name}({spec.arguments})[0]"])


def test_the_ends_of_its_layers_and_sequences_hold(own: Spec) -> None:
    assert all(end.holds for end in places(Network(own)))
    ragged = Network(replace(own, lengths=(own.seq_len, 0, 2)[: own.batch], reset=((None, 1),)))
    assert [len(each.segments) for each in ragged.unrolled] == [2, 0, 2][: own.batch]
    assert all(end.holds for end in places(ragged))


def test_its_axes_are_those_of_the_gates_that_read() -> None:
    axes = {
        name: [axis.symbol for axis in tensor.axes] for tensor in Network(OWN["gates without a state"]).parameters for name in [tensor.name]
    }
    assert axes == {
        f"weight_{kind}_l0{way}": letters for way in ("", "_reverse") for kind, letters in (("ih", ["G·H", "I"]), ("hh", ["H", "H"]))
    }
    tensors = Network(OWN["step inputs, three states, parameters of its own"]).tensors
    assert [tensor.name for tensor in tensors] == ["x", "dt", "output", "h_n", "c_n", "phase_n"]
    assert [axis.symbol for axis in tensors[1].axes] == ["T", "B"]


def test_a_number_cannot_be_worked_out_without_equations(own: Spec) -> None:
    with pytest.raises(ValueError, match=r"--numbers is for rnn, gru and lstm only, got .*; leave it out"):
        Network(own, which={})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "rrn"}, "unknown kind 'rrn'; did you mean 'rnn'?"),
        ({"kind": "transformer"}, "unknown kind 'transformer'; expected one of rnn, gru, lstm"),
        ({"kind": "gru", "nonlinearity": "relu"}, "expected no nonlinearity, got relu: only an RNN takes it"),
        ({"kind": "gru", "proj_size": 2}, "expected no proj_size, got 2: only an LSTM takes it"),
        ({"kind": "zoo.MGU", "proj_size": 2}, "expected no proj_size, got 2: only an LSTM takes it"),
        ({"kind": "zoo.NoSuchCell"}, "unknown cell 'zoo.NoSuchCell'"),
        ({"kind": "lstm", "proj_size": 6}, "proj_size to be below hidden_size, 6, got 6"),
        ({"kind": "lstm", "proj_size": -1}, "proj_size to be at least 0, got -1"),
        ({"nonlinearity": "tan"}, "nonlinearity to be one of 'tanh', 'relu', got 'tan'"),
        ({"hidden_size": 0}, "hidden_size to be at least 1, got 0"),
        ({"input_size": -1}, "input_size to be at least 1, got -1"),
        ({"num_layers": 0}, "num_layers to be at least 1, got 0"),
        ({"seq_len": 0}, "seq_len to be at least 1, got 0"),
        ({"batch": 0}, "batch to be at least 1, got 0"),
        ({"dropout": 1.5}, "dropout to be a probability, a number from 0 to 1, got 1.5"),
        ({"seed": 2**64}, "seed to fit into 64 bits"),
        ({"hidden_size": 10**6}, "at most 1.3e"),
    ],
)
def test_a_network_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        replace(Spec("rnn", 4, 6), **change)
