"""A step as a graph of operations: what is the same is shared, what is constant is folded, what changes nothing is left out.

Only what is exact is simplified, for infinities, NaN and the sign of zero too: ``x + 0`` stays (-0 + 0 is 0), and so does ``x * 0``. But
for two sums over the units that are added: they become one sum, which is much quicker and rounds otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from elman.backends.program.arithmetic import computed
from elman.backends.program.program import Opcode, Operand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Rule = Callable[..., tuple["Expression | None", ...]]


class Node(NamedTuple):
    """One value. One of these holds: it is a leaf, a number, an opcode of others, or another value under a derivative of its own."""

    opcode: Opcode | None = None
    operands: tuple[int, ...] = ()  # of a value under a rule: it, then what the rule differentiates by
    leaf: Operand | None = None
    number: str | None = None  # as hex digits: so -0 is not 0, and NaN is NaN
    rule: Rule | None = None

    @property
    def value(self) -> float | None:
        return None if self.number is None else float.fromhex(self.number)


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in an order in which each comes after its operands; a node is called by its place.

    Powers stay until it is settled: so that they are differentiated as powers, whose gradients are finite where those of products are not.
    """

    nodes: list[Node] = field(default_factory=list)
    is_settled: bool = False
    _places: dict[Node, int] = field(default_factory=dict)
    _of_row: list[bool] = field(default_factory=list)

    def leaf(self, operand: Operand) -> Expression:
        return Expression(self, self._place(Node(leaf=operand)))

    def number(self, value: float) -> Expression:
        return Expression(self, self._place(Node(number=float(value).hex())))

    def under_rule(self, value: Expression, rule: Rule, *by: Expression) -> Expression:
        """``value``, with the gradients that ``rule(gradient, value, *by)`` gives to ``by`` in place of those that its operations have."""
        return Expression(self, self._place(Node(operands=(value.place, *(each.place for each in by)), rule=rule)))

    def make(self, opcode: Opcode, *operands: Expression) -> Expression:
        simpler = _simpler(opcode, *operands)
        if simpler is not None:
            return simpler
        numbers = [each.number for each in operands]
        if all(number is not None for number in numbers) and opcode is not Opcode.ROW_SUM:  # which depends on H
            return self.number(computed(opcode, *numbers))  # type: ignore[arg-type]
        places = [each.place for each in operands]
        if opcode in COMMUTES or opcode in (Opcode.FMA, Opcode.FNMA):
            places[:2] = sorted(places[:2])
        return Expression(self, self._place(Node(opcode, tuple(places))))

    def is_of_row(self, place: int) -> bool:
        """Whether a value is one number of each row: computed over the rows, or of such values and numbers alone."""
        known = self._of_row
        for node in self.nodes[len(known) : place + 1]:
            operands = [each for each in node.operands[: 1 if node.rule is not None else None] if self.nodes[each].number is None]
            over_rows = node.opcode is not None and node.opcode.over_rows
            known.append(over_rows or (bool(operands) and all(known[each] for each in operands)))
        return known[place]

    def settled(self, roots: Iterable[int]) -> tuple[Graph, dict[int, int]]:
        """What the roots need, without rules, in a graph of its own; and where each node went."""
        graph, at = Graph(is_settled=True), dict[int, Expression]()
        for place in sorted(self.below(roots)):
            node = self.nodes[place]
            if node.rule is not None:
                at[place] = at[node.operands[0]]
            elif node.opcode is not None:
                at[place] = graph.make(node.opcode, *(at[each] for each in node.operands))
            else:
                at[place] = Expression(graph, graph._place(node))
        return graph, {place: each.place for place, each in at.items()}

    def below(self, roots: Iterable[int], by_rules: bool = False) -> set[int]:
        """The roots, and all that they are computed from.

        Args:
            by_rules: also what rules differentiate by. A simpler way to compute the value may not need it.
        """
        found, open_ = set[int](), list(roots)
        while open_:
            place = open_.pop()
            if place not in found:
                found.add(place)
                node = self.nodes[place]
                open_ += node.operands if node.rule is None or by_rules else node.operands[:1]
        return found

    def _place(self, node: Node) -> int:
        place = self._places.get(node)
        if place is None:
            place = self._places[node] = len(self.nodes)
            self.nodes.append(node)
        return place


@dataclass(frozen=True)
class Expression:
    """A node, to be written down as a formula."""

    graph: Graph
    place: int

    @property
    def node(self) -> Node:
        return self.graph.nodes[self.place]

    @property
    def number(self) -> float | None:
        return self.node.value

    def op(self, opcode: Opcode, *others: Expression | float) -> Expression:
        return self.graph.make(opcode, self, *(each if isinstance(each, Expression) else self.graph.number(each) for each in others))

    def __add__(self, other: Expression | float) -> Expression:
        return self.op(Opcode.ADD, other)

    def __sub__(self, other: Expression | float) -> Expression:
        return self.op(Opcode.SUB, other)

    def __rsub__(self, other: float) -> Expression:
        return self.graph.number(other) - self

    def __mul__(self, other: Expression | float) -> Expression:
        return self.op(Opcode.MUL, other)

    def __truediv__(self, other: Expression | float) -> Expression:
        return self.op(Opcode.DIV, other)

    def __neg__(self) -> Expression:
        return self.op(Opcode.NEG)


