"""A cell's equations, as it declares them: shown for a network, and worked out in numbers. Both read the same lines."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from elman.show.specification import Spec

# A product with a weight ("W_ir x"), or a name, primed where it is a state after the step.
_TERM = re.compile(r"W_\w+ \w+|[A-Za-z_]\w*'?")
_BIAS = re.compile(r" \+ b_\w+")
FUNCTIONS = ("tanh", "sigmoid", "relu")


def equations(spec: Spec, direction: str = "forward") -> tuple[str, ...]:
    """The equations with their times; the reverse direction comes from the step after.

    >>> from elman.show.specification import Spec
    >>> equations(Spec("gru", 10, 20, bias=False), "reverse")[-2:]
    ('n[t] = tanh(W_in x[t] + r[t] * (W_hn h[t+1]))', 'h[t] = (1 - z[t]) * n[t] + z[t] * h[t+1]')
    """
    lines = []
    for name, expression in right_sides(spec).items():
        projected = f"W_hr ({expression})" if spec.proj_size and name == put_out(spec) else expression
        lines.append(f"{dated(name, spec, direction)} = {dated(projected, spec, direction)}")
    return tuple(lines)


def put_out(spec: Spec) -> str:
    """The state that is the layer's output, as the equations write it after the step."""
    return f"{spec.stack.cell.states[0]}'"


def simply_added(spec: Spec, gate: str) -> bool:
    """Whether all that enters a gate is added up; in GRU's n something else acts on a part of it."""
    return any(f"W_i{gate} x + b_i{gate} + W_h{gate} h + b_h{gate}" in line for line in spec.stack.cell.equations)


def right_sides(spec: Spec) -> dict[str, str]:
    """The right side of each equation by the name on its left, without biases where the network has none."""
    pairs = (line.split(" = ", 1) for line in spec.stack.cell.equations)
    return {name: expression if spec.bias else _BIAS.sub("", expression) for name, expression in pairs}


def work_out(spec: Spec, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The value of each equation by the name on its left; what one gives, the next ones use.

    Args:
        spec: the network.
        known: the values of the terms: "W_ir x", "b_ir", "W_hr h", "b_hr" of each gate r; the states by name.
    """
    values = dict(known)
    functions = {name: getattr(torch, name) for name in FUNCTIONS}
    for name, expression in right_sides(spec).items():
        variables = {term: f"_{index}" for index, term in enumerate(values)}
        numbers = dict(zip(variables.values(), values.values(), strict=True))
        # The text is a cell's, never a reader's.
        values[name] = eval(filled(expression, variables), {"__builtins__": {}, **functions}, numbers)
    return {name: values[name] for name in right_sides(spec)}


def filled(expression: str, terms: Mapping[str, str]) -> str:
    """The expression with something else for its terms."""
    return _TERM.sub(lambda match: terms.get(match[0], match[0]), expression).replace("+ -", "- ")


def dated(text: str, spec: Spec, direction: str) -> str:
    """Gates, primed states and x belong to step t; other states to the one before, which for the reverse direction is the one after."""
    before = "t-1" if direction == "forward" else "t+1"

    def date(match: re.Match[str]) -> str:
        name = match[0]
        if name.endswith("'"):
            return f"{name[:-1]}[t]"
        if name in spec.stack.cell.states:
            return f"{name}[{before}]"
        return f"{name}[t]" if name == "x" or name in spec.stack.cell.gates else name

    return re.sub(r"[A-Za-z_]\w*'?", date, text)
