"""The gradient of a graph, by the chain rule backwards, as more nodes of the same graph.

Everything is an array of (sequences, H) numbers to it, also what is one number, or one for each sequence: the parts of its gradient stand
in the array, and the scan adds them. A sum over H numbers stands in each of their places; so does the sum of the gradients that come to it.

At ties, at the border of a range, and where infinities or NaN arrive, the gradients are torch's (derivatives.yaml, FunctionsManual.cpp).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from elman.backends.program.graph import Expression
from elman.backends.program.program import Opcode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from elman.backends.program.graph import Graph

    Rule = Callable[..., tuple[Expression | None, ...]]

E = Expression


def gradients(graph: Graph, arriving: Mapping[int, Expression]) -> dict[int, Expression]:
    """The gradient that each leaf gets.

    Args:
        arriving: the gradients that come from outside, of some nodes.
    """
    sums = dict(arriving)
    for place in sorted(graph.below(arriving, by_rules=True), reverse=True):
        node, gradient = graph.nodes[place], sums.get(place)
        if gradient is None or not node.operands:
            continue
        if graph.is_of_row(place) and not (node.opcode is not None and node.opcode.over_rows):
            gradient = gradient.op(Opcode.ROW_MEAN)  # the parts of a number's gradient may be any that have the same sum
        if node.rule is not None:
            rule, operands = node.rule, node.operands[1:]
        else:
            assert node.opcode is not None
            rule, operands = DERIVATIVES.get(node.opcode, _none), node.operands
        parts = rule(gradient, Expression(graph, place), *(Expression(graph, each) for each in operands))
        for operand, part in zip(operands, parts, strict=True):
            if part is not None:
                sums[operand] = sums[operand] + part if operand in sums else part
    return {place: gradient for place, gradient in sums.items() if graph.nodes[place].leaf is not None}


def _none(g: E, y: E, *operands: E) -> tuple[None, ...]:
    """Of what is constant but for jumps."""
    return (None,) * len(operands)


def where(condition: E, a: E | float, b: E | float) -> E:
    return condition.op(Opcode.WHERE, a, b)


def _div(g: E, y: E, a: E, b: E) -> tuple[E | None, ...]:
    return g / b, -(g * (y / b)) if b.number is None else None


def _pow(g: E, y: E, a: E, b: E) -> tuple[E | None, ...]:
    assert b.number is not None, "the exponent of a recorded power is a number"
    return g * (a.op(Opcode.POW, b.number - 1) * b.number), None


def _extreme(beyond: Opcode) -> Rule:
    """Of minimum or maximum: what is ``beyond`` gets nothing, and equals half each; NaN on either side gives both all."""

    def rule(g: E, y: E, a: E, b: E) -> tuple[E | None, ...]:
        shared = where(a.op(Opcode.EQ, b), g * 0.5, g)
        return where(a.op(beyond, b), 0.0, shared), where(b.op(beyond, a), 0.0, shared)

    return rule


def _row_max(g: E, y: E, a: E) -> tuple[E | None, ...]:
    highest = a.op(Opcode.EQ, y)
    return ((g.op(Opcode.ROW_SUM) * highest) / highest.op(Opcode.ROW_SUM),)


def _softplus(g: E, y: E, a: E) -> tuple[E | None, ...]:
    return (where(a.op(Opcode.GT, 20.0), g, g * a.op(Opcode.SIGMOID)),)


# The gradients of the operands, of the gradient g of the value y and the operands.
DERIVATIVES: dict[Opcode, Rule] = {
    Opcode.ADD: lambda g, y, a, b: (g, g),
    Opcode.SUB: lambda g, y, a, b: (g, -g),
    Opcode.MUL: lambda g, y, a, b: (g * b, g * a),
    Opcode.DIV: _div,
    Opcode.NEG: lambda g, y, a: (-g,),
    Opcode.POW: _pow,
    Opcode.MIN: _extreme(Opcode.GT),
    Opcode.MAX: _extreme(Opcode.LT),
    Opcode.WHERE: lambda g, y, c, a, b: (None, where(c, g, 0.0), where(c, 0.0, g)),
    Opcode.ABS: lambda g, y, a: (g * a.op(Opcode.SIGN),),
    Opcode.SQRT: lambda g, y, a: (g / (y * 2.0),),
    Opcode.RSQRT: lambda g, y, a: ((g * -0.5) * (y * y * y),),
    Opcode.EXP: lambda g, y, a: (g * y,),
    Opcode.LOG: lambda g, y, a: (g / a,),
    Opcode.LOG1P: lambda g, y, a: (g / (a + 1.0),),
    Opcode.EXPM1: lambda g, y, a: (g * (y + 1.0),),
    Opcode.TANH: lambda g, y, a: (g * y.op(Opcode.FNMA, y, 1.0),),  # 1 - y²
    Opcode.SIGMOID: lambda g, y, a: (g * y.op(Opcode.FNMA, y, y),),  # y - y²
    Opcode.RELU: lambda g, y, a: (where(y.op(Opcode.LE, 0.0), 0.0, g),),
    Opcode.SOFTPLUS: _softplus,
    Opcode.SIN: lambda g, y, a: (g * a.op(Opcode.COS),),
    Opcode.COS: lambda g, y, a: (-(g * a.op(Opcode.SIN)),),
    Opcode.ERF: lambda g, y, a: (g * ((-(a * a)).op(Opcode.EXP) * (2 / math.sqrt(math.pi))),),
    Opcode.RECIPROCAL: lambda g, y, a: (-(g * (y * y)),),
    Opcode.SQUARE: lambda g, y, a: ((g * 2.0) * a,),  # a gradient is more often shared than a value
    Opcode.ROW_SUM: lambda g, y, a: (g.op(Opcode.ROW_SUM),),
    Opcode.ROW_MEAN: lambda g, y, a: (g.op(Opcode.ROW_MEAN),),
    Opcode.ROW_MAX: _row_max,
}


# Rules of their own for what is composed of several opcodes, called by the operation.


# From torch 2.14 on, what equals a bound gets nothing if that is a number, and shares its gradient with one that is a tensor.
_CLAMPS_STRICTLY = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 14)
_FROM, _TO = (Opcode.GT, Opcode.LT) if _CLAMPS_STRICTLY else (Opcode.GE, Opcode.LE)


def clamp_min(g: E, y: E, a: E, low: E) -> tuple[E | None, ...]:
    return where(a.op(_FROM, low), g, 0.0), where(a.op(Opcode.LT, low), g, 0.0)


def clamp_max(g: E, y: E, a: E, high: E) -> tuple[E | None, ...]:
    return where(a.op(_TO, high), g, 0.0), where(a.op(Opcode.GT, high), g, 0.0)


def clamp(g: E, y: E, a: E, low: E, high: E) -> tuple[E | None, ...]:
    inside = where(a.op(_FROM, low), where(a.op(_TO, high), g, 0.0), 0.0)
    of_low = where(a.op(Opcode.LT, low), where(low.op(Opcode.LT, high), g, 0.0), 0.0)
    return inside, of_low, where(a.op(Opcode.GT, high), g, where(low.op(Opcode.GT, high), g, 0.0))


def _clamp_sharing(g: E, y: E, a: E, low: E, high: E) -> tuple[E | None, ...]:
    below, above = a.op(Opcode.LT, low), a.op(Opcode.GT, high)
    at_low, at_high = (where(low.op(Opcode.LT, high), a.op(Opcode.EQ, bound), 0.0) for bound in (low, high))
    half, one_side = g * 0.5, low.op(Opcode.LE, high)
    of_a = where(below, 0.0, where(above, 0.0, where(at_low, half, where(at_high, half, g))))
    of_low = where(one_side, where(below, g, where(at_low, half, 0.0)), 0.0)
    of_high = where(one_side, where(above, g, where(at_high, half, 0.0)), where(low.op(Opcode.GT, high), g, 0.0))
    return of_a, of_low, of_high


# By bounds that are tensors, be they constant: torch has other operators for these.
clamp_min_by_tensor = DERIVATIVES[Opcode.MAX] if _CLAMPS_STRICTLY else clamp_min
clamp_max_by_tensor = DERIVATIVES[Opcode.MIN] if _CLAMPS_STRICTLY else clamp_max
clamp_by_tensors = _clamp_sharing if _CLAMPS_STRICTLY else clamp


def hardtanh(g: E, y: E, a: E, low: E, high: E) -> tuple[E | None, ...]:
    return where(a.op(Opcode.LE, low), 0.0, where(a.op(Opcode.GE, high), 0.0, g)), None, None


def hardsigmoid(g: E, y: E, a: E) -> tuple[E | None, ...]:
    return (where(a.op(Opcode.GT, -3.0), where(a.op(Opcode.LT, 3.0), g * (1 / 6), 0.0), 0.0),)


def leaky_relu(g: E, y: E, a: E, slope: E) -> tuple[E | None, ...]:
    return where(a.op(Opcode.GT, 0.0), g, g * slope), None


def elu(g: E, y: E, a: E, alpha: E) -> tuple[E | None, ...]:
    return where(a.op(Opcode.LE, 0.0), g * (a.op(Opcode.EXP) * alpha), g), None


def logsigmoid(g: E, y: E, a: E) -> tuple[E | None, ...]:
    return (g * (-a).op(Opcode.SIGMOID),)


def softmax(g: E, y: E, a: E) -> tuple[E | None, ...]:
    return (y * (g - (g * y).op(Opcode.ROW_SUM)),)


def log_softmax(g: E, y: E, a: E) -> tuple[E | None, ...]:
    return (g - y.op(Opcode.EXP) * g.op(Opcode.ROW_SUM),)


def logsumexp(g: E, y: E, a: E) -> tuple[E | None, ...]:
    return (g.op(Opcode.ROW_SUM) * (a - y).op(Opcode.EXP),)


def norm(g: E, y: E, a: E) -> tuple[E | None, ...]:
    return (where(y.op(Opcode.EQ, 0.0), 0.0, a * (g.op(Opcode.ROW_SUM) / y)),)


def norm_of_one(g: E, y: E, a: E) -> tuple[E | None, ...]:
    """Of one number's size, which is infinite only where the number is: NaN there, 0 at 0."""
    return (g * where(y.op(Opcode.EQ, 0.0), 0.0, a / y),)


def norm_of_one_unit(g: E, y: E, a: E) -> tuple[E | None, ...]:
    return norm_of_one(g.op(Opcode.ROW_SUM), y, a)


def layer_norm(g: E, y: E, a: E, scale: E) -> tuple[E | None, ...]:
    """Of (a - mean) · scale; the scale is one over the standard deviation."""
    return scale * ((g - g.op(Opcode.ROW_MEAN)) - y * (g * y).op(Opcode.ROW_MEAN)), None


def rms_norm(g: E, y: E, a: E, scale: E) -> tuple[E | None, ...]:
    """Of a · scale; the scale is one over the root of the mean square."""
    return scale * (g - y * (g * y).op(Opcode.ROW_MEAN)), None


def detach(g: E, y: E, *by: E) -> tuple[E | None, ...]:
    return ()
