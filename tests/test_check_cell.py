"""What is wrong with a cell is said when a network is built of it: in one sentence with the cell, the line and the mend."""

from __future__ import annotations

import random
import re
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch

import elman
import own_cells

COUNTER = count()


def cell(step: Any, **declared: Any) -> elman.Cell:
    """A cell of a class ``Mine`` with this step."""
    return type("Mine", (elman.Cell,), {"gates": ("f", "n"), "states": ("h", "c"), **declared, "step": step})()


def build(made: Any) -> None:
    elman.Recurrent(made, 3, 4)


# --- The step ---------------------------------------------------------------------------------------------------------


def too_few(self, x, r, s, p):
    return s.h


def too_many(self, x, r, s, p):
    return s.h, s.c, s.c


def no_tensor(self, x, r, s, p):
    return s.h, 0.0


def nothing(self, x, r, s, p):
    s.h + x.f


def other_shape(self, x, r, s, p):
    return s.h, s.c[:, :2]


def one_row(self, x, r, s, p):
    return s.h, p.q + 1.0


def truths(self, x, r, s, p):
    return s.h > 0, s.c


def wider(self, x, r, s, p):
    return s.h, s.c * torch.ones(1, dtype=torch.float64)


def no_such_gate(self, x, r, s, p):
    return s.h + x.g, s.c


def no_such_recurrent_gate(self, x, r, s, p):
    return s.h + r.f, s.c


def no_such_recurrent_row(self, x, r, s, p):
    return s.h + r("m", s.h), s.c


def no_such_state(self, x, r, s, p):
    return s.h, s.m


def time_of_states(self, x, r, s, p):
    return s.h * s.dt, s.c


def parameter_of_x(self, x, r, s, p):
    return s.h * x.tau, s.c


def no_such_parameter(self, x, r, s, p):
    return s.h * p.tau, s.c


def twice(self, x, r, s, p):
    return s.h + r.n, s.c + r("n", s.h)


def twice_for_others(self, x, r, s, p):
    return s.h + r("n", s.c), s.c + r("n", s.h)


def narrow_factor(self, x, r, s, p):
    return s.h + r("n", s.c[:, :1]), s.c


def in_place(self, x, r, s, p):
    s.c += x.f
    return s.h, s.c


def in_place_by_method(self, x, r, s, p):
    c = s.c * 2
    c[0] = 0
    return s.h, c


def counts(self, x, r, s, p):
    self.steps = getattr(self, "steps", 0) + 1
    return s.h, s.c


def counts_elsewhere(self, x, r, s, p):
    return s.h + next(COUNTER), s.c


def draws_itself(self, x, r, s, p):
    return s.h + torch.rand_like(s.h), s.c


def draws_by_python(self, x, r, s, p):
    return s.h * random.random(), s.c


def undeclared_draw(self, x, r, s, p, d):
    return s.h + d.v, s.c


def draws_in_evaluation(self, x, r, s, p, d):
    return s.h + d.u, s.c


def leaves_torch(self, x, r, s, p):
    return s.h * np.tanh(x.f), s.c


def elsewhere(self, x, r, s, p):
    return s.h, s.c.to("meta")


def fails(self, x, r, s, p):
    return s.h @ s.c, s.c


def fails_otherwise(self, x, r, s, p):
    return s.h, {}["c"]


