"""A step is tried when a network is built: what is wrong with it is said in one sentence with the cell, the line and the mend."""

from __future__ import annotations

import random
import re
import threading
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch

import elman
import own_cells
from elman.backends.program import followed, remembered
from elman.backends.program.stand_in import NotRecordedError
from elman.layers import try_step
from own_cells import cell

COUNTER = count()


def build(made: Any) -> None:
    elman.Recurrent(made, 3, 4)


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


def called_part(self, x, r, s, p):
    return s.h + r.n(s.c), s.c


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


def own_by_self(self, x, r, s, p):
    return s.h * self.tau, s.c


def asks_self_for_training(self, x, r, s, p):
    return torch.nn.functional.dropout(s.h, 0.5, self.training), s.c


def gate_for_state(self, x, r, s, p):
    return s.h * s.f, s.c


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
    no_such_gate: (AttributeError, {}, "to use x.f, x.n, got x.g", "declare 'g' in gates or step_inputs"),
    no_such_recurrent_gate: (AttributeError, {"recurrent_gates": ()}, "to use nothing of r, got r.f", "declare 'f' in recurrent_gates"),
    no_such_recurrent_row: (AttributeError, {}, "to use r.f, r.n, got r.m", "declare 'm' in gates"),
    no_such_state: (AttributeError, {}, "to use s.h, s.c, got s.m", "declare 'm' in states"),
    time_of_states: (AttributeError, {"step_inputs": {"dt": ""}}, "to use s.h, s.c, got s.dt", "write x.dt, as it is declared"),
    parameter_of_x: (AttributeError, {"parameters": {"tau": "H"}}, "to use x.f, x.n, got x.tau", "write p.tau, as it is declared"),
    no_such_parameter: (AttributeError, {}, "to use nothing of p, got p.tau", "declare 'tau' in parameters"),
    twice: (RuntimeError, {}, r"to use the recurrent rows of gate 'n' once, got r\('n', ...\) after r.n", "declare another gate"),
    twice_for_others: (RuntimeError, {}, "to use the recurrent rows of gate 'n' once", "declare another gate"),
    narrow_factor: (RuntimeError, {}, r"with v of shape \(2, 4\), \(B, H\), got shape \(2, 1\)", "a vector of H units"),
    called_part: (TypeError, {}, "to call r with a gate's name, got a call of a tensor", r"write r\('n', v\)"),
    in_place: (RuntimeError, {}, "not to change a tensor in place, got i?add", "use an operation that returns a new tensor"),
    in_place_by_method: (RuntimeError, {}, "not to change a tensor in place, got setitem", "use an operation that returns a new tensor"),
    counts: (
        RuntimeError,
        {},
        "not to change the cell or what it reads, got steps changed",
        "keep what lasts from step to step in a state",
    ),
    counts_elsewhere: (
        RuntimeError,
        {},
        "to depend on its arguments alone, got other numbers the second time",
        "declare random numbers in draws",
    ),
    draws_itself: (RuntimeError, {}, "to depend on its arguments alone, got random numbers drawn in it", "declare random numbers in draws"),
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
    own_by_self: (AttributeError, {"parameters": {"tau": "H"}}, "to use p.tau, as it is declared, got self.tau", r"write p\.tau"),
    asks_self_for_training: (AttributeError, {}, "to tell training by its draws, got self.training", "ask whether d is None"),
    gate_for_state: (AttributeError, {"states": ("h", "m")}, "to use s.h, s.m, got s.f", "write x.f, .*, or declare 'f' in states"),
    fails: (RuntimeError, {}, "to run on a trial batch of 2 sequences, got RuntimeError", "mat1 and mat2 shapes cannot be multiplied"),
    fails_otherwise: (RuntimeError, {}, "to run on a trial batch of 2 sequences, got KeyError", "'c'"),
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


def own_generator(self, x, r, s, p):
    return s.h + torch.rand(s.h.shape, generator=torch.Generator().manual_seed(0)), s.c


def drops(self, x, r, s, p):
    return torch.nn.functional.dropout(s.h, 0.5), s.c


@pytest.mark.parametrize("step", [draws_itself, own_generator, drops], ids=lambda step: step.__name__)
def test_the_line_of_a_draw_is_said(step: Any) -> None:
    with pytest.raises(RuntimeError, match=f"random numbers drawn in it .*:{step.__code__.co_firstlineno + 1}\\)"):
        build(cell(step))


def test_other_threads_may_draw_meanwhile() -> None:
    """Neither is a cell refused for it, nor do they draw the same numbers again."""
    done, drawn = threading.Event(), []

    def draw() -> None:
        while not done.is_set():
            drawn.append(torch.rand(4) + 0 * random.random())

    torch.manual_seed(0)
    thread = threading.Thread(target=draw)
    thread.start()
    try:
        for number in range(30):
            build(cell(lambda self, x, r, s, p, number=number: (s.h * number, s.c)))  # a step of its own each time
    finally:
        done.set()
        thread.join()
    assert len(torch.stack(drawn).unique(dim=0)) == len(drawn)


def test_a_wrong_step_is_said_of_the_cell_inside_a_wrapper() -> None:
    with pytest.raises(AttributeError, match=r"the step of Mine to use s\.h, s\.c, got s\.m"):
        build(elman.Zoneout(cell(no_such_state), h=0.1))


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


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The units of each step that is tried."""
    found: list[int] = []
    real = try_step._step
    monkeypatch.setattr(try_step, "_step", lambda cell, sizes, *rest: found.append(sizes[0]) or real(cell, sizes, *rest))
    return found


def test_a_step_is_tried_once_until_what_it_depends_on_changes(tried: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def times(made: elman.Cell, *sizes: int, **options: Any) -> int:
        tried.clear()
        elman.Recurrent(made, *sizes, **options)
        return len(tried)

    class Fresh(own_cells.Decay):
        pass

    assert times(Fresh(), 3, 4) == 4  # twice, of sequences that are alike, and of one
    assert times(Fresh(), 5, 4) == 0
    assert times(Fresh(), 3, 5) == 4
    assert times(Fresh(), 3, 4, dtype=torch.float64) == 4
    assert times(Fresh(0.2), 3, 4) == 4
    monkeypatch.setattr(Fresh, "step", too_few)
    for _ in range(2):  # what is wrong is said each time
        with pytest.raises(RuntimeError, match="expected the step of Fresh"):
            times(Fresh(), 3, 4)


def test_a_step_that_cannot_be_compared_is_tried_each_time(tried: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed, "frozen_cell", _refuse)
    for _ in range(2):
        elman.Recurrent(own_cells.Decay(), 3, 4)
    assert len(tried) == 8


def _refuse(cell: object) -> None:
    raise NotRecordedError("does not run this")


def test_no_more_cells_are_remembered_than_a_fixed_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "_MOST", 3)
    monkeypatch.setattr(try_step, "_passed", {})
    for units in range(1, 9):
        elman.Recurrent(own_cells.Decay(), 3, units)
    assert [units for _, (units, *_) in try_step._passed] == [6, 7, 8]


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
    return (s.h, s.c) if x.f.sum() > -1e9 and len(x.f) <= 2 else s.h


def test_what_goes_wrong_only_in_a_call_is_said_too() -> None:
    rnn = elman.Recurrent(cell(later), 3, 4)
    with pytest.raises(RuntimeError, match="expected the step of Mine to return 2 states, h, c, got 1"):
        rnn(torch.zeros(5, 3, 3))
