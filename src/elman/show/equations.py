"""The cell's equations: as they are shown for a network, and worked out in numbers.

The text is the cell's own (`elman.cells`). What is shown and what is worked out are the same lines.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from elman.show.facts import Line
from elman.show.render_style import number

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from elman.show.spec import Spec

# A product with a weight ("W_ir x"), or a name, primed where it is a state after the step.
_TERM = re.compile(r"W_\w+ \w+|[A-Za-z_]\w*'?")
_NAME = re.compile(r"[A-Za-z_]\w*'?")
_BIAS = re.compile(r" \+ b_\w+")

FUNCTIONS: dict[str, Callable[[float], float]] = {
    "tanh": math.tanh,
    "sigmoid": lambda x: 0.5 * (1.0 + math.tanh(0.5 * x)),
    "relu": lambda x: max(x, 0.0),
}


def equations(spec: Spec, direction: str = "forward") -> tuple[str, ...]:
    """The equations with their times; the reverse direction comes from the step after.

    >>> from elman.show.spec import Spec
    >>> equations(Spec("gru", 10, 20, bias=False), "reverse")[-2:]
    ('n[t] = tanh(W_in x[t] + r[t] * (W_hn h[t+1]))', 'h[t] = (1 - z[t]) * n[t] + z[t] * h[t+1]')
    """
    return tuple(f"{_dated(name, spec, direction)} = {_dated(expression, spec, direction)}" for name, expression in _projected(spec))


def added(spec: Spec, gate: str) -> str | None:
    """What enters a gate, as its equation writes it, if it is simply added up; None where something else acts on a part of it (GRU's n)."""
    total = f"W_i{gate} x + b_i{gate} + W_h{gate} h + b_h{gate}"
    return _without_biases(spec, total) if any(total in line for line in spec.cell.equations) else None


def work_out(spec: Spec, direction: str, known: Mapping[str, float]) -> tuple[Line, ...]:
    """Each equation with its numbers, in order; what one gives, the next ones use.

    A projection comes after them; what it projects goes by the name of its expression.

    Args:
        spec: the network.
        direction: whose times are shown.
        known: the numbers of the terms: "W_ir x", "b_ir", "W_hr h", "b_hr" of each gate, or the gate's ``added`` whole; the states by name.
    """
    values = dict(known)
    lines = []
    for name, expression in _lines(spec):
        whole = next((total for gate in spec.cell.gates if (total := added(spec, gate)) and total in expression), None)
        term = re.compile(f"{re.escape(whole)}|{_TERM.pattern}") if whole else _TERM
        variables = {found: f"_{index}" for index, found in enumerate(values)}
        numbers = dict(zip(variables.values(), values.values(), strict=True))
        # The text is a cell's, never a reader's.
        value = float(eval(_filled(term, variables, expression), {"__builtins__": {}, **FUNCTIONS}, numbers))
        shown = _filled(term, {found: number(one).strip() for found, one in values.items()}, expression).replace("+ -", "- ")
        equation = _dated(expression, spec, direction)
        projected = spec.proj_size and name == _put_out(spec)
        lines.append(Line(equation if projected else _dated(name, spec, direction), equation, shown, value))
        values[name] = value
    return tuple(lines)


def _filled(term: re.Pattern[str], names: Mapping[str, str], expression: str) -> str:
    return term.sub(lambda match: names.get(match[0], match[0]), expression)


def _lines(spec: Spec) -> list[tuple[str, str]]:
    """Left and right of each equation; without biases where the network has none."""
    found = []
    for line in spec.cell.equations:
        name, expression = line.split(" = ", 1)
        found.append((name, _without_biases(spec, expression)))
    return found


def _projected(spec: Spec) -> list[tuple[str, str]]:
    """The same, with the projection of the first state."""
    state = _put_out(spec)
    return [(name, f"W_hr ({expression})" if spec.proj_size and name == state else expression) for name, expression in _lines(spec)]


def _put_out(spec: Spec) -> str:
    """The state that is the layer's output, as the equations write it after the step."""
    return f"{spec.cell.states[0]}'"


def _without_biases(spec: Spec, text: str) -> str:
    return text if spec.bias else _BIAS.sub("", text)


def _dated(text: str, spec: Spec, direction: str) -> str:
    """Gates, primed states and x belong to step t; other states to the one before, which for the reverse direction is the one after."""
    before = "t-1" if direction == "forward" else "t+1"

    def date(match: re.Match[str]) -> str:
        name = match[0]
        if name.endswith("'"):
            return f"{name[:-1]}[t]"
        if name in spec.cell.states:
            return f"{name}[{before}]"
        return f"{name}[t]" if name == "x" or name in spec.cell.gates else name

    return _NAME.sub(date, text)