STEPS = {
    too_few: (RuntimeError, {}, "to return 2 states, h, c, got 1", "return a tensor for each name in states"),
    too_many: (RuntimeError, {}, "to return 2 states, h, c, got 3", "in their order"),
    no_tensor: (TypeError, {}, "to return tensors, its states h, c, got Tensor, float", "return the states after the step"),
    nothing: (TypeError, {}, "to return tensors, its states h, c, got NoneType", "return the states after the step"),
    other_shape: (RuntimeError, {}, r"to return c of shape \(2, 4\), \(B, H\), got \(2, 2\)", "one number for each sequence and unit"),
    one_row: (RuntimeError, {"parameters": {"q": "H"}}, r"to return c of shape \(2, 4\), \(B, H\), got \(4,\)", "keep one number"),
    truths: (RuntimeError, {}, "to return h of torch.float32, as it was before, got torch.bool", r"convert it with \.to\(s\.h\.dtype\)"),
    wider: (RuntimeError, {}, "to return c of torch.float32, as it was before, got torch.float64", r"convert it with \.to\(s\.c\.dtype\)"),
    no_such_gate: (AttributeError, {}, "to use x.f, x.n, got x.g", "declare 'g' in input_gates or step_inputs"),
    no_such_recurrent_gate: (AttributeError, {"recurrent_gates": ()}, "to use nothing of r, got r.f", "declare 'f' in recurrent_gates"),
    no_such_recurrent_row: (AttributeError, {}, "to use r.f, r.n, got r.m", "declare 'm' in recurrent_gates"),
    no_such_state: (AttributeError, {}, "to use s.h, s.c, got s.m", "declare 'm' in states"),
    time_of_states: (AttributeError, {"step_inputs": {"dt": ""}}, "to use s.h, s.c, got s.dt", "write x.dt, as it is declared"),
    parameter_of_x: (AttributeError, {"parameters": {"tau": "H"}}, "to use x.f, x.n, got x.tau", "write p.tau, as it is declared"),
    no_such_parameter: (AttributeError, {}, "to use nothing of p, got p.tau", "declare 'tau' in parameters"),
    twice: (RuntimeError, {}, r"to use the recurrent rows of gate 'n' once, got r\('n', ...\) after r.n", "declare another gate"),
    twice_for_others: (RuntimeError, {}, "to use the recurrent rows of gate 'n' once", "declare another gate"),
    narrow_factor: (RuntimeError, {}, r"with v of shape \(2, 4\), \(B, H\), got shape \(2, 1\)", "a vector of H units"),
    in_place: (RuntimeError, {}, "not to change a tensor in place, got i?add", "use an operation that returns a new tensor"),
    in_place_by_method: (RuntimeError, {}, "not to change a tensor in place, got setitem", "use an operation that returns a new tensor"),
    counts: (RuntimeError, {}, "not to change the cell, got steps changed", "keep what lasts from step to step in a state"),
    counts_elsewhere: (
        RuntimeError,
        {},
        "to depend on its arguments alone, got other numbers the second time",
        "declare random numbers in draws",
    ),
    draws_itself: (
        RuntimeError,
        {},
        "to depend on its arguments alone, got other numbers the second time",
        "declare random numbers in draws",
    ),
    draws_by_python: (RuntimeError, {}, "to depend on its arguments alone", "declare random numbers in draws"),
    undeclared_draw: (AttributeError, {"draws": {"u": "step"}}, "to use d.u, got d.v", "declare 'v' in draws"),
    draws_in_evaluation: (AttributeError, {"draws": {"u": "step"}}, "to run in evaluation, too, where d is None", "draw only if"),
    leaves_torch: (
        RuntimeError,
        {},
        "to use operations of torch, got one of NumPy",
        "write it with torch, whose operations have gradients",
    ),
    elsewhere: (RuntimeError, {}, "to return c on cpu, as it was before, got meta", r"make tensors on s\.c\.device"),
    fails: (RuntimeError, {}, "to run, got RuntimeError", "mat1 and mat2 shapes cannot be multiplied"),
    fails_otherwise: (RuntimeError, {}, "to run, got KeyError", "'c'"),
}


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_what_is_wrong_with_a_step_is_said_with_its_line(step: Any) -> None:
    error, declared, words, mend = STEPS[step]
    with pytest.raises(error, match=f"expected .*step of Mine .*{words}.*: .*{mend}") as raised:
        build(cell(step, **declared))
    said = str(raised.value)
    assert "\n" not in said
    place = re.search(r"\(at (.*):(\d+)\)", said)
    assert place is not None
    assert place[1] == __file__
    first = step.__code__.co_firstlineno
    lines = {line for _, _, line in step.__code__.co_lines()}
    assert int(place[2]) in lines | {first}


