"""The number worked out by hand is the number that the library computed."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import pytest
import torch

from elman.show.by_hand import Which, work
from elman.show.network import layers_alone, study
from elman.show.spec import Spec

if TYPE_CHECKING:
    from elman.show.facts import Worked


def worked(spec: Spec, which: Which) -> Worked:
    found = study(spec, timed=False, which=which).worked
    assert found is not None
    return found


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_every_number_of_a_network(batch_first: bool, nonlinearity: str, bias: bool) -> None:
    spec = Spec("rnn", 2, 2, 2, nonlinearity, bias, batch_first, bidirectional=True, seq_len=2, batch=2, dtype="float64")
    torch.manual_seed(spec.seed)
    network, x = spec.build(torch.nn.RNN), spec.data()
    output, _ = network(x)
    whole, x = (output.transpose(0, 1), x.transpose(0, 1)) if batch_first else (output, x)
    alone = layers_alone(spec, network.state_dict(), x)
    for side, direction in enumerate(("forward", "reverse")):
        for layer, step, row, unit in itertools.product(range(2), repeat=4):
            found = work(spec, Which(step, unit, row, layer, direction), network.state_dict(), x, alone)
            assert found.difference <= 1e-14
            if layer == 1:
                assert found.by_hand == pytest.approx(whole[step, row, 2 * side + unit].item(), abs=1e-14)
                assert eval(found.value_code, {"output": output}).item() == pytest.approx(found.library, abs=1e-14)


def test_the_sums_are_those_of_the_products_and_the_value_is_their_tanh() -> None:
    found = worked(Spec("rnn", 10, 20), Which())
    (gate,) = found.gates
    assert gate.input_sum == pytest.approx(math.fsum(p.weight * p.value for p in gate.from_input), abs=1e-15)
    assert gate.state_sum == pytest.approx(math.fsum(p.weight * p.value for p in gate.from_state), abs=1e-15)
    assert gate.bias_ih is not None
    assert gate.bias_hh is not None
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
    found = worked(Spec("rnn", 3, 4, 2, bidirectional=True), Which(step=2, unit=1, row=2, layer=1, direction="reverse"))
    assert (found.weight_ih, found.weight_hh) == ("weight_ih_l1_reverse", "weight_hh_l1_reverse")
    assert (found.input_code, found.state_code) == ("output_l0[2, 2, :]", "output[3, 2, 4:8]")
    assert found.value_code == "output[2, 2, 5]"
    assert found.equations == ("h[t] = tanh(W_ih x[t] + b_ih + W_hh h[t+1] + b_hh)",)


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (Which(step=5), "step must be between 0 and 4, got 5"),
        (Which(step=-1), "step must be between 0 and 4, got -1"),
        (Which(unit=4), "unit must be between 0 and 3, got 4"),
        (Which(row=3), "row must be between 0 and 2, got 3"),
        (Which(layer=1), "layer must be between 0 and 0, got 1"),
        (Which(direction="reverse"), "no reverse direction"),
        (Which(direction="up"), "direction must be forward or reverse, got 'up'"),
    ],
)
def test_a_number_that_is_not_there_is_refused(which: Which, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        study(Spec("rnn", 3, 4), timed=False, which=which)
