"""A cell's equations, as it declares them: shown for a network, and worked out in numbers. Both read the same lines."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from elman.show.specification import Spec

# A product with a weight ("W_ir x"), or a name, primed where it is a state after the step.
_TERM = re.compile(r"W_\w+ \w+|[A-Za-z_]\w*'?")
_NAME = re.compile(r"([A-Za-z_]\w*)('?)")
_BIAS = re.compile(r" \+ b_\w+")
FUNCTIONS = {"tanh": torch.tanh, "sigmoid": torch.sigmoid, "relu": torch.relu}


def equations(spec: Spec, direction: str = "forward") -> tuple[str, ...]:
    """The equations with their times; the reverse direction comes from the step after.

    >>> from elman.show.specification import Spec
    >>> equations(Spec("gru", 10, 20, bias=False), "reverse")[-2:]
    ('n[t] = tanh(W_in x[t] + r[t] * (W_hn h[t+1]))', 'h[t] = (1 - z[t]) * n[t] + z[t] * h[t+1]')
    """
    sides = right_sides(spec)
    if spec.proj_size:
        name, expression = sides.popitem()
        sides[name] = f"W_hr ({expression})"
    return tuple(dated(f"{name} = {expression}", spec, direction) for name, expression in sides.items())


def right_sides(spec: Spec) -> dict[str, str]:
    """The right side of each equation by the name on its left, without biases where the network has none. The last gives the output."""
    pairs = (line.split(" = ", 1) for line in spec.stack.cell.equations)
    return {name: expression if spec.bias else _BIAS.sub("", expression) for name, expression in pairs}


def work_out(spec: Spec, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The value of each equation by the name on its left; what one gives, the next ones use.

    Args:
        spec: the network.
        known: the values of the terms: "W_ir x", "b_ir", "W_hr h", "b_hr" of each gate r; the states by name.
    """
    values = dict(known)
    for name, expression in right_sides(spec).items():
        variables = {term: f"_{index}" for index, term in enumerate(values)}
        numbers = dict(zip(variables.values(), values.values(), strict=True))
        # The text is a cell's, never a reader's.
        values[name] = eval(filled(expression, variables), {"__builtins__": {}, **FUNCTIONS}, numbers)
    return {name: values[name] for name in right_sides(spec)}


def filled(expression: str, terms: Mapping[str, str]) -> str:
    """The expression with something else for its terms."""
    return _TERM.sub(lambda match: terms.get(match[0], match[0]), expression).replace("+ -", "- ")


def dated(text: str, spec: Spec, direction: str) -> str:
    """Gates, primed states and x belong to step t; other states to the one before, which for the reverse direction is the one after."""
    cell = spec.stack.cell
    times = dict.fromkeys(("x", *cell.gates), "[t]") | dict.fromkeys(cell.states, "[t-1]" if direction == "forward" else "[t+1]")
    return _NAME.sub(lambda match: match[1] + ("[t]" if match[2] else times.get(match[1], "")), text)