COMMUTES = {Opcode.ADD, Opcode.MUL, Opcode.EQ, Opcode.NE}


def _simpler(opcode: Opcode, a: Expression, b: Expression | None = None, c: Expression | None = None) -> Expression | None:
    """What the operation is for all numbers, where that is something simpler."""
    if b is None:
        return _simpler_of_one(opcode, a)
    if opcode is Opcode.WHERE:
        assert c is not None
        return b if b == c else None if a.number is None else b if a.number else c
    if c is not None:
        return None
    return _simpler_of_two(opcode, a, b)


def _simpler_of_one(opcode: Opcode, a: Expression) -> Expression | None:
    inner = a.node.opcode
    below = [Expression(a.graph, place) for place in a.node.operands] if inner is not None else []
    if opcode is Opcode.COPY:
        return a
    if opcode is Opcode.NEG and inner is Opcode.NEG:
        return below[0]
    if opcode is Opcode.NEG and inner is Opcode.MUL and (number := below[1].number if below[1].number is not None else below[0].number):
        return (below[0] if below[1].number is not None else below[1]) * -number
    if opcode in (Opcode.ABS, Opcode.SQUARE, Opcode.COS) and inner in (Opcode.NEG, Opcode.ABS):
        return below[0].op(opcode)
    if opcode in (Opcode.ROW_MEAN, Opcode.ROW_MAX) and a.graph.is_of_row(a.place):
        return a  # the number is in each place already
    return None


def _simpler_of_two(opcode: Opcode, a: Expression, b: Expression) -> Expression | None:
    over_rows = a.node.opcode
    if opcode in (Opcode.ADD, Opcode.SUB) and over_rows in (Opcode.ROW_SUM, Opcode.ROW_MEAN) and b.node.opcode is over_rows:
        return _operand(a).op(opcode, _operand(b)).op(over_rows)
    if opcode is Opcode.ADD:
        return _simpler_sum(a, b)
    if opcode is Opcode.SUB:
        if b.number == 0 and math.copysign(1, b.number) > 0:
            return a
        return a + negated if (negated := _without_sign(b)) is not None else None
    if opcode is Opcode.MUL:
        return _simpler_product(a, b)
    if opcode is Opcode.DIV:
        if b.number and abs(math.frexp(b.number)[0]) == 0.5 and abs(b.number) >= 2.0**-100:  # a power of two: exact
            return a * (1 / b.number)
        return b.op(Opcode.RECIPROCAL) if a.number == 1 else None
    if opcode is Opcode.POW:
        return _simpler_power(a, b.number) if a.graph.is_settled or b.number in (0, 1, 2) else None
    return a if opcode in (Opcode.MIN, Opcode.MAX) and a == b else None


def _simpler_sum(a: Expression, b: Expression) -> Expression | None:
    for one, other in ((a, b), (b, a)):
        if one.number == 0 and math.copysign(1, one.number) < 0:
            return other
        if (negated := _without_sign(one)) is not None:
            return other - negated
    return None


def _simpler_product(a: Expression, b: Expression) -> Expression | None:
    for one, other in ((a, b), (b, a)):
        if one.number == 1:
            return other
        if one.number == -1:
            return -other
        if (negated := _without_sign(one)) is not None:
            return -(negated * other)
    return a.op(Opcode.SQUARE) if a == b else None


def _simpler_power(a: Expression, exponent: float | None) -> Expression | None:
    """Roots, and small whole exponents by products: torch itself takes products up to the third power."""
    if exponent == 0:
        return a.graph.number(1.0)
    if exponent in (0.5, -0.5):
        return a.op(Opcode.SQRT if exponent > 0 else Opcode.RSQRT)
    if exponent is None or abs(exponent) > 8 or exponent != int(exponent):
        return None
    if exponent < 0:
        return a.op(Opcode.POW, -exponent).op(Opcode.RECIPROCAL)
    if exponent % 2 or exponent == 2:
        return a if exponent == 1 else a * a if exponent == 2 else a.op(Opcode.POW, exponent - 1) * a
    return a.op(Opcode.POW, exponent / 2).op(Opcode.SQUARE)


def _without_sign(a: Expression) -> Expression | None:
    """b, if a is -b as it stands."""
    return _operand(a) if a.node.opcode is Opcode.NEG else None


def _operand(a: Expression) -> Expression:
    return Expression(a.graph, a.node.operands[0])
