"""Whole cells by their programs: values and gradients are those of torch's own operations and of autograd, in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

import program_text
from elman import Cell, Zoneout, zoo
from elman.cells import BY_NAME
from program_cells import CELLS, GRU2014, LSTM
from program_interpreter import ProgramStep
from program_steps import arguments, assert_same, by_program, by_torch, gradients, program

if TYPE_CHECKING:
    from collections.abc import Callable

EVERY = (*CELLS, *BY_NAME.values())


@pytest.mark.parametrize("cell", [*zoo.CELLS, lambda: Zoneout(LSTM(), h=0.1, c=0.3)], ids=lambda cell: cell.__name__)
def test_a_cell_of_the_zoo_by_its_program_is_the_cell(cell: Callable[[], Any]) -> None:
    own = cell()
    for traced in (False, True):
        given = arguments(own)
        expected, results = by_torch(own, given, traced), by_program(program(own, traced=traced), given)
        assert_same(results, expected)
        assert_same(gradients(results, given), gradients(expected, given))


@pytest.mark.parametrize("cell", EVERY, ids=lambda cell: cell.__name__)
@pytest.mark.parametrize("traced", [False, True], ids=["", "traced"])
@pytest.mark.parametrize("draws", [False, True], ids=["evaluation", "training"])
def test_a_cell_by_its_program_is_the_cell(cell: type[Any], traced: bool, draws: bool) -> None:
    own = cell()
    for seed in range(3):
        given = arguments(own, seed=seed, draws=draws)
        expected, made = by_torch(own, given, traced), program(own, draws, traced)
        assert_same(by_program(made, given, training=False), expected)
        results = by_program(made, given)
        assert_same(results, expected)
        assert_same(gradients(results, given), gradients(expected, given))


def test_a_long_chain_of_operations_is_no_deeper_than_a_short_one() -> None:
    class Deep(Cell):
        gates = ("f",)

        def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
            value = x.f + r.f
            for k in range(400):  # more operations than Python's calls may lie within each other
                value = torch.sin(value * 1.01 + k * 0.001)
            return value

    given = arguments(Deep())
    expected, results = by_torch(Deep(), given), by_program(program(Deep()), given)
    assert_same(results, expected)
    assert_same(gradients(results, given), gradients(expected, given))


@pytest.mark.parametrize(("cell", "by_hand"), [(LSTM, program_text.LSTM), (GRU2014, program_text.GRU2014)], ids=["LSTM", "GRU2014"])
def test_the_programs_written_by_hand_are_right(cell: type[Any], by_hand: Any) -> None:
    given = arguments(cell())
    expected = by_torch(cell(), given)
    results = by_program(by_hand, given)
    assert_same(results, expected)
    assert_same(by_program(by_hand, given, training=False), expected)
    assert_same(gradients(results, given), gradients(expected, given))


@pytest.mark.parametrize("cell", EVERY, ids=lambda cell: cell.__name__)
def test_inference_training_and_trace_are_the_same_bits(cell: type[Any]) -> None:
    given = arguments(cell())
    plain, traced = program(cell()), program(cell(), traced=True)
    first = by_program(plain, given)
    for other in (by_program(plain, given, training=False), by_program(traced, given), by_program(traced, given, training=False)):
        assert all(torch.equal(a, b) for a, b in zip(first, other[: len(first)], strict=True))


@pytest.mark.parametrize("cell", EVERY, ids=lambda cell: cell.__name__)
def test_a_program_prints_as_text_that_reads_as_the_program(cell: type[Any]) -> None:
    made = program(cell())
    for code in (made.forward, made.training, made.backward):
        again = program_text.read(str(code))
        assert str(again) == str(code)
        assert (again.temps, again.carries, again.stages) == (code.temps, code.carries, code.stages)


def test_a_wrong_gradient_is_seen() -> None:
    given = arguments(LSTM())
    wrong = program_text.read(program_text.LSTM_BACKWARD.replace("grad_state1 = mul(temp0, saved1)", "grad_state1 = mul(temp0, saved0)"))
    made = replace(program_text.LSTM, backward=wrong)
    with pytest.raises(AssertionError):
        assert_same(gradients(by_program(made, given), given), gradients(by_torch(LSTM(), given), given))


def test_the_interpreter_does_not_read_what_nobody_has_written() -> None:
    given = arguments(LSTM())
    wrong = program_text.read("new_state0 = copy(temp0)\nnew_state1 = copy(state1)")
    made = replace(program_text.LSTM, forward=wrong)
    with pytest.raises(KeyError):
        ProgramStep.apply(made, False, tuple(given.leaves), given.weight, given.bias, *given.leaves.values())


def test_the_lstm_keeps_its_gates_alone() -> None:
    made = program(LSTM())
    assert made.saved == 4
    assert {role.name for role, _ in made.reads} == {"STATE", "NEW_STATE"}
    assert len(made.training.instructions) == len(program_text.LSTM.training.instructions)
    assert len(made.backward.instructions) <= len(program_text.LSTM.backward.instructions)
