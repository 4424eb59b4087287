"""How many floating-point operations torch.utils.flop_counter counts for the operators: those of the matrix products, as for torch's own.

A product with an (m, n) matrix is 2·m·n for each step of each sequence. Padding counts as steps, since only shapes are known.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import register_flop_formula

from elman.backends import operator as operator  # which defines them
from elman.backends.program.operator import counts, form_of
from elman.backends.program.text import program_from

if TYPE_CHECKING:
    from collections.abc import Sequence

    Shape = Sequence[int]


@register_flop_formula(torch.ops.elman.scan)
def _forward(x: Shape, h_0: Shape | None, c_0: Shape | None, params: Sequence[Shape], *_: Any, **__: Any) -> int:
    return 2 * math.prod(x[:-1]) * sum(map(_elements, params))


@register_flop_formula(torch.ops.elman.scan_backward)
def _backward(
    grad_output: Shape | None,
    grad_h_n: Shape | None,
    grad_c_n: Shape | None,
    x: Shape,
    h_0: Shape | None,
    c_0: Shape | None,
    params: Sequence[Shape],
    *rest: Any,
    **_: Any,
) -> int:
    return _of_gradients(x, params, rest[-1], 2 if rest[12] else 1)


def _of_gradients(x: Shape, params: Sequence[Shape], needs_grad: Sequence[bool], directions: int) -> int:
    """Each matrix takes a gradient back, but the first layer's to an x that needs none; and has one of its own, if that is wanted."""
    own = needs_grad[len(needs_grad) - len(params) :]
    elements = sum(map(_elements, params)) + sum(_elements(param) for param, needed in zip(params, own, strict=True) if needed)
    if not needs_grad[0]:
        elements -= directions * _elements(params[0])
    return 2 * math.prod(x[:-1]) * elements


@register_flop_formula(torch.ops.elman.program)
def _program(
    operands: Sequence[Shape], lengths: Shape | None, reset: Shape | None, text: str, form: Sequence[int], *_: Any, **__: Any
) -> int:
    return 2 * math.prod(operands[0][:-1]) * sum(map(_elements, operands[_first_parameter(text, form) :]))


@register_flop_formula(torch.ops.elman.program_backward)
def _program_backward(gradients: Any, operands: Sequence[Shape], *rest: Any, **_: Any) -> int:
    text, form, needs_grad = rest[-3:]
    params = operands[_first_parameter(text, form) :]
    return _of_gradients(operands[0], params, needs_grad, form_of(form).num_directions)


def _first_parameter(text: str, form: Sequence[int]) -> int:
    return sum(counts(program_from(text), form_of(form)))


def _elements(param: Shape) -> int:
    """The number of elements of a matrix; 0 for a bias."""
    return math.prod(param) if len(param) == 2 else 0
