"""The graph shares and simplifies, and what it simplifies stays exact."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from elman.backends.program.arithmetic import COMPUTE
from elman.backends.program.cut import kept
from elman.backends.program.graph import Expression, Graph
from elman.backends.program.program import Opcode, Role

if TYPE_CHECKING:
    from collections.abc import Callable

NUMBERS = (-math.inf, -2.0, -1.0, -0.5, -0.0, 0.0, 5e-324, 0.3, 1.0, 2.0, 4.0, 1e308, math.inf, math.nan)


@pytest.fixture
def graph() -> Graph:
    return Graph(is_settled=True)


@pytest.fixture
def a(graph: Graph) -> Expression:
    return graph.leaf((Role.INPUT, 0))


@pytest.fixture
def b(graph: Graph) -> Expression:
    return graph.leaf((Role.INPUT, 1))


def value(expression: Expression, *leaves: Tensor) -> Tensor:
    """What the expression is, of the inputs' numbers."""
    node = expression.node
    if node.leaf is not None:
        return leaves[node.leaf[1]]
    if node.value is not None:
        return torch.full_like(leaves[0], node.value)
    assert node.opcode is not None
    return COMPUTE[node.opcode](*(value(Expression(expression.graph, each), *leaves) for each in node.operands))


def test_what_is_the_same_is_there_once(graph: Graph, a: Expression, b: Expression) -> None:
    assert a * b == b * a
    assert a + b == b + a
    assert a - b != b - a
    assert a.op(Opcode.TANH) == a.op(Opcode.TANH)
    assert graph.number(0.0) != graph.number(-0.0)
    assert graph.number(math.nan) == graph.number(math.nan)


SIMPLER: dict[str, tuple[Callable[[Expression, Expression], Expression], Callable[[Expression, Expression], Expression]]] = {
    "1 a": (lambda a, b: a * 1.0, lambda a, b: a),
    "-1 a": (lambda a, b: a * -1.0, lambda a, b: -a),
    "--a": (lambda a, b: (-a).op(Opcode.NEG), lambda a, b: a),
    "a - 0": (lambda a, b: a - 0.0, lambda a, b: a),
    "a + -0": (lambda a, b: a + -0.0, lambda a, b: a),
    "a - -b": (lambda a, b: a - -b, lambda a, b: a + b),
    "a + -b": (lambda a, b: a + -b, lambda a, b: a - b),
    "-a + b": (lambda a, b: -a + b, lambda a, b: b - a),
    "-a b": (lambda a, b: -a * b, lambda a, b: -(a * b)),
    "-(3 a)": (lambda a, b: -(a * 3.0), lambda a, b: a * -3.0),
    "a a": (lambda a, b: a * a, lambda a, b: a.op(Opcode.SQUARE)),
    "-a -a": (lambda a, b: (-a).op(Opcode.SQUARE), lambda a, b: a.op(Opcode.SQUARE)),
    "a / 4": (lambda a, b: a / 4.0, lambda a, b: a * 0.25),
    "1 / a": (lambda a, b: a.graph.number(1.0) / a, lambda a, b: a.op(Opcode.RECIPROCAL)),
    "a ** 0": (lambda a, b: a.op(Opcode.POW, 0.0), lambda a, b: a.graph.number(1.0)),
    "a ** 1": (lambda a, b: a.op(Opcode.POW, 1.0), lambda a, b: a),
    "a ** 2": (lambda a, b: a.op(Opcode.POW, 2.0), lambda a, b: a.op(Opcode.SQUARE)),
    "a ** -1": (lambda a, b: a.op(Opcode.POW, -1.0), lambda a, b: a.op(Opcode.RECIPROCAL)),
    "a ** 0.5": (lambda a, b: a.op(Opcode.POW, 0.5), lambda a, b: a.op(Opcode.SQRT)),
    "a ** -0.5": (lambda a, b: a.op(Opcode.POW, -0.5), lambda a, b: a.op(Opcode.RSQRT)),
    "a ** 3": (lambda a, b: a.op(Opcode.POW, 3.0), lambda a, b: a * a * a),
    "a ** 4": (lambda a, b: a.op(Opcode.POW, 4.0), lambda a, b: a * a * (a * a)),
    "a ** -3": (lambda a, b: a.op(Opcode.POW, -3.0), lambda a, b: (a * a * a).op(Opcode.RECIPROCAL)),
    "|-a|": (lambda a, b: (-a).op(Opcode.ABS), lambda a, b: a.op(Opcode.ABS)),
    "||a||": (lambda a, b: a.op(Opcode.ABS).op(Opcode.ABS), lambda a, b: a.op(Opcode.ABS)),
    "cos -a": (lambda a, b: (-a).op(Opcode.COS), lambda a, b: a.op(Opcode.COS)),
    "max(a, a)": (lambda a, b: a.op(Opcode.MAX, a), lambda a, b: a),
    "a or a": (lambda a, b: b.op(Opcode.WHERE, a, a), lambda a, b: a),
    "2 + 3": (lambda a, b: a.graph.number(2.0) + 3.0, lambda a, b: a.graph.number(5.0)),
    "if 1": (lambda a, b: a.graph.number(1.0).op(Opcode.WHERE, a, b), lambda a, b: a),
    "if 0": (lambda a, b: a.graph.number(0.0).op(Opcode.WHERE, a, b), lambda a, b: b),
    "mean a + mean b": (lambda a, b: a.op(Opcode.ROW_MEAN) + b.op(Opcode.ROW_MEAN), lambda a, b: (a + b).op(Opcode.ROW_MEAN)),
    "sum a - sum b": (lambda a, b: a.op(Opcode.ROW_SUM) - b.op(Opcode.ROW_SUM), lambda a, b: (a - b).op(Opcode.ROW_SUM)),
    "mean of a number of each row": (
        lambda a, b: (a.op(Opcode.ROW_SUM) * 2.0 + 1.0).op(Opcode.ROW_MEAN),
        lambda a, b: a.op(Opcode.ROW_SUM) * 2.0 + 1.0,
    ),
    "mean of a mean": (lambda a, b: a.op(Opcode.ROW_MEAN).op(Opcode.ROW_MEAN), lambda a, b: a.op(Opcode.ROW_MEAN)),
}


