"""From a graph to instructions: stages, what is carried over a product, fused products, few places."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import own_cells
import program_cells
from elman.backends.program.graph import Expression, Graph
from elman.backends.program.order import most_waiting, ordered
from elman.backends.program.program import NOTHING, Code, Opcode, Role
from elman.backends.program.schedule import code, fuse
from program_cells import CELLS, GRU2014, LSTM, TwoProducts
from program_runs import Call, Options, assert_is_the_references
from program_steps import program

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    import elman

# What is kept of a step beside its states, and how many values wait at most, forward and backward: more of either is slower.
KEPT_AND_WAITING = {
    "LSTM": (4, 3, 3),
    "GRU": (4, 3, 3),
    "GRU2014": (3, 3, 2),
    "PeepholeLSTM": (4, 3, 3),
    "LayerNormLSTM": (10, 4, 6),  # six of them one number of each row
    "SLSTM": (5, 4, 6),
    "LiGRU": (6, 4, 2),  # two of them
    "CfC": (4, 3, 2),
    "MinGRU": (2, 2, 2),
}


@pytest.fixture
def graph() -> Graph:
    return Graph(is_settled=True)


@pytest.fixture
def inputs(graph: Graph) -> list[Expression]:
    return [graph.leaf((Role.INPUT, index)) for index in range(4)]


def text(graph: Graph, *results: Expression) -> str:
    """The code that writes the results as states."""
    places = [each.place for each in results]
    fuse(graph, places, sorted(graph.below(places)))
    return str(code(graph, [[(place, (Role.NEW_STATE, index)) for index, place in enumerate(places)]], {}))


@pytest.mark.parametrize("name", KEPT_AND_WAITING)
def test_little_is_kept_and_little_waits(name: str) -> None:
    made = program(getattr(program_cells, name)())
    assert (made.saved, made.forward.temps, made.backward.temps) == KEPT_AND_WAITING[name]


def test_a_product_that_is_added_once_is_fused(graph: Graph, inputs: list[Expression]) -> None:
    a, b, c, _ = inputs
    assert text(graph, a * b + c) == "new_state0 = fma(input0, input1, input2)"
    assert text(graph, c - a * b) == "new_state0 = fnma(input0, input1, input2)"
    assert text(graph, c - a * a) == "new_state0 = fnma(input0, input0, input2)"
    assert text(graph, a * b - c) == "temp0 = mul(input0, input1)\nnew_state0 = sub(temp0, input2)"


def test_a_product_or_a_sum_that_is_added_up_over_the_units_is_fused(graph: Graph, inputs: list[Expression]) -> None:
    a, b, c, _ = inputs
    assert text(graph, (a * b + c).op(Opcode.ROW_SUM)) == "new_state0 = row_sum_fma(input0, input1, input2)"
    assert text(graph, (a * b).op(Opcode.ROW_MEAN)) == "new_state0 = row_mean_fma(input0, input1, -0.0)"
    assert text(graph, (a + b).op(Opcode.ROW_SUM)) == "new_state0 = row_sum_fma(input0, 1.0, input1)"
    assert text(graph, (a - b).op(Opcode.ROW_MEAN)) == "new_state0 = row_mean_fma(input1, -1.0, input0)"
    assert text(graph, (a / b).op(Opcode.ROW_SUM)).endswith("row_sum(temp0)")
    assert text(graph, (a * b).op(Opcode.ROW_SUM), a * b).startswith("new_state1 = mul(input0, input1)")


def test_a_product_that_something_else_uses_is_not_fused(graph: Graph, inputs: list[Expression]) -> None:
    a, b, c, _ = inputs
    assert text(graph, a * b + c, a * b) == "new_state1 = mul(input0, input1)\nnew_state0 = add(input2, new_state1)"
    twice = a * b
    assert text(graph, (twice + c) * (twice + b)).count("fma") == 0


def test_places_are_used_again(graph: Graph, inputs: list[Expression]) -> None:
    a, b, c, d = inputs
    assert text(graph, ((a + b).op(Opcode.TANH) * c).op(Opcode.SIN) / d).splitlines() == [
        "temp0 = add(input0, input1)",
        "temp0 = tanh(temp0)",
        "temp0 = mul(input2, temp0)",
        "temp0 = sin(temp0)",
        "new_state0 = div(temp0, input3)",
    ]


def test_what_needs_more_places_comes_first(graph: Graph, inputs: list[Expression]) -> None:
    a, b, c, d = inputs
    wide = ((a + b) * (c + d)) / ((a + c) * (b + d))
    order = ordered(graph, [((a + 1.0) / wide).place], there={each.place for each in inputs} | {graph.number(1.0).place})
    assert most_waiting(graph, order) == 3
    assert graph.nodes[order[-2]].operands[0] == a.place or graph.nodes[order[-2]].operands[1] == a.place


def test_a_leaf_and_a_number_are_copied(graph: Graph, inputs: list[Expression]) -> None:
    assert text(graph, inputs[0], graph.number(-0.0)) == "new_state0 = copy(input0)\nnew_state1 = copy(-0.0)"


def test_zero_and_minus_zero_are_two_numbers(graph: Graph) -> None:
    assert text(graph, graph.number(0.0), graph.number(-0.0)) == "new_state0 = copy(0.0)\nnew_state1 = copy(-0.0)"


def test_a_cheap_value_is_computed_again_after_a_product_and_a_dear_one_carried() -> None:
    backward = str(program(GRU2014()).backward)
    assert backward.count("mul(saved1, grad_new_state0)") == 2
    forward = str(program(TwoProducts()).forward).split("---")
    assert "carry" in forward[0]
    assert program(TwoProducts()).forward.carries == 2


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__)
@pytest.mark.parametrize("traced", [False, True], ids=["", "traced"])
def test_a_program_is_well_formed(cell: type[Any], traced: bool) -> None:
    made = program(cell(), traced=traced)
    for each in (made.forward, made.training, made.backward):
        _check(each)
    assert {index for role, index in made.training.operands if role is Role.SAVED} == set(range(made.saved))
    assert all(role is not Role.SAVED for role, _ in made.forward.operands)
    gates = [gate for product in made.products for gate in product]
    assert len(set(gates)) == len(gates)
    assert len(made.forward.stages) == len(made.backward.stages) == len(made.products)


def _check(made: Code) -> None:
    assert len(set(made.operands)) == len(made.operands)
    used = {operand for each in made.instructions for operand in each[1:]} - {NOTHING}
    assert used == set(range(len(made.operands)))
    assert len({number.hex() for number in made.constants}) == len(made.constants)
    ends = [0, *(end for _, end in made.stages)]
    assert [first for first, _ in made.stages] == ends[:-1]
    assert ends[-1] == len(made.instructions)
    for opcode, to, *reads in made.instructions:
        assert made.operands[to][0] is not Role.CONSTANT
        count = sum(each != NOTHING for each in reads)
        assert all(each == NOTHING for each in reads[count:])
        if Opcode(opcode) is Opcode.POW:
            assert made.operands[reads[1]][0] is Role.CONSTANT


@pytest.mark.parametrize("mode", [lambda: torch.device("meta"), FakeTensorMode, torch.inference_mode], ids=["meta", "fake", "inference"])
def test_recording_asks_nothing_of_what_is_active(mode: Any) -> None:
    class Folding(LSTM):
        def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
            h, c = super().step(x, r, s, p)
            return h * (torch.ones_like(h) * math.pi - 1), c

    outside = program(Folding())
    with mode():
        assert program(Folding()) == outside


@pytest.mark.parametrize("scales", list(itertools.product((1.0, 0.1), repeat=3)), ids=str)
@pytest.mark.parametrize("out", [torch.tanh, lambda u: u, lambda u: u.clamp(-1.5, 2.0)], ids=["tanh", "itself", "clamp"])
def test_what_is_carried_past_a_stage_is_there_behind_it(out: Callable[[Tensor], Tensor], scales: tuple[float, ...]) -> None:
    """Of two products the gradient has values that each of three stages reads: the second one, too, takes them from where they are kept."""

    def step(self: elman.Cell, x: Any, r: Any, s: Any, p: Any) -> Tensor:
        u = r("c", 2 * s.h)
        return out(u + scales[0] * torch.tanh(x.a) + scales[1] * torch.tanh(u) + scales[2] * torch.tanh(r("a", x.a)))

    cell = own_cells.cell(step, gates=("a", "c"), states=("h",))
    assert_is_the_references(Call.of(cell, Options(steps=4, batch=2, inputs=3, hidden=4, layers=1)), rtol=1e-10, atol=1e-12)
