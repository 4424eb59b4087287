"""The operations that are recorded, by torch's names, each of the opcodes that a program has."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from elman.backends.program import differentiate, over_units
from elman.backends.program.made import broadcast, made, under
from elman.backends.program.program import Opcode
from elman.backends.program.stand_in import Value, refuse

if TYPE_CHECKING:
    from collections.abc import Callable

    from elman.backends.program.graph import Rule
    from elman.backends.program.stand_in import Shape

    Number = int | float
    Operation = Callable[..., Any]


def _elementwise(opcode: Opcode, count: int = 1, truth: bool = False) -> Operation:
    def one(input: Value) -> Value:
        return made(opcode, input, truth=truth)

    def two(input: Value | Number, other: Value | Number) -> Value:
        return made(opcode, input, other, truth=truth)

    return one if count == 1 else two


# --- Arithmetic -------------------------------------------------------------------------------------------------------


def add(input: Value | Number, other: Value | Number, alpha: Value | Number = 1) -> Value:
    return made(Opcode.ADD, input, other if alpha == 1 else made(Opcode.MUL, other, alpha))


def sub(input: Value | Number, other: Value | Number, alpha: Value | Number = 1) -> Value:
    return made(Opcode.SUB, input, other if alpha == 1 else made(Opcode.MUL, other, alpha))


def rsub(input: Value, other: Value | Number, alpha: Value | Number = 1) -> Value:
    return sub(other, input, alpha)


def div(input: Value | Number, other: Value | Number, rounding_mode: str | None = None) -> Value:
    if rounding_mode is not None:
        refuse("does not run rounding division")
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


def addcdiv(input: Value, tensor1: Value, tensor2: Value, value: Number = 1) -> Value:
    return add(input, tensor1 / tensor2, value)


def addcmul(input: Value, tensor1: Value, tensor2: Value, value: Number = 1) -> Value:
    return add(input, tensor1 * tensor2, value)


def floor(input: Value) -> Value:
    """By what rounds it to a whole number: adding the least power of two that has no digits behind the point, and taking it off again."""
    whole = 2.0 ** (52 if input.recording.dtype is torch.float64 else 23)  # narrower numbers are computed in float32
    size = made(Opcode.ABS, input)
    rounded = where(size < whole, (size + whole) - whole, size)
    rounded = where(input < 0, -rounded, rounded)
    return _without_gradient(rounded - (rounded > input))


def ceil(input: Value) -> Value:
    return -floor(-input)


# --- Choices ----------------------------------------------------------------------------------------------------------


def where(condition: Value, input: Value | Number, other: Value | Number) -> Value:
    result = made(Opcode.WHERE, condition, input, other)
    if any(isinstance(each, Value) and not each.truth for each in (input, other)):
        return result
    kinds = {bool if isinstance(each, Value) else type(each) for each in (input, other)}
    if kinds == {bool}:
        return Value(result.recording, result.expression, result.shape_, truth=True)
    if float not in kinds or torch.get_default_dtype() is not result.recording.dtype:
        refuse("does not run a choice between two numbers that is of another dtype than the step")
    return result


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
        refuse("does not run logical operations on anything but comparisons")
    return value


def isnan(input: Value) -> Value:
    return made(Opcode.NE, input, input, truth=True)


def larger(input: Value, other: Value) -> Value:
    return made(Opcode.MAX, input, other)


def smaller(input: Value, other: Value) -> Value:
    return made(Opcode.MIN, input, other)


def clamp(input: Value, min: Value | Number | None = None, max: Value | Number | None = None) -> Value:
    if min is not None and max is not None:
        rule: Rule = differentiate.clamp_by_tensors if isinstance(min, Value) or isinstance(max, Value) else differentiate.clamp
        return under(rule, made(Opcode.MIN, made(Opcode.MAX, input, min), max), input, min, max)
    if min is not None:
        rule = differentiate.clamp_min_by_tensor if isinstance(min, Value) else differentiate.clamp_min
        return under(rule, made(Opcode.MAX, input, min), input, min)
    if max is not None:
        rule = differentiate.clamp_max_by_tensor if isinstance(max, Value) else differentiate.clamp_max
        return under(rule, made(Opcode.MIN, input, max), input, max)
    return input


def clamp_min(input: Value, min: Value | Number) -> Value:
    return clamp(input, min=min)


def clamp_max(input: Value, max: Value | Number) -> Value:
    return clamp(input, max=max)


# --- Activations ------------------------------------------------------------------------------------------------------


def leaky_relu(input: Value, negative_slope: Number = 0.01) -> Value:
    return under(differentiate.leaky_relu, where(input > 0, input, input * negative_slope), input, negative_slope)


def elu(input: Value, alpha: Number = 1.0) -> Value:
    return under(differentiate.elu, where(input > 0, input, made(Opcode.EXPM1, input) * alpha), input, alpha)


def selu(input: Value) -> Value:
    return elu(input, 1.6732632423543772848170429916717) * 1.0507009873554804934193349852946


def mish(input: Value) -> Value:
    return input * made(Opcode.TANH, softplus(input))


def relu6(input: Value) -> Value:
    return hardtanh(input, 0.0, 6.0)


def tanhshrink(input: Value) -> Value:
    return input - made(Opcode.TANH, input)


def softplus(input: Value, beta: Number = 1.0, threshold: Number = 20.0) -> Value:
    scaled = input * beta
    if threshold == 20:
        return made(Opcode.SOFTPLUS, scaled) / beta
    return where(scaled > threshold, input, made(Opcode.SOFTPLUS, scaled) / beta)


def logsigmoid(input: Value) -> Value:
    value = made(Opcode.MIN, input, 0) - made(Opcode.LOG1P, made(Opcode.EXP, -made(Opcode.ABS, input)))
    return under(differentiate.logsigmoid, value, input)


def softsign(input: Value) -> Value:
    return input / (made(Opcode.ABS, input) + 1)


def silu(input: Value) -> Value:
    return input * made(Opcode.SIGMOID, input)


def softshrink(input: Value, lambd: Number = 0.5) -> Value:
    return where(_within(input, lambd), input * 0, where(input > 0, input - lambd, input + lambd))


def hardshrink(input: Value, lambd: Number = 0.5) -> Value:
    return where(_within(input, lambd), 0, input)


def _within(input: Value, bound: Number) -> Value:
    return logical_and(input >= -bound, input <= bound)


def threshold(input: Value, threshold: Number, value: Number) -> Value:
    return where(input <= threshold, value, input)


def dropout(input: Value, p: Number = 0.5, training: bool = True) -> Value:
    if training and p:
        refuse("does not run random numbers other than the cell's draws")
    return input


def hardsigmoid(input: Value) -> Value:
    return under(differentiate.hardsigmoid, made(Opcode.MAX, made(Opcode.MIN, input + 3, 6), 0) / 6, input)


def hardtanh(input: Value, min_val: Number = -1.0, max_val: Number = 1.0) -> Value:
    value = made(Opcode.MIN, made(Opcode.MAX, input, min_val), max_val)
    return under(differentiate.hardtanh, value, input, min_val, max_val)


def gelu(input: Value, approximate: str = "none") -> Value:
    if approximate == "tanh":
        inner = (input + input * input * input * 0.044715) * math.sqrt(2 / math.pi)
        return input * 0.5 * (made(Opcode.TANH, inner) + 1)
    return input * 0.5 * (made(Opcode.ERF, input * math.sqrt(0.5)) + 1)


# --- What is the same numbers -----------------------------------------------------------------------------------------


def _without_gradient(input: Value) -> Value:
    return under(differentiate.detach, input)


def unchanged(input: Value) -> Value:
    return input


def to(input: Value, other: Any = None, dtype: Any = None) -> Value:
    """To the dtype that there is. A comparison also to a narrower one: it is still exact, and other numbers widen it."""
    asked, there = dtype or (other.dtype if isinstance(other, Value) else other), input.recording.dtype
    asked = there if asked is not None and asked is input.recording.said else asked
    narrower = isinstance(asked, torch.dtype) and asked.is_floating_point and torch.promote_types(asked, there) is there
    if asked is not there and not (narrower and input.truth):
        refuse(f"does not run a step that changes the dtype to {asked}")
    return Value(input.recording, input.expression, input.shape_, truth=asked is not there)


def to_float(input: Value) -> Value:
    return to(input, torch.float32)


def to_double(input: Value) -> Value:
    return to(input, torch.float64)


def unsqueeze(input: Value, dim: int) -> Value:
    axes = len(input.shape_)
    if dim in (-1, axes):
        shape: Shape = (*input.shape_, 1)
    elif dim in (0, -1 - axes) and axes == 1:
        shape = (1, *input.shape_)
    else:
        refuse("does not run a new axis other than the last, or the first of a vector")
    return Value(input.recording, input.expression, shape, input.truth)


def expand_as(input: Value, other: Value) -> Value:
    return Value(input.recording, input.expression, broadcast(input.shape_, other.shape_), input.truth)


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
    _elementwise(Opcode.SIGN): "sign sgn",
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
    floor: "floor",
    ceil: "ceil",
    lerp: "lerp",
    addcmul: "addcmul",
    addcdiv: "addcdiv",
    smaller: "minimum min",
    larger: "maximum max",
    _elementwise(Opcode.LT, 2, truth=True): "lt less",
    _elementwise(Opcode.LE, 2, truth=True): "le less_equal",
    _elementwise(Opcode.GT, 2, truth=True): "gt greater",
    _elementwise(Opcode.GE, 2, truth=True): "ge greater_equal",
    _elementwise(Opcode.EQ, 2, truth=True): "eq",
    _elementwise(Opcode.NE, 2, truth=True): "ne not_equal",
    isnan: "isnan",
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
    selu: "selu",
    mish: "mish",
    relu6: "relu6",
    tanhshrink: "tanhshrink",
    softplus: "softplus",
    logsigmoid: "log_sigmoid logsigmoid",
    softsign: "softsign",
    silu: "silu",
    hardsigmoid: "hardsigmoid",
    hardtanh: "hardtanh",
    softshrink: "softshrink",
    hardshrink: "hardshrink",
    threshold: "threshold _threshold",
    dropout: "dropout",
    gelu: "gelu",
    over_units.row_sum: "sum",
    over_units.row_mean: "mean",
    over_units.row_max: "amax",
    over_units.row_min: "amin",
    over_units.softmax: "softmax special_softmax",
    over_units.softmin: "softmin",
    over_units.log_softmax: "log_softmax special_log_softmax",
    over_units.logsumexp: "logsumexp special_logsumexp",
    over_units.norm: "norm",
    over_units.normalize: "normalize",
    over_units.layer_norm: "layer_norm",
    over_units.rms_norm: "rms_norm",
    _without_gradient: "detach",
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