@pytest.mark.parametrize("step", [in_place, no_such_gate, fails], ids=lambda step: step.__name__)
def test_the_line_is_that_of_the_mistake(step: Any) -> None:
    with pytest.raises(Exception, match=f":{step.__code__.co_firstlineno + 1}\\)"):
        build(cell(step))


def test_a_gates_recurrent_part_may_be_read_again() -> None:
    build(cell(lambda self, x, r, s, p: (s.h + r.f * r.f, s.c)))


def test_a_step_that_is_tried_draws_no_numbers() -> None:
    torch.manual_seed(0)
    expected = torch.nn.GRU(3, 4).state_dict()
    torch.manual_seed(0)
    rnn = elman.Recurrent(own_cells.Gru(), 3, 4)
    assert all(torch.equal(value, expected[name]) for name, value in rnn.state_dict().items())
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError):
        build(cell(draws_itself))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_wrong_step_is_said_of_the_cell_inside_a_wrapper() -> None:
    with pytest.raises(AttributeError, match=r"the step of Mine to use s\.h, s\.c, got s\.m"):
        build(elman.Zoneout(cell(no_such_state), h=0.1))


def test_a_network_is_built_on_the_meta_device_and_in_inference_mode() -> None:
    assert elman.Recurrent(own_cells.Peephole(), 3, 4, device="meta").p_i_l0.is_meta
    with torch.device("meta"):
        assert elman.Recurrent(own_cells.Peephole(), 3, 4).p_i_l0.is_meta
    with torch.inference_mode():
        elman.Recurrent(own_cells.Peephole(), 3, 4)


def grouped(self, x, r, s, p):
    return s.h.unflatten(-1, (2, -1)).flip(-1).flatten(-2), s.c


def test_a_step_is_tried_with_as_many_units_as_the_network_has() -> None:
    build(cell(grouped))
    with pytest.raises(RuntimeError, match="expected the step of Mine to run"):
        elman.Recurrent(cell(grouped), 3, 5)
    with pytest.raises(ValueError, match="expected hidden_size to be at least 1, got 0"):
        elman.Recurrent(own_cells.Gru(), 3, 0)
    with pytest.raises(TypeError, match="expected hidden_size to be an int"):
        elman.Recurrent(own_cells.Gru(), 3, "4")


def test_a_step_is_tried_in_the_dtype_of_the_network() -> None:
    elman.Recurrent(cell(wider), 3, 4, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"got torch\.float64"):
        elman.Recurrent(cell(wider), 3, 4, dtype=torch.float32)
    rnn = elman.Recurrent(cell(wider), 3, 4, dtype=torch.float64).float()
    with pytest.raises(RuntimeError, match=r"to return c of torch\.float32, as it was before, got torch\.float64"):
        rnn(torch.zeros(5, 2, 3))


def changes_its_mind(self, x, r, s, p):
    if self.mode == "too few":
        return s.h
    if self.mode == "twice":
        return s.h + r.n + r("n", s.c), s.c
    return s.h, s.c + r.n


def test_a_step_that_goes_wrong_once_an_option_is_set_is_told_so_or_runs_as_it_stands() -> None:
    made = cell(changes_its_mind, mode="")
    rnn, x = elman.Recurrent(made, 3, 4), torch.zeros(5, 2, 3)
    rnn(x)
    made.mode = "too few"
    with pytest.raises(RuntimeError, match="expected the step of Mine to return 2 states, h, c, got 1"):
        rnn(x)
    made.mode = "twice"
    assert "reference: native does not run a step that uses the rows of gate 'n' twice" in elman.why(rnn, x)
    rnn(x)


