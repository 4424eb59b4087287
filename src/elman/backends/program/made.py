"""What operations are made of: opcodes of stand-ins, with the shapes that come of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from elman.backends.program.stand_in import Value, refuse, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from elman.backends.program.graph import Rule
    from elman.backends.program.program import Opcode
    from elman.backends.program.stand_in import Shape

    Number = int | float


def made(opcode: Opcode, *values: Value | Number, truth: bool = False) -> Value:
    """An opcode, elementwise."""
    recording = next(each.recording for each in values if isinstance(each, Value))
    operands = [each if isinstance(each, Value) else _number(recording.number, each) for each in values]
    result = recording.graph.make(opcode, *(each.expression for each in operands))
    return Value(recording, result, broadcast(*(each.shape_ for each in operands)), truth)


def _number(stand_in: Callable[[float], Value], number: object) -> Value:
    if isinstance(number, complex) or not hasattr(number, "__float__"):
        raise TypeError(f"expected a tensor or a number, got {type(number).__name__}")
    return stand_in(float(number))


def broadcast(*shapes: Shape) -> Shape:
    result: Shape = ()
    for shape in shapes:
        width = max(len(shape), len(result))
        pairs = zip((1,) * (width - len(shape)) + shape, (1,) * (width - len(result)) + result, strict=True)
        both = [(a, b) for a, b in pairs]
        wide = tuple(b if a == 1 else a for a, b in both)
        named = [each for each in wide if each != 1]
        # A size that is there twice would be an outer product, of every unit with every other.
        if any(a != b and 1 not in (a, b) for a, b in both) or len(set(named)) < len(named):
            refuse(f"does not run an operation on tensors of shape {shown(shape)} and {shown(result)}")
        result = wide
    return result


def under(rule: Rule, value: Value, *by: Value | Number) -> Value:
    """The value with derivatives of its own."""
    recording = value.recording
    expressions = [(each if isinstance(each, Value) else recording.number(each)).expression for each in by]
    return Value(recording, recording.graph.under_rule(value.expression, rule, *expressions), value.shape_, value.truth)
