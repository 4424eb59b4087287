"""Each operation that is recorded: values and gradients are torch's, at ties, borders, infinities and NaN too."""

from __future__ import annotations

import itertools
import math
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn import functional as F

from elman import Cell
from elman.backends.program.operations import OPERATIONS
from elman.backends.program.program import GIVEN_FORWARD, Role
from elman.backends.program.stand_in import NotRecordedError
from program_interpreter import run
from program_steps import Arguments, assert_same, by_program, by_torch, gradients, program

if TYPE_CHECKING:
    from collections.abc import Callable

    from elman.backends.program.program import Program

NUMBERS = (
    -math.inf,
    -700.0,
    -30.0,
    -3.0,
    -1.0,
    -0.7,
    -0.3,
    -0.0,
    0.0,
    1e-3,
    0.5,
    1.0,
    2.5,
    3.0,
    6.0,
    20.0,
    20.5,
    710.0,
    math.inf,
    math.nan,
)
PAIRS = [(a, b) for a, b in itertools.product(NUMBERS, repeat=2)]


class Operation(Cell):
    """Whose step is one operation of its inputs, or whatever a function makes of them."""

    gates = ("a", "b")
    recurrent_gates = ()
    parameters = {"w": "H", "q": ""}  # noqa: RUF012
    step_inputs = {"dt": ""}  # noqa: RUF012

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
        result = self.function(*(x.a, x.b, s.h, p.w, p.q, x.dt)[: self.function.__code__.co_argcount])
        return torch.where(result, x.a, x.b) if result.dtype is torch.bool else result


def given(a: list[float] | torch.Tensor, b: list[float] | torch.Tensor) -> Arguments:
    """Inputs with these numbers; the rest is random."""
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.as_tensor(each, dtype=torch.float64) for each in (a, b))
    a, b = (each.reshape(1, -1) if each.dim() == 1 else each for each in (a, b))
    batch, units = a.shape

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    leaves = {(Role.INPUT, 0): a, (Role.INPUT, 1): b, (Role.STATE, 0): normal(batch, units), (Role.OWN, 0): normal(units)}
    leaves |= {(Role.OWN, 1): normal(), (Role.STEP_INPUT, 0): normal(batch, 1)}
    leaves = {key: each.clone().requires_grad_() for key, each in leaves.items()}
    return Arguments(leaves, torch.zeros(0, units, dtype=torch.float64), torch.zeros(0, dtype=torch.float64))


@cache
def program_of(function: Callable[..., Any], units: int) -> Program:
    """For any number of units, or if the step asks for it, for this one."""
    try:
        return program(Operation(function))
    except NotRecordedError as error:
        if not error.asks_units:
            raise
        return program(Operation(function), units=units)


def compare(function: Callable[..., Any], numbers: Arguments) -> None:
    run = program_of(function, numbers.weight.shape[1])
    expected, results = by_torch(Operation(function), numbers), by_program(run, numbers)
    assert_same(results, expected)
    assert_same(by_program(run, numbers, training=False), expected)
    assert_same(gradients(results, numbers), gradients(expected, numbers))