@pytest.mark.parametrize("name", SIMPLER)
def test_what_can_be_simpler_is(name: str, a: Expression, b: Expression) -> None:
    complicated, simple = SIMPLER[name]
    assert complicated(a, b) == simple(a, b)


@pytest.mark.parametrize(
    "operation",
    [
        lambda a: a + 0.0,
        lambda a: a * 0.0,
        lambda a: a - a,
        lambda a: a / a,
        lambda a: a / 3.0,
        lambda a: a.op(Opcode.POW, 3.0),
        lambda a: 0.0 - a,
    ],
    ids=["a + 0", "a * 0", "a - a", "a / a", "a / 3", "a ** 0.3", "0 - a"],
)
def test_what_is_not_exact_stays(operation: Callable[[Expression], Expression], a: Expression) -> None:
    assert operation(a).node.opcode is not None
    assert operation(a).node.opcode is not Opcode.NEG


def same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(*(torch.where(each.isnan(), math.nan, each).view(torch.int64) for each in (a, b)))


ARITY = {
    **dict.fromkeys((Opcode.COPY, Opcode.NEG, Opcode.ABS, Opcode.SQUARE, Opcode.COS, Opcode.EXP), 1),
    **dict.fromkeys((Opcode.ADD, Opcode.SUB, Opcode.MUL, Opcode.DIV, Opcode.EQ, Opcode.LT), 2),
    Opcode.WHERE: 3,
}
LEAVES = torch.tensor(list(itertools.product(NUMBERS, repeat=2)), dtype=torch.float64).T


