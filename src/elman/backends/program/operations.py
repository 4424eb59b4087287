"""The operations that are recorded, by torch's names, each of the opcodes that a program has."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from elman.backends.program import differentiate
from elman.backends.program.program import Opcode
from elman.backends.program.stand_in import Size, Value, refuse

if TYPE_CHECKING:
    from collections.abc import Callable

    from elman.backends.program.graph import Rule
    from elman.backends.program.stand_in import Shape

    Number = int | float
    Operation = Callable[..., Any]


# --- What operations are made of --------------------------------------------------------------------------------------


def made(opcode: Opcode, *values: Value | Number, truth: bool = False) -> Value:
    """An opcode, elementwise."""
    recording = next(each.recording for each in values if isinstance(each, Value))
    operands = [each if isinstance(each, Value) else _number(recording.number, each) for each in values]
    result = recording.graph.make(opcode, *(each.expression for each in operands))
    return Value(recording, result, _broadcast(*(each.shape_ for each in operands)), truth)


def _number(stand_in: Callable[[float], Value], number: object) -> Value:
    if isinstance(number, complex) or not hasattr(number, "__float__"):
        raise TypeError(f"expected a tensor or a number, got {type(number).__name__}")
    return stand_in(float(number))


def _broadcast(*shapes: Shape) -> Shape:
    result: Shape = ()
    for shape in shapes:
        width = max(len(shape), len(result))
        pairs = zip((1,) * (width - len(shape)) + shape, (1,) * (width - len(result)) + result, strict=True)
        both = [(a, b) for a, b in pairs]
        if any(a != b and 1 not in (a, b) for a, b in both):
            refuse(f"does not run an operation of tensors of shape {_shown(shape)} and {_shown(result)}")
        result = tuple(b if a == 1 else a for a, b in both)
    return result


def _shown(shape: Shape) -> str:
    return f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"


def _under(rule: Rule, value: Value, *by: Value | Number) -> Value:
    """The value with derivatives of its own."""
    recording = value.recording
    expressions = [(each if isinstance(each, Value) else recording.number(each)).expression for each in by]
    return Value(recording, recording.graph.under_rule(value.expression, rule, *expressions), value.shape_, value.truth)


def _elementwise(opcode: Opcode, count: int = 1, truth: bool = False) -> Operation:
    def one(input: Value) -> Value:
        return made(opcode, input, truth=truth)

    def two(input: Value | Number, other: Value | Number) -> Value:
        return made(opcode, input, other, truth=truth)

    return one if count == 1 else two


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


# --- Arithmetic -------------------------------------------------------------------------------------------------------


def add(input: Value | Number, other: Value | Number, alpha: Value | Number = 1) -> Value:
    return made(Opcode.ADD, input, other if alpha == 1 else made(Opcode.MUL, other, alpha))


def sub(input: Value | Number, other: Value | Number, alpha: Value | Number = 1) -> Value:
    return made(Opcode.SUB, input, other if alpha == 1 else made(Opcode.MUL, other, alpha))


def rsub(input: Value, other: Value | Number, alpha: Value | Number = 1) -> Value:
    return sub(other, input, alpha)


def div(input: Value | Number, other: Value | Number, rounding_mode: str | None = None) -> Value:
    if rounding_mode is not None:
        refuse("does not run a division that rounds")
    if isinstance(input, Value):
        return made(Opcode.DIV, input, other)
    return made(Opcode.MUL, made(Opcode.RECIPROCAL, other), input)  # as torch divides a number by a tensor


def power(input: Value | Number, exponent: Value | Number) -> Value:
    number = exponent.expression.number if isinstance(exponent, Value) else exponent
    if not isinstance(input, Value) or number is None:
        refuse("does not run a power whose exponent is not a number")
    return made(Opcode.POW, input, float(number))


def lerp(input: Value, end: Value, weight: Value | Number) -> Value:
    return input + weight * (end - input)


def addcmul(input: Value, tensor1: Value, tensor2: Value, value: Number = 1) -> Value:
    return add(input, tensor1 * tensor2, value)


# --- Choices ----------------------------------------------------------------------------------------------------------


def where(condition: Value, input: Value | Number, other: Value | Number) -> Value:
    return made(Opcode.WHERE, condition, input, other)


def logical_and(input: Value, other: Value) -> Value:
    return made(Opcode.MUL, _truth(input), _truth(other), truth=True)


def logical_or(input: Value, other: Value) -> Value:
    return made(Opcode.MAX, _truth(input), _truth(other), truth=True)


def logical_xor(input: Value, other: Value) -> Value:
    return made(Opcode.NE, _truth(input), _truth(other), truth=True)


def logical_not(input: Value) -> Value:
    return made(Opcode.EQ, _truth(input), 0, truth=True)


def _truth(value: object) -> Value:
    if not isinstance(value, Value) or not value.truth:
        refuse("does not run a logical operation of what is not a comparison")
    return value


def larger(input: Value, other: Value) -> Value:
    return made(Opcode.MAX, input, other)


def smaller(input: Value, other: Value) -> Value:
    return made(Opcode.MIN, input, other)


def clamp(input: Value, min: Value | Number | None = None, max: Value | Number | None = None) -> Value:
    if min is not None:
        input = _under(differentiate.clamp_min, made(Opcode.MAX, input, min), input, min)
    if max is not None:
        input = _under(differentiate.clamp_max, made(Opcode.MIN, input, max), input, max)
    return input


def clamp_min(input: Value, min: Value | Number) -> Value:
    return clamp(input, min=min)


def clamp_max(input: Value, max: Value | Number) -> Value:
    return clamp(input, max=max)


# --- Activations ------------------------------------------------------------------------------------------------------


def leaky_relu(input: Value, negative_slope: Number = 0.01) -> Value:
    return _under(differentiate.leaky_relu, where(input > 0, input, input * negative_slope), input, negative_slope)


def elu(input: Value, alpha: Number = 1.0) -> Value:
    return _under(differentiate.elu, where(input > 0, input, made(Opcode.EXPM1, input) * alpha), input, alpha)


def softplus(input: Value, beta: Number = 1.0, threshold: Number = 20.0) -> Value:
    scaled = input * beta
    if threshold == 20:
        return made(Opcode.SOFTPLUS, scaled) / beta
    return where(scaled > threshold, input, made(Opcode.SOFTPLUS, scaled) / beta)


def logsigmoid(input: Value) -> Value:
    value = made(Opcode.MIN, input, 0) - made(Opcode.LOG1P, made(Opcode.EXP, -made(Opcode.ABS, input)))
    return _under(differentiate.logsigmoid, value, input)


def softsign(input: Value) -> Value:
    return input / (made(Opcode.ABS, input) + 1)


def silu(input: Value) -> Value:
    return input * made(Opcode.SIGMOID, input)


def hardsigmoid(input: Value) -> Value:
    return _under(differentiate.hardsigmoid, made(Opcode.MAX, made(Opcode.MIN, input + 3, 6), 0) / 6, input)


def hardtanh(input: Value, min_val: Number = -1.0, max_val: Number = 1.0) -> Value:
    value = made(Opcode.MIN, made(Opcode.MAX, input, min_val), max_val)
    return _under(differentiate.hardtanh, value, input, min_val, max_val)


def gelu(input: Value, approximate: str = "none") -> Value:
    if approximate == "tanh":
        inner = (input + input * input * input * 0.044715) * math.sqrt(2 / math.pi)
        return input * 0.5 * (made(Opcode.TANH, inner) + 1)
    return input * 0.5 * (made(Opcode.ERF, input * math.sqrt(0.5)) + 1)


# --- Over the units ---------------------------------------------------------------------------------------------------

row_sum, row_mean, row_max = _row(Opcode.ROW_SUM), _row(Opcode.ROW_MEAN), _row(Opcode.ROW_MAX)


def row_min(input: Value, dim: Any = None, keepdim: bool = False) -> Value:
    return -row_max(-input, dim, keepdim)


def softmax(input: Value, dim: Any) -> Value:
    _last_axis(input, dim)
    powers = made(Opcode.EXP, input - row_max(input, -1, True))
    return _over_units(differentiate.softmax, powers / row_sum(powers, -1, True), input)


def layer_norm(input: Value, normalized_shape: Any, weight: Value | None = None, bias: Value | None = None, eps: Number = 1e-5) -> Value:
    _last_axis(input, _one_axis(normalized_shape))
    centred = input - row_mean(input, -1, True)
    scale = made(Opcode.RSQRT, row_mean(centred * centred, -1, True) + eps)
    return _affine(_over_units(differentiate.layer_norm, centred * scale, input, scale), weight, bias)


def rms_norm(input: Value, normalized_shape: Any, weight: Value | None = None, eps: Number | None = None) -> Value:
    _last_axis(input, _one_axis(normalized_shape))
    if eps is None:
        eps = torch.finfo(input.dtype).eps
    scale = made(Opcode.RSQRT, row_mean(input * input, -1, True) + eps)
    return _affine(_over_units(differentiate.rms_norm, input * scale, input, scale), weight, None)


def _over_units(rule: Rule, value: Value, input: Value, *by: Value) -> Value:
    """The value with derivatives of its own, which are right where the axis is that of the H units; over one number it has none of them."""
    return _under(rule, value, input, *by) if input.shape_[-1:] == ("H",) else value


def _one_axis(shape: Any) -> int:
    sizes = shape if isinstance(shape, tuple | list) else (shape,)
    if len(sizes) != 1 or not isinstance(sizes[0], int | Size):
        refuse("does not run a norm over more than the last axis")
    return -1


def _affine(value: Value, weight: Value | None, bias: Value | None) -> Value:
    value = value if weight is None else value * weight
    return value if bias is None else value + bias


# --- What is the same numbers -----------------------------------------------------------------------------------------


def detach(input: Value) -> Value:
    return _under(differentiate.detach, input)


def unchanged(input: Value) -> Value:
    return input


def to(input: Value, other: Any = None, dtype: Any = None) -> Value:
    """To the dtype that there is; a comparison to numbers."""
    asked = dtype or (other.dtype if isinstance(other, Value) else other)
    exact = isinstance(asked, torch.dtype) and asked.is_floating_point and input.truth
    if asked is not input.recording.dtype and not exact:
        refuse(f"does not run a step that changes the dtype to {asked}")
    return Value(input.recording, input.expression, input.shape_)


def to_float(input: Value) -> Value:
    return to(input, torch.float32)


def to_double(input: Value) -> Value:
    return to(input, torch.float64)


def unsqueeze(input: Value, dim: int) -> Value:
    if dim not in (-1, len(input.shape_)):
        refuse("does not run a new axis other than the last")
    return Value(input.recording, input.expression, (*input.shape_, 1), input.truth)


def expand_as(input: Value, other: Value) -> Value:
    return Value(input.recording, input.expression, _broadcast(input.shape_, other.shape_), input.truth)


def full_like(input: Value, fill_value: Number) -> Value:
    return Value(input.recording, input.recording.graph.number(fill_value), input.shape_)


def zeros_like(input: Value) -> Value:
    return full_like(input, 0)


def ones_like(input: Value) -> Value:
    return full_like(input, 1)


_NAMES: dict[Operation, str] = {
    add: "add",
    sub: "sub subtract",
    rsub: "rsub",
    _elementwise(Opcode.MUL, 2): "mul multiply",
    div: "div divide true_divide truediv",
    power: "pow",
    _elementwise(Opcode.NEG): "neg negative",
    _elementwise(Opcode.ABS): "abs absolute",
    _elementwise(Opcode.SIGN): "sign",
    _elementwise(Opcode.SQRT): "sqrt",
    _elementwise(Opcode.RSQRT): "rsqrt",
    _elementwise(Opcode.SQUARE): "square",
    _elementwise(Opcode.RECIPROCAL): "reciprocal",
    _elementwise(Opcode.EXP): "exp",
    _elementwise(Opcode.LOG): "log",
    _elementwise(Opcode.LOG1P): "log1p special_log1p",
    _elementwise(Opcode.EXPM1): "expm1 special_expm1",
    _elementwise(Opcode.SIN): "sin",
    _elementwise(Opcode.COS): "cos",
    _elementwise(Opcode.ERF): "erf special_erf",
    lerp: "lerp",
    addcmul: "addcmul",
    smaller: "minimum min",
    larger: "maximum max",
    _elementwise(Opcode.LT, 2, truth=True): "lt less",
    _elementwise(Opcode.LE, 2, truth=True): "le less_equal",
    _elementwise(Opcode.GT, 2, truth=True): "gt greater",
    _elementwise(Opcode.GE, 2, truth=True): "ge greater_equal",
    _elementwise(Opcode.EQ, 2, truth=True): "eq",
    _elementwise(Opcode.NE, 2, truth=True): "ne not_equal",
    where: "where",
    logical_and: "logical_and bitwise_and and",
    logical_or: "logical_or bitwise_or or",
    logical_xor: "logical_xor bitwise_xor xor",
    logical_not: "logical_not bitwise_not invert",
    clamp: "clamp clip",
    clamp_min: "clamp_min",
    clamp_max: "clamp_max",
    _elementwise(Opcode.TANH): "tanh",
    _elementwise(Opcode.SIGMOID): "sigmoid special_expit",
    _elementwise(Opcode.RELU): "relu",
    leaky_relu: "leaky_relu",
    elu: "elu",
    softplus: "softplus",
    logsigmoid: "log_sigmoid logsigmoid",
    softsign: "softsign",
    silu: "silu",
    hardsigmoid: "hardsigmoid",
    hardtanh: "hardtanh",
    gelu: "gelu",
    row_sum: "sum",
    row_mean: "mean",
    row_max: "amax",
    row_min: "amin",
    softmax: "softmax special_softmax",
    layer_norm: "layer_norm",
    rms_norm: "rms_norm",
    detach: "detach",
    unchanged: "clone contiguous pos positive",
    to: "to type_as",
    to_float: "float",
    to_double: "double",
    unsqueeze: "unsqueeze",
    expand_as: "expand_as",
    full_like: "full_like",
    zeros_like: "zeros_like",
    ones_like: "ones_like",
}
OPERATIONS: dict[str, Operation] = {name: operation for operation, names in _NAMES.items() for name in names.split()}
