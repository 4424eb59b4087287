"""Instructions that the kernels run as one give the bits of running them one by one, whichever operation reads whichever other."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
import torch

from elman.backends import kernels
from elman.backends.program.call import kernel_of
from elman.backends.program.program import Opcode, Program
from native import required
from program_runs import states_after
from program_text import OPERANDS, read
from slow import slow

pytestmark = [required, pytest.mark.usefixtures("every_isa", "poisoned")]

EVERY = [each.name.lower() for each in Opcode if not each.over_rows and each is not Opcode.POW]
OVER_ROWS = [each.name.lower() for each in Opcode if each.over_rows]
SOME = ["add", "sub", "mul", "fma", "fnma", "neg", "tanh", "sigmoid"]  # what is fused more than once, and what goes into it
GIVEN = 5  # states that the instructions read


def _given(count: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Arrays of vectors and a part of one: in the first row zeros of both signs, infinities and NaN meet each other and numbers."""
    generator = torch.Generator().manual_seed(0)
    numbers = [torch.randn(3, 53, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)]
    special = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1.0], dtype=dtype)
    for each in numbers:
        each[0] = special[torch.randint(len(special), (53,), generator=generator)]
    return numbers


def _formula(operation: str, first: int, *inner: tuple[int, str]) -> str:
    """operation(state ...), from number ``first`` on, with values in the place of some operands."""
    operands = [f"state{(first + index) % GIVEN}" for index in range(OPERANDS[operation])]
    for at, value in inner:
        operands[at] = value
    return f"{operation}({', '.join(operands)})"


def _assert_same_bits(results: list[tuple[list[str], str]], dtype: torch.dtype) -> None:
    """Of each result, formulas of what comes before it, as ``{0}``, ``{1}`` in later ones, and its own."""
    together, apart = list[str](), list[str]()
    temps, states = 0, len(results)
    for index, (before, last) in enumerate(results):
        names = [f"temp{temps + at}" for at in range(len(before))]
        temps += len(before)
        for at, formula in enumerate(before):
            together.append(f"{names[at]} = {formula.format(*names)}")
            apart.append(together[-1])
        for lines in (together, apart):
            lines.append(f"new_state{index} = {last.format(*names)}")
        for name in names:  # read once more: it has to be somewhere
            apart.append(f"new_state{states} = copy({name})")
            together.append(f"new_state{states} = copy(state0)")
            states += 1
    states = max(states, GIVEN)
    unused = [f"new_state{index} = copy(state0)" for index in range(len([line for line in together if line.startswith("new")]), states)]
    found, expected = (
        states_after(_program([*lines, *unused], states), *_given(states, dtype))[: len(results)] for lines in (together, apart)
    )
    integer = torch.int32 if dtype is torch.float32 else torch.int64
    for result, one, other in zip(results, found, expected, strict=True):
        same = (one.view(integer) == other.view(integer)) | (one.isnan() & other.isnan())  # 0 is not -0
        assert same.all(), (result, one[~same], other[~same])


def _program(forward: list[str], states: int) -> Program:
    code = read("\n".join(forward))
    return Program(code, code, read("grad_state0 = copy(grad_new_state0)"), ((),), 0, 0, states, (), (), 0, 0, 0)


def _places(operations: list[str]) -> list[tuple[str, int]]:
    return [(operation, at) for operation in operations for at in range(OPERANDS[operation])]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two(dtype: torch.dtype) -> None:
    for inner in EVERY:
        _assert_same_bits([([_formula(inner, 0)], _formula(outer, 2, (at, "{0}"))) for outer, at in _places([*EVERY, *OVER_ROWS])], dtype)


@pytest.mark.parametrize("inner", [SOME[0], *slow(*SOME[1:])])
def test_three_in_a_row(inner: str) -> None:
    middles, outers = _places(SOME), _places([*SOME, *OVER_ROWS])
    _assert_same_bits(
        [
            ([_formula(inner, 0), _formula(middle, 3, (at, "{0}"))], _formula(outer, 1, (place, "{1}")))
            for middle, at in middles
            for outer, place in outers
        ],
        torch.float32,
    )


@pytest.mark.parametrize("outer", ["add", "sub", "mul", "fma", "fnma"])
def test_in_every_operand(outer: str) -> None:
    results = []
    for inner in itertools.product(SOME if OPERANDS[outer] == 2 else SOME[:6], repeat=OPERANDS[outer]):
        before = [_formula(operation, at) for at, operation in enumerate(inner)]
        results.append((before, _formula(outer, 0, *((at, f"{{{at}}}") for at in range(len(inner))))))
    _assert_same_bits(results, torch.float32)


STEP = """
factor0 = copy(state0)
---
carry0 = copy(state0)
temp0 = mul(carry0, state1)
carry0 = copy(state2)
new_state0 = mul(temp0, carry0)
temp0 = fma(state0, state1, state2)
temp1 = tanh(state0)
temp0 = sigmoid(temp0)
new_state1 = mul(temp0, temp1)
temp0 = mul(state0, state1)
new_state2 = mul(temp0, state2)
new_state3 = copy(temp0)
temp0 = row_mean(state3)
temp1 = mul(temp0, temp0)
temp0 = fma(temp0, 2.0, temp1)
new_state4 = row_mean_fma(state0, state1, temp0)
temp0 = neg(state0)
temp0 = sub(temp0, state1)
temp0 = sub(temp0, state2)
new_state5 = row_mean_fma(state3, -1.0, temp0)
"""