@pytest.mark.parametrize("opcode", ARITY, ids=lambda each: each.name)
def test_simplifying_changes_no_bit(opcode: Opcode) -> None:
    """Of any operands: numbers, a value, and its opposite, which is what the rules look at."""
    for kinds in itertools.product(("a", "-a", "b", "|a|", -1.0, -0.0, 0.0, 0.5, 1.0, -4.0), repeat=ARITY[opcode]):
        graph = Graph()
        a, b = (graph.leaf((Role.INPUT, index)) for index in range(2))
        leaves = {"a": a, "-a": -a, "b": b, "|a|": a.op(Opcode.ABS)}
        operands = [leaves[each] if isinstance(each, str) else graph.number(each) for each in kinds]
        plain = COMPUTE[opcode](*(value(each, *LEAVES) for each in operands))
        assert same_bits(value(operands[0].op(opcode, *operands[1:]), *LEAVES), plain), kinds


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0, 3.0, 0.5, -1.0, -0.5, -2.0])
def test_a_power_is_torchs(exponent: float, a: Expression) -> None:
    assert same_bits(value(a.op(Opcode.POW, exponent), *LEAVES), LEAVES[0] ** exponent)


def test_a_power_waits_for_its_derivative() -> None:
    a = Graph().leaf((Role.INPUT, 0))
    power = a.op(Opcode.POW, -2.0)
    assert power.node.opcode is Opcode.POW
    settled, at = a.graph.settled([power.place])
    assert settled.nodes[at[power.place]].opcode is Opcode.RECIPROCAL


def test_a_rule_of_its_own_leaves_the_settled_graph(graph: Graph, a: Expression, b: Expression) -> None:
    ruled = graph.under_rule(a * b, lambda g, y, by: (g,), a)
    settled, at = graph.settled([(ruled + b).place])
    assert all(node.rule is None for node in settled.nodes)
    assert len(settled.nodes) == 4
    assert len(at) == 5


# --- What to keep -----------------------------------------------------------------------------------------------------


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Graph, list[int]]:
    """A small graph of two inputs, and what of it is needed."""
    graph = Graph()
    values = [graph.leaf((Role.INPUT, index)) for index in range(2)]
    for _ in range(draw(st.integers(1, 6))):
        opcode = draw(st.sampled_from([Opcode.ADD, Opcode.MUL, Opcode.TANH, Opcode.SQUARE, Opcode.POW]))
        a, b = (draw(st.sampled_from(values)) for _ in range(2))
        values.append(
            a.op(Opcode.POW, 0.3) if opcode is Opcode.POW else a.op(opcode, b) if opcode in (Opcode.ADD, Opcode.MUL) else a.op(opcode)
        )
    needed = draw(st.lists(st.sampled_from([each.place for each in values]), min_size=1, max_size=3, unique=True))
    return graph, needed


COSTS: dict[Any, int] = {Opcode.ADD: 2, Opcode.MUL: 2, Opcode.SQUARE: 2, Opcode.TANH: 16, Opcode.POW: 200}


def _cost(graph: Graph, needed: list[int], chosen: set[int], keep: int) -> float:
    """What keeping these, and computing the rest again, costs."""
    total, open_, seen = 0.0, list(needed), set[int]()
    while open_:
        place = open_.pop()
        node = graph.nodes[place]
        if place in seen or node.number is not None:
            continue
        seen.add(place)
        total += keep if place in chosen else math.inf if node.leaf is not None else COSTS[node.opcode]
        open_ += [] if place in chosen else node.operands
    return total


@given(graphs(), st.sampled_from([1, 5, 24, 300]))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_no_choice_of_what_to_keep_is_cheaper(case: tuple[Graph, list[int]], keep: int) -> None:
    graph, needed = case
    places = [place for place, node in enumerate(graph.nodes) if node.number is None]
    choices = itertools.chain.from_iterable(itertools.combinations(places, count) for count in range(len(places) + 1))
    cheapest = min(_cost(graph, needed, set(choice), keep) for choice in choices)
    assert _cost(graph, needed, kept(graph, needed, free=set(), keep=keep), keep) == cheapest
