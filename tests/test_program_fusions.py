"""Instructions that the kernels run as one give the bits of running them one by one, whichever operation reads whichever other."""

from __future__ import annotations

import itertools

import pytest
import torch

from elman.backends.program.program import Opcode, Program
from native import required
from program_runs import states_after
from program_text import OPERANDS, read

pytestmark = [required, pytest.mark.usefixtures("every_isa", "poisoned")]

EVERY = [each.name.lower() for each in Opcode if not each.over_rows and each is not Opcode.POW]
OVER_ROWS = [each.name.lower() for each in Opcode if each.over_rows]
SOME = ["add", "sub", "mul", "fma", "fnma", "neg", "tanh", "sigmoid"]  # what is fused more than once, and what goes into it
GIVEN = 5  # states that the instructions read


def _given(count: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Arrays of a vector, or some, and a part of one, with zeros of both signs, an infinity and a NaN among the numbers."""
    generator = torch.Generator().manual_seed(0)
    numbers = [torch.randn(3, 21, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)]
    for index, special in enumerate((0.0, -0.0, float("inf"), float("nan"))):
        numbers[index % min(count, GIVEN)][0, index] = special
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
    for (before, last), one, other in zip(results, found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True, msg=lambda text, what=(before, last): f"{what}: {text}")


def _program(forward: list[str], states: int) -> Program:
    code = read("\n".join(forward))
    return Program(code, code, read("grad_state0 = copy(grad_new_state0)"), ((),), 0, 0, states, (), (), 0, 0, 0)


def _places(operations: list[str]) -> list[tuple[str, int]]:
    return [(operation, at) for operation in operations for at in range(OPERANDS[operation])]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two(dtype: torch.dtype) -> None:
    for inner in EVERY:
        _assert_same_bits([([_formula(inner, 0)], _formula(outer, 2, (at, "{0}"))) for outer, at in _places([*EVERY, *OVER_ROWS])], dtype)


@pytest.mark.parametrize("inner", SOME)
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
temp0 = add(temp0, temp0)
new_state4 = row_mean_fma(state0, state1, temp0)
temp0 = neg(state0)
temp0 = sub(temp0, state1)
temp0 = sub(temp0, state2)
new_state5 = row_mean_fma(state3, -1.0, temp0)
"""


@pytest.mark.parametrize("products", [((),), ((), ())])
def test_what_is_written_again_or_read_again_is_there(products: tuple[tuple[()], ...]) -> None:
    """Where the step is one stage, whose phases are apart, and where it has two."""
    forward = STEP if len(products) > 1 else STEP.split("---")[1]
    code, back = read(forward), read("---".join(["grad_state0 = copy(grad_new_state0)\n", ""][: len(products)]))
    program = Program(code, code, back, products, 0, 0, 6, (), (), 0, 0, 0)
    a, b, c, d, *rest = _given(6, torch.float64)
    expected = [a * b * c, torch.sigmoid(a * b + c) * torch.tanh(a), a * b * c, a * b]
    expected.append(((a * b).mean(-1, keepdim=True) + 2 * d.mean(-1, keepdim=True)).expand_as(a))
    expected.append((-a - b - c - d).mean(-1, keepdim=True).expand_as(a))
    for one, other in zip(states_after(program, a, b, c, d, *rest), expected, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)
