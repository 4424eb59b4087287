"""The number worked out by hand is the number that the library computed."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

import elman
from elman.show.hand_worked import HandWorked, equations
from elman.show.network import Network
from elman.show.specification import Run, Spec

EXACTLY = {"tanh": math.tanh, "sigmoid": lambda x: 1 / (1 + math.exp(-x)), "relu": lambda x: max(x, 0.0)}


def worked(spec: Spec, **which: Any) -> HandWorked:
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
            found = HandWorked(spec, run, step, unit, sequence, layer, direction)
            assert found.difference <= 1e-14
            assert eval(found.value_code, names).item() == pytest.approx(found.library, abs=1e-14)
            from_input, *from_state = found.lines[0].sums
            assert [product.value for product in from_input.products] == eval(found.input_code, names).tolist()
            assert (len(from_state) == 0) == (found.state_code is None)
            for each in from_state:
                assert [product.value for product in each.products] == pytest.approx(eval(str(found.state_code), names).tolist())


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_the_lines_are_the_equations_in_order_and_end_in_the_value(options: dict[str, Any]) -> None:
    spec = Spec(**{"input_size": 3, "hidden_size": 4, **options})
    found = worked(spec)
    assert tuple(line.equation for line in found.lines) == equations(spec)
    for line in found.lines:
        # Up to five numbers of four places each, none of which the functions and factors here make larger.
        assert eval(line.numbers, {}, EXACTLY) == pytest.approx(line.value, abs=5 * 5e-5)
    assert found.lines[-1].value == found.by_hand
    if spec.proj_size:
        (projection,) = found.lines[-1].sums
        assert found.lines[-2].value in [product.value for product in projection.products]
        assert found.by_hand == pytest.approx(math.fsum(product.product for product in projection.products), abs=1e-15)


def test_a_total_is_what_a_function_is_applied_to() -> None:
    totals = {line.equation[0]: line for line in worked(Spec("gru", 3, 4)).lines}
    assert totals["r"].value == pytest.approx(EXACTLY["sigmoid"](totals["r"].total), abs=1e-15)
    assert totals["n"].value == pytest.approx(math.tanh(totals["n"].total), abs=1e-15)
    assert totals["h"].total is None, "it is a sum of two products"


def test_a_unit_of_a_projected_network_is_one_that_it_puts_out() -> None:
    with pytest.raises(ValueError, match="unit must be between 0 and 1, got 2"):
        worked(Spec("lstm", 3, 4, proj_size=2), unit=2)


def test_the_sums_are_those_of_the_products_and_the_value_is_their_tanh() -> None:
    spec = Spec("rnn", 10, 20)
    found = worked(spec)
    (line,) = found.lines
    for each, term in zip(line.sums, ("W_ih x", "W_hh h"), strict=True):
        assert each.term == term
        assert each.value == pytest.approx(math.fsum(p.weight * p.value for p in each.products), abs=1e-15)
    biases = Run(spec).network.bias_ih_l0[0].item(), Run(spec).network.bias_hh_l0[0].item()
    assert line.total == pytest.approx(sum(each.value for each in line.sums) + sum(biases), abs=1e-15)
    assert found.by_hand == pytest.approx(math.tanh(line.total), abs=1e-15)
    assert 0 < found.difference < 1e-6
    assert found.library == torch.tensor(found.library).item(), "the library's value is a float32"


@pytest.mark.parametrize(
    ("direction", "seq_len", "step", "before"),
    [("forward", 5, 1, 0), ("reverse", 5, 3, 4), ("forward", 1, 0, None), ("reverse", 1, 0, None)],
)
def test_the_default_step_is_the_second_that_the_direction_takes(direction: str, seq_len: int, step: int, before: int | None) -> None:
    found = worked(Spec("rnn", 3, 4, bidirectional=True, seq_len=seq_len), direction=direction)
    assert (found.step, found.before) == (step, before)
    assert [each.term for each in found.lines[0].sums] == ["W_ih x", "W_hh h"][: 1 if before is None else 2]


def test_the_codes_name_what_is_read() -> None:
    found = worked(Spec("rnn", 3, 4, 2, bidirectional=True), step=2, unit=1, sequence=2, layer=1, direction="reverse")
    assert [each.source.split()[0] for each in found.lines[0].sums] == ["weight_ih_l1_reverse[1]", "weight_hh_l1_reverse[1]"]
    assert (found.input_code, found.state_code) == ("rnn.trace(x).h[0, :, 2, 2].flatten()", "output[3, 2, 4:]")
    assert found.value_code == "output[2, 2, 5]"
    assert found.lines[0].equation == "h[t] = tanh(W_ih x[t] + b_ih + W_hh h[t+1] + b_hh)"


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ({"step": 5}, "step must be between 0 and 4, got 5"),
        ({"step": -1}, "step must be between 0 and 4, got -1"),
        ({"unit": 4}, "unit must be between 0 and 3, got 4"),
        ({"sequence": 3}, "sequence must be between 0 and 2, got 3"),
        ({"layer": 1}, "layer must be between 0 and 0, got 1"),
        ({"direction": "reverse"}, "no reverse direction"),
    ],
)
def test_a_number_that_is_not_there_is_refused(which: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Network(Spec("rnn", 3, 4), timed=False, which=which)