def later(self, x, r, s, p):
    return (s.h, s.c) if x.f.sum() > -1e9 and len(x.f) == 2 else s.h


def test_what_goes_wrong_only_in_a_call_is_said_too() -> None:
    rnn = elman.Recurrent(cell(later), 3, 4)
    with pytest.raises(RuntimeError, match="expected the step of Mine to return 2 states, h, c, got 1"):
        rnn(torch.zeros(5, 3, 3))


# --- What is declared -------------------------------------------------------------------------------------------------


def fine(self, x, r, s, p):
    return s.h, s.c


DECLARED = {
    "a class": (
        lambda: own_cells.Peephole,
        TypeError,
        r"expected cell to be an elman.Cell, got the class Peephole: make one with Peephole\(\)",
    ),
    "no cell": (lambda: "lstm", TypeError, "expected cell to be an elman.Cell, got 'lstm': derive its class from elman.Cell"),
    "a string": (lambda: cell(fine, gates="fn"), TypeError, r"Mine.gates to be a tuple of names, got 'fn': write \('fn',\)"),
    "no states": (lambda: cell(fine, states=()), ValueError, "expected Mine to have a state, got none"),
    "twice": (lambda: cell(fine, gates=("f", "f")), ValueError, "expected Mine.gates to have each name once, got 'f' twice"),
    "no name": (lambda: cell(fine, states=("h", "c t")), ValueError, "expected Mine.states to have valid Python names, got 'c t'"),
    "private": (lambda: cell(fine, parameters={"_q": "H"}), ValueError, "expected Mine.parameters to have valid Python names, got '_q'"),
    "other gates": (lambda: cell(fine, input_gates=("f", "k")), ValueError, "Mine.input_gates to be among its gates, f, n, got 'k'"),
    "idle gate": (
        lambda: cell(fine, input_gates=("f",), recurrent_gates=()),
        ValueError,
        "expected gate 'n' of Mine to be in input_gates or recurrent_gates, got it in neither",
    ),
    "no dict": (lambda: cell(fine, parameters=("q",)), TypeError, r"expected Mine.parameters to be a dict, got \('q',\)"),
    "size": (lambda: cell(fine, parameters={"q": "2H"}), ValueError, "expected Mine.parameters to have 'H' or '' for 'q', got '2H'"),
    "a number": (lambda: cell(fine, parameters={"q": (4,)}), ValueError, r"expected Mine.parameters to have 'H' or '' for 'q', got \(4,\)"),
    "a matrix": (
        lambda: cell(fine, parameters={"q": ("H", "H")}),
        ValueError,
        r"got \('H', 'H'\): for a matrix, name 'q' in recurrent_gates and write r\('q', v\)",
    ),
    "draws": (lambda: cell(fine, draws={"u": "H"}), ValueError, "expected Mine.draws to have 'step' or 'sequence' for 'u', got 'H'"),
    "a weight": (lambda: cell(fine, parameters={"weight_ih": ""}), ValueError, "other names in Mine.parameters, got 'weight_ih'"),
    "an argument": (lambda: cell(fine, step_inputs={"lengths": ""}), ValueError, "other names in Mine.step_inputs, got 'lengths'"),
    "a chunk": (lambda: cell(fine, step_inputs={"chunk": ""}), ValueError, "other names in Mine.step_inputs, got 'chunk'"),
    "an input gate twice": (lambda: cell(fine, input_gates=("f", "n", "f")), ValueError, "Mine.input_gates to have each name once"),
    "a gate": (lambda: cell(fine, step_inputs={"f": ""}), ValueError, "other names in Mine.step_inputs, got 'f'"),
    "kernels": (lambda: cell(fine, name="lstm"), ValueError, "expected Mine without an attribute name, which cells with kernels have"),
    "nothing": (lambda: cell(fine, gates=()), ValueError, "expected Mine to have a parameter, got none"),
    "no step": (
        lambda: type("Mine", (elman.Cell,), {"gates": ("f",)})(),
        TypeError,
        "expected Mine to have a method step, got none: write def step",
    ),
}


