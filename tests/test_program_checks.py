"""A program that cannot be run, and operands that do not fit one, are errors: never a crash, nothing written."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from elman.backends import kernels
from elman.backends.program.call import kernel_of
from native import required
from program_text import GRU2014, LSTM, read

if TYPE_CHECKING:
    from collections.abc import Callable

    from elman.backends.program.program import Code, Program

pytestmark = [required, pytest.mark.usefixtures("poisoned")]

GIVEN = """
new_state0 = add(input0, recurrent0)
"""
BACK = """
grad_recurrent0 = copy(grad_new_state0)
grad_input0 = copy(grad_recurrent0)
"""
TANH = replace(
    LSTM, forward=read(GIVEN), training=read(GIVEN), backward=read(BACK), products=((0,),), inputs=1, recurrents=1, states=1, saved=0
)


def _made(program: Program) -> object:
    return kernel_of(program).handle


def _with(code: Code, **changes: Any) -> Program:
    return replace(TANH, forward=replace(code, **changes))


WRONG: dict[str, Callable[[], Program]] = {
    "known operations": lambda: _with(read(GIVEN), instructions=((99, 0, 1, 2, -1),)),
    "operands that it lists": lambda: _with(read(GIVEN), instructions=((1, 0, 1, 77, -1),)),
    "as many operands as they take": lambda: _with(read(GIVEN), instructions=((1, 0, 1, 2, 1),)),
    "known roles": lambda: _with(read(GIVEN), operands=((5, 0), (2, 0), (99, 0))),
    "lists each operand once": lambda: _with(read(GIVEN), operands=((5, 0), (2, 0), (2, 0))),
    "has its operands": lambda: _with(read(GIVEN), operands=((5, 0), (2, 7), (3, 0))),
    "stages follow one another": lambda: _with(read(GIVEN), stages=((1, 1),)),
    "stages hold all": lambda: _with(read(GIVEN), stages=((0, 0),)),
    "of 1 stages": lambda: _with(read(GIVEN), stages=((0, 1), (1, 1))),
    "number of temps": lambda: _with(read(GIVEN), temps=-1),
    "writes what it reads": lambda: replace(TANH, forward=read("temp0 = copy(temp1)\nnew_state0 = copy(temp1)")),
    "writes new_state0, got": lambda: replace(TANH, forward=read("temp0 = copy(input0)")),
    "writes new_state0 once": lambda: replace(TANH, forward=read("new_state0 = copy(input0)\nnew_state0 = copy(input0)")),
    "writes what it may, got input0": lambda: replace(TANH, forward=read("input0 = copy(state0)\nnew_state0 = copy(input0)")),
    "writes what it may, got saved0": lambda: replace(TANH, saved=1, forward=read("saved0 = copy(input0)\nnew_state0 = copy(input0)")),
    "writes saved0, got": lambda: replace(TANH, saved=1),
    "got recurrent0 in stage 0": lambda: replace(TANH, backward=read("grad_input0 = copy(recurrent0)")),
    "got recurrent2 in stage 0": lambda: replace(GRU2014, forward=read("factor0 = copy(recurrent2)\n---\nnew_state0 = copy(state0)")),
    "got factor0 in stage 1": lambda: replace(
        GRU2014, forward=read("temp0 = copy(state0)\n---\nfactor0 = copy(state0)\nnew_state0 = copy(state0)")
    ),
    "got grad_factor0 in stage 0": lambda: replace(GRU2014, backward=read("temp0 = copy(grad_factor0)\n---\ngrad_state0 = copy(temp0)")),
    "got grad_recurrent2 in stage 1": lambda: replace(GRU2014, backward=read("temp0 = copy(state0)\n---\ngrad_recurrent2 = copy(state0)")),
    "got temp0 in stage 1": lambda: replace(
        GRU2014, forward=read("temp0 = copy(state0)\nfactor0 = copy(state0)\n---\nnew_state0 = copy(temp0)")
    ),
    "have one product": lambda: replace(TANH, products=((0, 0),)),
    "a product for each": lambda: replace(TANH, products=((),)),
    "which gates h": lambda: replace(TANH, products=()),
    "of at least one state": lambda: replace(TANH, states=0, forward=read("temp0 = copy(input0)")),
    "of up to 4096": lambda: replace(TANH, inputs=-1),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_program_that_cannot_be_run_is_an_error(what: str) -> None:
    with pytest.raises(ValueError, match="expected a program .*" + what):
        _made(WRONG[what]())


def _fuzzed(code: Code, rng: random.Random) -> Code:
    """Some numbers of it changed."""
    instructions = [list(each) for each in code.instructions]
    operands = [list(each) for each in code.operands]
    stages = [list(each) for each in code.stages]
    for _ in range(rng.randint(1, 3)):
        where = rng.choice([instructions, instructions, operands, stages])
        row = rng.choice(where)
        row[rng.randrange(len(row))] = rng.choice([-1, 0, 1, 2, 3, 5, 9, 12, 17, 20, 35, 2**31 - 1, -(2**31)])
    as_tuples = (tuple(map(tuple, each)) for each in (instructions, operands, stages))
    return replace(code, **dict(zip(("instructions", "operands", "stages"), as_tuples, strict=True)))


def test_whatever_a_program_says_it_runs_or_is_refused() -> None:
    """What is accepted runs forward and backward, and writes nothing but its results."""
    rng, ran = random.Random(0), 0
    for _ in range(4000):
        program = rng.choice([LSTM, GRU2014, TANH])
        name = rng.choice(["forward", "training", "backward"])
        program = replace(program, **{name: _fuzzed(getattr(program, name), rng)})
        try:
            handle = _made(program)
        except ValueError:
            continue
        ran += 1
        _run(handle, program)
    assert ran > 50


def _run(handle: Any, program: Program, **changes: Any) -> None:
    T, B, I, H = 3, 2, 4, 5  # noqa: E741
    what = ("", I, H, 0, 1, 1, True, False, 0, 0)
    params = [torch.randn(n * H, width) for n, width in ((program.inputs, I), (program.recurrents, H))]
    params += [torch.randn(n * H) for n in (program.inputs, program.recurrents)]
    operands: dict[str, Any] = {
        "what": what,
        "params": params,
        "x": torch.randn(T, B, I),
        "initial": None,
        "fresh": None,
        "lengths": None,
        "reset": None,
        "step_inputs": (),
        "draws": (),
        "batch_first": False,
        "threads": 1,
    } | changes
    first = tuple(operands.values())
    output, finals, hidden, kept = kernels._native.program_forward(handle, *first, True, False)
    needs = (True,) * (1 + len(operands["params"]))
    kernels._native.program_backward(handle, *first, output, hidden, kept, output, None, finals, None, False, needs)


OPERANDS: dict[str, tuple[dict[str, Any], str]] = {
    "too few parameters": ({"params": []}, "expected 4 parameters, got 0"),
    "a parameter of another shape": ({"params": [torch.zeros(20, 5), *[torch.zeros(20, 5)], torch.zeros(20), torch.zeros(20)]}, "of shape"),
    "x of another width": ({"x": torch.zeros(3, 2, 9)}, "expected x of shape"),
    "x of another dtype": ({"x": torch.zeros(3, 2, 4, dtype=torch.int64)}, "expected x of float32 or float64"),
    "x without steps": ({"x": torch.zeros(0, 2, 4)}, "at least one step"),
    "another number of states": ({"initial": [torch.zeros(1, 2, 5)]}, "one tensor for each of 2 states"),
    "a state of another shape": ({"initial": [torch.zeros(1, 2, 5), torch.zeros(1, 2, 6)]}, "expected initial state 1 of shape"),
    "a state of another dtype": ({"initial": [torch.zeros(1, 2, 5).double()] * 2}, "float32"),
    "a fresh state of another shape": ({"fresh": [torch.zeros(1, 4)] * 2}, "expected fresh state 0 of shape"),
    "lengths beyond x": ({"lengths": torch.tensor([4, 1])}, "lengths from 0 to 3"),
    "a reset of another shape": ({"reset": torch.zeros(2, 2, dtype=torch.bool)}, "expected reset of shape"),
    "step inputs that are not declared": ({"step_inputs": (torch.zeros(3, 2),)}, "expected 0 step inputs, got 1"),
    "draws that are not declared": ({"draws": (torch.zeros(1, 3, 2, 5),)}, "expected 0 draws, got 1"),
    "no thread": ({"threads": 0}, "threads must be at least 1"),
    "a stack of other entries": ({"what": (1, 2)}, "told by 10 entries"),
    "no units": ({"what": ("", 4, 0, 0, 1, 1, True, False, 0, 0)}, "sizes must be"),
    "three directions": ({"what": ("", 4, 5, 0, 1, 3, True, False, 0, 0)}, "sizes must be"),
    "a projection": ({"what": ("", 4, 5, 2, 1, 1, True, False, 0, 0)}, "not projected"),
    "huge sizes": ({"what": ("", 2**40, 2**40, 0, 1, 1, True, False, 0, 0)}, "expected"),
    "sizes whose product no integer holds": (
        {"what": ("", 2**24, 2**40, 0, 1, 1, True, False, 0, 0), "x": torch.zeros(1).expand(1, 1, 2**24)},
        "allocate|expected",
    ),
    "a size beyond all": ({"what": ("", 4, 2**41, 0, 1, 1, True, False, 0, 0)}, "too large"),
}


@pytest.mark.parametrize("what", OPERANDS)
def test_operands_that_do_not_fit_are_errors(what: str) -> None:
    changes, message = OPERANDS[what]
    with pytest.raises((RuntimeError, ValueError), match=message):
        _run(kernel_of(LSTM).handle, LSTM, **changes)


def test_gradients_that_do_not_fit_are_errors() -> None:
    first = (("", 4, 5, 0, 1, 1, True, False, 0, 0), [torch.randn(20, n) for n in (4, 5)] + [torch.randn(20)] * 2, torch.randn(3, 2, 4))
    first = (*first, None, None, None, None, (), (), False, 1)
    handle = kernel_of(LSTM).handle
    output, _, _, kept = kernels._native.program_forward(handle, *first, True, False)
    needs = (True,) * 5
    for arguments, message in (
        ((output, None, None, output, None, None, None, False, needs), "what forward kept, got none"),
        ((output, None, kept[1:], output, None, None, None, False, needs), "expected saved of shape"),
        ((output, None, kept, output[1:], None, None, None, False, needs), "expected output's gradient of shape"),
        ((output, None, kept, output, None, [None], None, False, needs), "one tensor for each of 2 states"),
        ((output, None, kept, output, None, None, [None], False, needs), None),
        ((output, None, kept, output, None, None, None, False, needs[1:]), "needs_grad for 5 operands, got 4"),
        ((output[1:], None, kept, output, None, None, None, False, needs), "expected output of shape"),
    ):
        if message is None:
            kernels._native.program_backward(handle, *first, *arguments)
            continue
        with pytest.raises(RuntimeError, match=message):
            kernels._native.program_backward(handle, *first, *arguments)


LENGTHS = [3, 1, 2, 0, 3, 3, 1, 2, 3]


@pytest.mark.parametrize(
    ("lengths", "told"),
    [(lengths, told) for lengths in (None, LENGTHS) for told in (0.0, -1.0, 1.5, 10.0, 4e9, float("nan"), float("inf"))] + [(LENGTHS, 2.0)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_forward_kept_must_lie_as_forward_tells(lengths: list[int] | None, told: float, dtype: torch.dtype) -> None:
    """Nine sequences lie in one to nine parts, or in one if they have different lengths."""
    params = [torch.randn(20, n, dtype=dtype) for n in (4, 5)] + [torch.randn(20, dtype=dtype)] * 2
    spans = None if lengths is None else torch.tensor(lengths)
    sizes = ("", 4, 5, 0, 1, 2, True, False, 0, 0)
    first = (sizes, [*params, *params], torch.randn(3, 9, 4, dtype=dtype), None, None, spans, None, (), (), False, 2)
    handle = kernel_of(LSTM).handle
    output, _, _, kept = kernels._native.program_forward(handle, *first, True, False)
    place = -64 // kept.element_size()
    arguments = (output, None, kept, output, None, None, None, False, (True,) * 9)
    assert kept[place] == 1
    expected = kernels._native.program_backward(handle, *first, *arguments)
    kept[place] = told
    with pytest.raises(RuntimeError, match="expected what forward kept of this call"):
        kernels._native.program_backward(handle, *first, *arguments)
    kept[place] = 1
    assert all(map(torch.equal, kernels._native.program_backward(handle, *first, *arguments), expected))


def test_what_is_written_must_be_apart_from_what_is_read() -> None:
    x = torch.randn(3, 2, 5)
    first = (
        ("", 5, 5, 0, 1, 1, True, False, 0, 0),
        [torch.randn(20, 5)] * 2 + [torch.randn(20)] * 2,
        x,
        None,
        None,
        None,
        None,
        (),
        (),
        False,
        1,
    )
    with pytest.raises(RuntimeError, match="apart from x"):
        kernels._native.program_forward(kernel_of(LSTM).handle, *first, False, False, output=x)
