"""The number worked out by hand is the number that the library computed."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

import elman
from elman.show.hand_worked import HandWorked, Which
from elman.show.network import Network
from elman.show.specification import Run, Spec

EXACTLY = {"tanh": math.tanh, "sigmoid": lambda x: 1 / (1 + math.exp(-x)), "relu": lambda x: max(x, 0.0)}


def worked(spec: Spec, which: Which) -> HandWorked:
    found = Network(spec, timed=False, which=which).worked
    assert found is not None
    return found


KINDS = {
    "tanh": {"kind": "rnn"},
    "relu": {"kind": "rnn", "nonlinearity": "relu"},
    "gru": {"kind": "gru"},
    "lstm": {"kind": "lstm"},
    "projected": {"kind": "lstm", "hidden_size": 5, "proj_size": 2},
}


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_every_number_of_a_network(batch_first: bool, options: dict[str, Any], bias: bool) -> None:
    sizes = {"input_size": 2, "hidden_size": 2, "num_layers": 2, "seq_len": 2, "batch": 2, **options}
    spec = Spec(**sizes, bias=bias, batch_first=batch_first, bidirectional=True, dtype="float64")
    run = Run(spec)
    names: dict[str, Any] = {"elman": elman, "torch": torch}
    exec("\n".join(spec.code), names)
    theirs = spec.build(getattr(torch.nn, spec.module))
    theirs.load_state_dict(run.network.state_dict())
    torch.testing.assert_close(names["output"], theirs(run["x"])[0], rtol=0, atol=1e-14)
    for direction in ("forward", "reverse"):
        for layer, step, sequence, unit in itertools.product(range(2), repeat=4):
            found = HandWorked(spec, Which(step, unit, sequence, layer, direction), run)
            assert found.difference <= 1e-14
            assert eval(found.value_code, names).item() == pytest.approx(found.library, abs=1e-14)
            assert [product.value for product in found.gates[0].from_input] == eval(found.input_code, names).tolist()
            if found.state_code is not None:
                assert [product.value for product in found.gates[0].from_state] == pytest.approx(eval(found.state_code, names).tolist())


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_the_lines_are_the_equations_in_order_and_end_in_the_value(options: dict[str, Any]) -> None:
    found = worked(Spec(**{"input_size": 3, "hidden_size": 4, **options}), Which())
    for line, equation in zip(found.lines, found.equations, strict=True):
        assert line.equation in equation
        # Up to five numbers of four places each, none of which the functions and factors here make larger.
        assert eval(line.numbers, {}, EXACTLY) == pytest.approx(line.value, abs=5 * 5e-5)
    value = found.lines[-1].value
    if found.projection is not None:
        assert value in [product.value for product in found.projection]
        value = math.fsum(product.product for product in found.projection)
    assert value == pytest.approx(found.by_hand, abs=1e-15)


def test_the_grus_candidate_is_not_simply_added_up() -> None:
    gates = {gate.gate: gate for gate in worked(Spec("gru", 3, 4), Which()).gates}
    assert [name for name, gate in gates.items() if gate.total is None] == ["n"]


def test_a_unit_of_a_projected_network_is_one_that_it_puts_out() -> None:
    with pytest.raises(ValueError, match="unit must be between 0 and 1, got 2"):
        worked(Spec("lstm", 3, 4, proj_size=2), Which(unit=2))


def test_the_sums_are_those_of_the_products_and_the_value_is_their_tanh() -> None:
    found = worked(Spec("rnn", 10, 20), Which())
    (gate,) = found.gates
    assert gate.input_sum == pytest.approx(math.fsum(p.weight * p.value for p in gate.from_input), abs=1e-15)
    assert gate.state_sum == pytest.approx(math.fsum(p.weight * p.value for p in gate.from_state), abs=1e-15)
    assert gate.bias_ih is not None
    assert gate.bias_hh is not None
    assert gate.total is not None
    assert gate.total == pytest.approx(gate.input_sum + gate.bias_ih + gate.state_sum + gate.bias_hh, abs=1e-15)
    assert found.by_hand == pytest.approx(math.tanh(gate.total), abs=1e-15)
    assert 0 < found.difference < 1e-6
    assert found.library == torch.tensor(found.library).item(), "the library's value is a float32"


@pytest.mark.parametrize(
    ("direction", "seq_len", "step", "before"),
    [("forward", 5, 1, 0), ("reverse", 5, 3, 4), ("forward", 1, 0, None), ("reverse", 1, 0, None)],
)
def test_the_default_step_is_the_second_that_the_direction_takes(direction: str, seq_len: int, step: int, before: int | None) -> None:
    found = worked(Spec("rnn", 3, 4, bidirectional=True, seq_len=seq_len), Which(direction=direction))
    assert (found.step, found.before) == (step, before)
    assert any(product.value for product in found.gates[0].from_state) == (before is not None)


def test_the_codes_name_what_is_read() -> None:
    found = worked(Spec("rnn", 3, 4, 2, bidirectional=True), Which(step=2, unit=1, sequence=2, layer=1, direction="reverse"))
    assert (found.weight_ih, found.weight_hh) == ("weight_ih_l1_reverse", "weight_hh_l1_reverse")
    assert (found.input_code, found.state_code) == ("rnn.trace(x).h[0, :, 2, 2].flatten()", "output[3, 2, 4:]")
    assert found.value_code == "output[2, 2, 5]"
    assert found.equations == ("h[t] = tanh(W_ih x[t] + b_ih + W_hh h[t+1] + b_hh)",)


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (Which(step=5), "step must be between 0 and 4, got 5"),
        (Which(step=-1), "step must be between 0 and 4, got -1"),
        (Which(unit=4), "unit must be between 0 and 3, got 4"),
        (Which(sequence=3), "sequence must be between 0 and 2, got 3"),
        (Which(layer=1), "layer must be between 0 and 0, got 1"),
        (Which(direction="reverse"), "no reverse direction"),
        (Which(direction="up"), "direction must be forward or reverse, got 'up'"),
    ],
)
def test_a_number_that_is_not_there_is_refused(which: Which, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Network(Spec("rnn", 3, 4), timed=False, which=which)