@pytest.mark.parametrize("products", [((),), ((), ())])
def test_what_is_written_again_or_read_again_is_there(products: tuple[tuple[()], ...]) -> None:
    """Where the step is one stage, and where it has two. Numbers of each row are fused among themselves, not with their row's."""
    forward = STEP if len(products) > 1 else STEP.split("---")[1]
    code, back = read(forward), read("---".join(["grad_state0 = copy(grad_new_state0)\n", ""][: len(products)]))
    program = Program(code, code, back, products, 0, 0, 6, (), (), 0, 0, 0)
    a, b, c, d, *rest = _given(6, torch.float64)
    expected = [a * b * c, torch.sigmoid(a * b + c) * torch.tanh(a), a * b * c, a * b]
    mean = d.mean(-1, keepdim=True)
    expected.append(((a * b).mean(-1, keepdim=True) + 2 * mean + mean * mean).expand_as(a))
    expected.append((-a - b - c - d).mean(-1, keepdim=True).expand_as(a))
    for one, other in zip(states_after(program, a, b, c, d, *rest), expected, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)


# By what is fused, the instructions before the last that it is made of, and the last.
FUSED = {
    "mul_fnma": (["fnma(state0, state1, state2)"], "mul({0}, state3)"),
    "mul_mul_fnma": (["mul(state0, state1)", "fnma(state2, state3, state4)"], "mul({1}, {0})"),
    "mul_sub": (["sub(state0, state1)"], "mul(state2, {0})"),
    "fma_mul": (["mul(state0, state1)"], "fma(state2, state3, {0})"),
    "fma_mul_sub": (["sub(state0, state1)", "mul({0}, state2)"], "fma(state3, state4, {1})"),
    "fnma_mul": (["mul(state0, state1)"], "fnma(state2, state3, {0})"),
    "fma_of_fnma": (["fnma(state0, state1, state2)"], "fma(state3, {0}, state4)"),
    "fma_of_sub": (["sub(state0, state1)"], "fma(state3, {0}, state4)"),
    "fma_of_mul": (["mul(state0, state1)"], "fma({0}, state2, state3)"),
    "fma_fma": (["fma(state0, state1, state2)"], "fma(state3, state4, {0})"),
    "mul_mul": (["mul(state0, state1)"], "mul(state2, {0})"),
    "mul_fma": (["fma(state0, state1, state2)"], "mul({0}, state3)"),
    "mul_tanh": (["tanh(state0)"], "mul({0}, state1)"),
    "tanh_fma": (["fma(state0, state1, state2)"], "tanh({0})"),
    "tanh_add": (["add(state0, state1)"], "tanh({0})"),
    "sigmoid_fma": (["fma(state0, state1, state2)"], "sigmoid({0})"),
    "sigmoid_fma_of_mul": (["mul(state0, state1)", "fma({0}, state2, state3)"], "sigmoid({1})"),
    "sigmoid_add": (["add(state0, state1)"], "sigmoid({0})"),
    "relu_fma": (["fma(state0, state1, state2)"], "relu({0})"),
    "where_le": (["le(state0, state1)"], "where({0}, state2, state3)"),
    "where_lt": (["lt(state0, state1)"], "where({0}, state2, state3)"),
    "sub_sub": (["sub(state0, state1)"], "sub({0}, state2)"),
    "neg_sub_sub": (["neg(state0)", "sub({0}, state1)"], "sub({1}, state2)"),
    "row_mean_fma_fma": (["fma(state0, state1, state2)"], "row_mean_fma(state3, state4, {0})"),
    "row_mean_fma_add": (["add(state0, state1)"], "row_mean_fma(state3, state4, {0})"),
    "row_mean_fma_sub_sub": (["neg(state0)", "sub({0}, state1)", "sub({1}, state2)"], "row_mean_fma(state3, -1.0, {2})"),
}


@pytest.mark.parametrize("name", FUSED)
def test_they_become_one_instruction_with_the_same_bits(name: str) -> None:
    before, last = FUSED[name]
    names = [f"temp{index}" for index in range(len(before))]
    lines = [f"temp{index} = {formula.format(*names)}" for index, formula in enumerate(before)]
    copies = [f"new_state{index} = copy(state{index})" for index in range(1, GIVEN)]
    program = _program([*lines, f"new_state0 = {last.format(*names)}", *copies], GIVEN)
    forward, training, _ = kernels._native.program_operations(kernel_of(program).handle)
    assert forward == training == [name, *["copy"] * (GIVEN - 1)]
    for dtype in (torch.float32, torch.float64):
        _assert_same_bits([FUSED[name]], dtype)


def test_these_are_all() -> None:
    table = (Path(__file__).parents[1] / "csrc" / "program" / "code.h").read_text(encoding="utf-8")
    assert re.findall(r"\bof\([\s\\]*(\w+), \w+, \d, \w+\)", table) == list(FUSED)
