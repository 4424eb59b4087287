"""The operations over the last axis, the H units of a sequence."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from elman.backends.program import differentiate
from elman.backends.program.made import made, under
from elman.backends.program.program import Opcode
from elman.backends.program.stand_in import UnknownSize, Value, refuse

if TYPE_CHECKING:
    from collections.abc import Callable

    from elman.backends.program.graph import Rule

    Number = int | float


def _row(opcode: Opcode) -> Callable[..., Value]:
    """Over the last axis, the H units."""

    def operation(input: Value, dim: Any = None, keepdim: bool = False) -> Value:
        axis = _last_axis(input, dim)
        if axis is None:
            return input  # one number
        result = input if input.shape_[-1] == 1 else made(opcode, input)
        return Value(input.recording, result.expression, (*input.shape_[:-1], *([1] if keepdim else [])))

    return operation


def _last_axis(input: Value, dim: Any) -> int | None:
    """The last axis, which is the one that dim must be."""
    axes = len(input.shape_)
    if axes == 0:
        return None
    if isinstance(dim, tuple | list) and len(dim) == 1:
        dim = dim[0]
    if input.shape_[-1] == "B" or not ((dim is None and axes == 1) or dim in (-1, axes - 1)):
        refuse("does not run an operation over the batch")
    return axes - 1


row_sum, row_mean, row_max = _row(Opcode.ROW_SUM), _row(Opcode.ROW_MEAN), _row(Opcode.ROW_MAX)


def row_min(input: Value, dim: Any = None, keepdim: bool = False) -> Value:
    return -row_max(-input, dim, keepdim)


def softmax(input: Value, dim: Any) -> Value:
    _last_axis(input, dim)
    powers = made(Opcode.EXP, input - row_max(input, -1, True))
    return _over_units(differentiate.softmax, powers / row_sum(powers, -1, True), input)


def softmin(input: Value, dim: Any) -> Value:
    return softmax(-input, dim)


def log_softmax(input: Value, dim: Any) -> Value:
    _last_axis(input, dim)
    shifted = input - row_max(input, -1, True)
    value = shifted - made(Opcode.LOG, row_sum(made(Opcode.EXP, shifted), -1, True))
    return _over_units(differentiate.log_softmax, value, input)


def logsumexp(input: Value, dim: Any, keepdim: bool = False) -> Value:
    _last_axis(input, dim)
    largest = row_max(input, -1, True)
    shift = made(Opcode.WHERE, made(Opcode.EQ, made(Opcode.ABS, largest), math.inf), 0.0, largest)
    value = made(Opcode.LOG, row_sum(made(Opcode.EXP, input - shift), -1, True)) + shift
    return _of_row(_over_units(differentiate.logsumexp, value, input), keepdim)


def norm(input: Value, p: Any = 2, dim: Any = None, keepdim: bool = False) -> Value:
    if p not in (2, "fro", None):
        refuse("does not run a norm other than the Euclidean")
    if _last_axis(input, dim) is None:
        return under(differentiate.norm_of_one, made(Opcode.ABS, input), input)
    if input.shape_[-1] == 1:
        return _of_row(under(differentiate.norm_of_one, made(Opcode.ABS, input), input), keepdim)
    if input.recording.size("H") == 1:  # torch takes the size of one number, too: its square may be infinite, or 0
        return _of_row(under(differentiate.norm_of_one_unit, row_sum(made(Opcode.ABS, input), -1, True), input), keepdim)
    return _of_row(under(differentiate.norm, made(Opcode.SQRT, row_sum(input * input, -1, True)), input), keepdim)


def normalize(input: Value, p: Number = 2.0, dim: int = 1, eps: Number = 1e-12) -> Value:
    length = norm(input, p, dim, True)
    return input / under(differentiate.clamp_min, made(Opcode.MAX, length, eps), length, eps)


def _of_row(value: Value, keepdim: bool) -> Value:
    """What is one number for each row, (..., 1), with or without this axis."""
    return value if keepdim else Value(value.recording, value.expression, value.shape_[:-1])


def layer_norm(input: Value, normalized_shape: Any, weight: Value | None = None, bias: Value | None = None, eps: Number = 1e-5) -> Value:
    _last_axis(input, _one_axis(normalized_shape))
    centred = input - row_mean(input, -1, True)
    scale = made(Opcode.RSQRT, row_mean(centred * centred, -1, True) + eps)
    return _affine(_over_units(differentiate.layer_norm, centred * scale, input, scale), weight, bias)


def rms_norm(input: Value, normalized_shape: Any, weight: Value | None = None, eps: Number | None = None) -> Value:
    _last_axis(input, _one_axis(normalized_shape))
    if eps is None:
        eps = torch.finfo(input.recording.dtype).eps
    scale = made(Opcode.RSQRT, row_mean(input * input, -1, True) + eps)
    return _affine(_over_units(differentiate.rms_norm, input * scale, input, scale), weight, None)


def _over_units(rule: Rule, value: Value, input: Value, *by: Value) -> Value:
    """The value with derivatives of its own, which are right where the axis is that of the H units; over one number it has none of them."""
    return under(rule, value, input, *by) if input.shape_[-1:] == ("H",) else value


def _one_axis(shape: Any) -> int:
    sizes = shape if isinstance(shape, tuple | list) else (shape,)
    if len(sizes) != 1 or not isinstance(sizes[0], int | UnknownSize):
        refuse("does not run a norm over more than the last axis")
    return -1


def _affine(value: Value, weight: Value | None, bias: Value | None) -> Value:
    value = value if weight is None else value * weight
    return value if bias is None else value + bias