# By the names that it tests, an operation of one number.
OF_ONE: dict[str, Callable[[Any], Any]] = {
    "neg": lambda a: -a,
    "negative": lambda a: torch.negative(a),
    "pos positive": lambda a: +a + a.positive(),
    "abs": lambda a: abs(a) + a.abs(),
    "absolute": lambda a: torch.absolute(a),
    "sign": lambda a: torch.sign(a) * a,
    "sgn": lambda a: torch.sgn(a) * a,
    "sqrt": lambda a: torch.sqrt(a),
    "rsqrt": lambda a: torch.rsqrt(a),
    "square": lambda a: torch.square(a),
    "reciprocal": lambda a: torch.reciprocal(a),
    "exp": lambda a: torch.exp(a),
    "log": lambda a: torch.log(a),
    "log1p": lambda a: torch.log1p(a),
    "special_log1p": lambda a: torch.special.log1p(a),
    "expm1": lambda a: torch.expm1(a),
    "special_expm1": lambda a: torch.special.expm1(a),
    "sin": lambda a: torch.sin(a),
    "cos": lambda a: torch.cos(a),
    "erf": lambda a: torch.erf(a),
    "special_erf": lambda a: torch.special.erf(a),
    "tanh": lambda a: a.tanh(),
    "sigmoid": lambda a: torch.sigmoid(a),
    "special_expit": lambda a: torch.special.expit(a),
    "relu": lambda a: F.relu(a),
    "leaky_relu": lambda a: F.leaky_relu(a, 0.1),
    "elu": lambda a: F.elu(a, alpha=1.5),
    "selu": lambda a: F.selu(a),
    "mish": lambda a: F.mish(a),
    "relu6": lambda a: F.relu6(a),
    "tanhshrink": lambda a: F.tanhshrink(a),
    "floor": lambda a: a - torch.floor(a),
    "ceil": lambda a: torch.ceil(a) * a,
    "softplus": lambda a: F.softplus(a, beta=2),
    "softplus of another threshold": lambda a: F.softplus(a, threshold=5.0),
    "log_sigmoid logsigmoid": lambda a: F.logsigmoid(a),
    "softsign": lambda a: F.softsign(a),
    "silu": lambda a: F.silu(a),
    "hardtanh": lambda a: F.hardtanh(a, -0.3, 2.5),
    "softshrink": lambda a: F.softshrink(a) + F.softshrink(a, 1.0),
    "hardshrink": lambda a: F.hardshrink(a) + F.hardshrink(a, 1.0),
    "threshold _threshold": lambda a: F.threshold(a, 1.0, -2.0) + torch.threshold(a, -0.3, 1.0),
    "dropout": lambda a: F.dropout(a, 0.3, training=False) + F.dropout(a, 0.0) * a,
    "isnan": lambda a: torch.where(torch.isnan(a), -1.0, a),
    "gelu": lambda a: F.gelu(a),
    "gelu by tanh": lambda a: F.gelu(a, approximate="tanh"),
    "clamp": lambda a: a.clamp(-1, 3),
    "clamp from below": lambda a: torch.clamp(a, min=0.5),
    "clamp from above": lambda a: torch.clamp(a, max=0.5),
    "clamp to nothing": lambda a: torch.clamp(a, 3, -1),
    "clip": lambda a: torch.clip(a, -0.7, 0.5),
    "clamp_min": lambda a: torch.clamp_min(a, -1),
    "clamp_max": lambda a: torch.clamp_max(a, -1),
    "pow": lambda a: torch.pow(a, 3) + a.pow(2),
    "add": lambda a: a + 2,
    "add a number to it": lambda a: 2 + a,
    "sub": lambda a: a - 0.1,
    "subtract it": lambda a: 0.1 - a,
    "rsub": lambda a: torch.rsub(a, 1.5, alpha=2),
    "mul": lambda a: a * 3,
    "truediv": lambda a: a / 3,
    "div": lambda a: torch.div(a, 0.5),
    "divide by it": lambda a: 3 / a,
    "full_like": lambda a: torch.full_like(a, 3.0) * a,
    "zeros_like ones_like": lambda a: torch.zeros_like(a) - torch.ones_like(a) + a,
    "clone contiguous": lambda a: a.clone().contiguous() * a,
    "detach": lambda a: a.detach() * a,
    "to": lambda a: a.to(a.dtype) + (a > 0).to(torch.float32),
    "float double": lambda a: (a > 0).float() * a + (a < 1).double(),
    "type_as": lambda a: (a > 0).type_as(a) * a,
}
# Of two.
OF_TWO: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "add alpha": lambda a, b: torch.add(a, b, alpha=-0.7),
    "sub": lambda a, b: torch.sub(a, b, alpha=2),
    "subtract": lambda a, b: torch.subtract(a, b),
    "mul": lambda a, b: a * b,
    "multiply": lambda a, b: torch.multiply(a, b),
    "div": lambda a, b: torch.div(a, b),
    "divide": lambda a, b: torch.divide(a, b),
    "true_divide": lambda a, b: a.true_divide(b),
    "truediv": lambda a, b: a / b,
    "lerp": lambda a, b: torch.lerp(a, b, 0.3),
    "addcdiv": lambda a, b: torch.addcdiv(a, a, b, value=0.7),
    "addcmul": lambda a, b: torch.addcmul(a, a, b, value=0.7),
    "minimum": lambda a, b: torch.minimum(a, b),
    "min": lambda a, b: torch.min(a, b),
    "maximum": lambda a, b: torch.maximum(a, b),
    "max": lambda a, b: torch.max(a, b),
    "clamp by a tensor": lambda a, b: torch.clamp(a, min=b),
    "clamp by a tensor from above": lambda a, b: torch.clamp(a, max=b),
    "clamp by a constant": lambda a, b: torch.clamp(a, min=torch.tensor(0.0)) + torch.clamp_max(b, torch.ones_like(b)),
    "clamp between constants": lambda a, b: (
        torch.clamp(a, torch.zeros_like(a), torch.ones_like(a)) + torch.clamp(b, torch.tensor(1.0), torch.tensor(0.0))
    ),
    "clamp between tensors": lambda a, b: torch.clamp(a, b - 0.5, b) + torch.clamp(b, a * a, a) + torch.clamp(a, b, b),
    "where": lambda a, b: torch.where(a > b, a * a, b),
    "where with a number": lambda a, b: torch.where(a > b, 2.0, b),
    "where as a method": lambda a, b: (a * a).where(a > b, b) + b.where(condition=b > 0, other=2.0),
    "where hides": lambda a, b: torch.where(b > 0, torch.sqrt(a), b),
    "lt": lambda a, b: a < b,
    "less": lambda a, b: torch.less(a, b),
    "le": lambda a, b: a <= b,
    "less_equal": lambda a, b: torch.less_equal(a, b),
    "gt": lambda a, b: a > b,
    "greater": lambda a, b: torch.greater(a, b),
    "ge": lambda a, b: a >= b,
    "greater_equal": lambda a, b: torch.greater_equal(a, b),
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "not_equal": lambda a, b: torch.not_equal(a, b),
    "logical_and": lambda a, b: torch.logical_and(a > 0, b > 0),
    "bitwise_and and": lambda a, b: torch.bitwise_and(a > 0, b > 0) & (a < 2),
    "logical_or": lambda a, b: torch.logical_or(a > 0, b > 0),
    "bitwise_or or": lambda a, b: torch.bitwise_or(a > 0, b > 0) | (a < b),
    "logical_xor": lambda a, b: torch.logical_xor(a > 0, b > 0),
    "bitwise_xor xor": lambda a, b: torch.bitwise_xor(a > 0, b > 0) ^ (a < b),
    "logical_not": lambda a, b: torch.logical_not(a > b),
    "bitwise_not invert": lambda a, b: ~(a > b) & torch.bitwise_not(a < 0),
    "a number shared": lambda a, b: torch.tensor(2.0) * a + torch.tensor([0.1], dtype=torch.float64) / b,
}
# Over the units, with what is one number for each sequence, for all units, or for all.
ROWS: dict[str, Callable[..., Any]] = {
    "sum": lambda a, b: a * b.sum(-1, keepdim=True),
    "sum of all that there is": lambda a, b, h, w: a * w.sum() + w.sum(0) * b + torch.sum(w, dim=-1),
    "sum of one number": lambda a, b, h, w, q, dt: a * dt.sum(-1, keepdim=True) * q.sum() + dt.mean(1, keepdim=True),
    "softmax of one number": lambda a, b, h, w, q, dt: (
        a * dt.softmax(-1) + q.softmax(-1) + F.layer_norm(dt, (1,)) * b + F.rms_norm(dt, (1,))
    ),
    "mean": lambda a, b: a * torch.mean(b * b, dim=1, keepdim=True),
    "mean unsqueeze": lambda a, b: a * b.mean(-1).unsqueeze(-1) + b.mean((-1,)).unsqueeze(1),
    "new axes": lambda a, b, h, w, q, dt: (
        a[:] * b.mean(-1)[:, None] + w[None] * b[...] + w.unsqueeze(0)[:, :] + a[:, :] * q[None, None] + dt[..., :] * b.sum(-1)[..., None]
    ),
    "new axes at either side": lambda a, b, h, w, q, dt: (
        a[..., :, :] * w[None, ..., :] + b * w.unsqueeze(-2) + w[..., None, :] + b.sum(-1)[..., :, None] * a + q[()] * a
    ),
    "a vector as a row": lambda a, b, h, w: a * w[None].sum(-1, keepdim=True) + F.layer_norm(w[None, :], a.shape[-1:]),
    "mean of the same": lambda a, b: a * b.mean(-1, keepdim=True).expand_as(a).mean(-1, keepdim=True),
    "sum of a constant": lambda a, b: a * torch.full_like(b, 0.5).sum(-1, keepdim=True),
    "amax": lambda a, b: a * b.amax(-1, keepdim=True),
    "amin": lambda a, b: a * torch.amin(b, -1, keepdim=True),
    "softmax": lambda a, b: b * torch.softmax(a, dim=-1) + F.softmax(a * b, 1),
    "special_softmax": lambda a, b, h, w: b * torch.special.softmax(a, -1) + w.softmax(0),
    "softmin": lambda a, b: b * F.softmin(a, dim=-1),
    "log_softmax": lambda a, b: b * torch.log_softmax(a, dim=-1) + F.log_softmax(a * b, 1),
    "special_log_softmax": lambda a, b, h, w: b * torch.special.log_softmax(a, -1) + w.log_softmax(0),
    "logsumexp": lambda a, b, h, w: b * a.logsumexp(-1, keepdim=True) + torch.logsumexp(a * b, 1)[:, None] + w.logsumexp(0) * a,
    "special_logsumexp": lambda a, b: b * torch.special.logsumexp(a, -1, keepdim=True),
    "norm": lambda a, b, h, w: b * a.norm(dim=-1, keepdim=True) + (a * b).norm(p=2, dim=1)[:, None] + torch.norm(w) * a,
    "normalize": lambda a, b, h, w: b * F.normalize(a, dim=-1) + F.normalize(a * b, eps=0.5) + a * F.normalize(w, dim=0),
    "layer_norm": lambda a, b, h, w: F.layer_norm(a, a.shape[-1:], w, w * w) + F.layer_norm(b, (a.size(-1),), eps=0.1),
    "rms_norm": lambda a, b, h, w: F.rms_norm(a, a.shape[-1:], w, 1e-3) + F.rms_norm(b, w.shape),
    "expand_as": lambda a, b, h, w, q, dt: q.expand_as(a) * w + dt.expand_as(b) * b,
    "broadcasts": lambda a, b, h, w, q, dt: torch.exp(w * q) * a + torch.tanh(dt) * w + dt * q * b + torch.sigmoid(q),
}
LEFT_OUT = {"hardsigmoid"}  # below: the gradient of torch's own is only right to 8 digits