@pytest.mark.parametrize(("make", "error", "words"), DECLARED.values(), ids=DECLARED)
def test_what_is_wrong_with_a_declaration_is_said(make: Any, error: type[Exception], words: str) -> None:
    for module in (elman.Recurrent, elman.RecurrentCell):
        with pytest.raises(error, match=words):
            module(make(), 3, 4)


def test_a_cells_parameter_must_not_be_a_modules_attribute() -> None:
    with pytest.raises(ValueError, match=r"expected other names in Mine\.parameters, got 'bias', which is already in use"):
        elman.RecurrentCell(cell(fine, parameters={"bias": "H"}), 3, 4)


# --- Parameters and step inputs ---------------------------------------------------------------------------------------


def test_a_parameter_of_the_wrong_shape_is_named() -> None:
    rnn = elman.Recurrent(own_cells.Peephole(), 3, 4)
    rnn.p_f_l0 = torch.nn.Parameter(torch.zeros(5))
    with pytest.raises(RuntimeError, match=r"expected p_f_l0 of shape \(4,\), got \(5,\)"):
        rnn(torch.zeros(5, 2, 3))
    rnn = elman.Recurrent(own_cells.Decay(), 3, 4)
    with pytest.raises(RuntimeError, match="size mismatch for rate_l0"):
        rnn.load_state_dict({**rnn.state_dict(), "rate_l0": torch.zeros(3)})


DT, MASK = torch.zeros(5, 2), torch.zeros(5, 2, 4)
BESIDE = {
    "missing": ({"dt": DT}, TypeError, "expected mask, which Decay needs at every step, got none: pass it by name, mask=..."),
    "unknown": ({"dt": DT, "mask": MASK, "to": DT}, TypeError, "expected no argument to, got one: the cell is Decay, whose .* dt, mask"),
    "kind": ({"dt": 1.0, "mask": MASK}, TypeError, "expected dt to be a tensor, got float"),
    "shape": ({"dt": DT.t(), "mask": MASK}, RuntimeError, r"expected dt of shape \(5, 2\), \(T, B\), got \(2, 5\)"),
    "units": ({"dt": DT, "mask": DT}, RuntimeError, r"expected mask of shape \(5, 2, 4\), \(T, B, H\), got \(5, 2\)"),
    "dtype": (
        {"dt": DT.long(), "mask": MASK},
        RuntimeError,
        r"expected dt of torch.float32, the dtype of x, got torch.int64: convert it with",
    ),
}


@pytest.mark.parametrize(("beside", "error", "words"), BESIDE.values(), ids=BESIDE)
def test_what_is_wrong_with_step_inputs_is_said(beside: dict[str, Any], error: type[Exception], words: str) -> None:
    rnn, x = elman.Recurrent(own_cells.Decay(), 3, 4), torch.zeros(5, 2, 3)
    for call in (rnn, rnn.trace, lambda x, **given: elman.why(rnn, x, **given)):
        with pytest.raises(error, match=words):
            call(x, **beside)


def test_a_network_without_step_inputs_takes_none() -> None:
    with pytest.raises(TypeError, match="expected no argument dt, got one: the cell is Peephole, which has no step inputs"):
        elman.Recurrent(own_cells.Peephole(), 3, 4)(torch.zeros(5, 2, 3), dt=DT)
    with pytest.raises(TypeError, match="expected no argument dt"):
        elman.LSTM(3, 4).trace(torch.zeros(5, 2, 3), dt=DT)


def test_a_packed_sequence_with_lengths_is_refused() -> None:
    packed = torch.nn.utils.rnn.pack_sequence([torch.zeros(3, 3)])
    with pytest.raises(ValueError, match="expected no lengths with a PackedSequence"):
        elman.Recurrent(own_cells.Peephole(), 3, 4)(packed, lengths=[3])