@pytest.mark.parametrize("name", OF_ONE)
def test_an_operation_of_one_number(name: str) -> None:
    function = OF_ONE[name]
    for number in NUMBERS:  # each alone: NaN in one place must not hide another
        compare(function, given([number], [0.0]))


@pytest.mark.parametrize("name", OF_TWO)
def test_an_operation_of_two_numbers(name: str) -> None:
    function = OF_TWO[name]
    a, b = (list(numbers) for numbers in zip(*PAIRS, strict=True))
    compare(function, given(a, b))


@pytest.mark.parametrize("name", ROWS)
def test_an_operation_over_the_units(name: str) -> None:
    generator = torch.Generator().manual_seed(2)
    for units in (1, 2, 5):
        a, b = torch.randn(2, 3, units, generator=generator, dtype=torch.float64)
        compare(ROWS[name], given(a, b))
    ties = torch.tensor([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    compare(ROWS[name], given(ties, ties.flip(1)))


@pytest.mark.parametrize("name", ["amax", "amin", "softmax", "softmin", "log_softmax", "logsumexp", "norm", "normalize", "sum", "mean"])
@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_infinities_and_nan_over_the_units(name: str, number: float) -> None:
    row = torch.tensor([[1.0, number, -2.0], [0.5, 1.0, 2.0]], dtype=torch.float64)
    compare(ROWS[name], given(row, row))


def test_hardsigmoid() -> None:
    """Whose gradient in torch is a sixth in float32, whatever the dtype."""
    for number in NUMBERS:
        numbers = given([number], [0.0])
        cell = Operation(lambda a: F.hardsigmoid(a))
        expected, results = by_torch(cell, numbers), by_program(program(cell), numbers)
        assert_same(results, expected)
        assert_same(gradients(results, numbers), gradients(expected, numbers), 1e-8)


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 4, 7, 9, -1, -2, -3, -6, 1.5, 0.3, 0.5, -0.5])
def test_a_power(exponent: float) -> None:
    def power(a: Any) -> Any:
        return a**exponent

    for number in NUMBERS:
        compare(power, given([number], [0.0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_number_is_rounded_down_whatever_its_size(dtype: torch.dtype) -> None:
    """Written with additions that round, in the dtype that runs."""
    exponents = torch.arange(-3, 60, dtype=dtype)
    special = torch.tensor([0.0, math.inf, math.nan], dtype=dtype)
    sizes = torch.cat([special, *(2**exponents * factor for factor in (0.5, 0.99, 1, 1.01, 1.5, 1.75))])
    numbers = torch.cat([sizes, -sizes, torch.nextafter(sizes, sizes + 1), torch.nextafter(-sizes, sizes)])
    code = program(Operation(lambda a: torch.floor(a)), dtype=dtype).forward
    found = run(code, {(Role.INPUT, 0): numbers.unsqueeze(0)}, GIVEN_FORWARD, lambda stage, arrays: None)
    torch.testing.assert_close(found[Role.NEW_STATE, 0][0], torch.floor(numbers), rtol=0, atol=0, equal_nan=True)


def test_each_operation_of_the_list_is_tested() -> None:
    tested = {name for names in (*OF_ONE, *OF_TWO, *ROWS) for name in names.split()}
    assert set(OPERATIONS) - tested == LEFT_OUT
