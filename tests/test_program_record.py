"""Recording: what is in the list becomes a program, what is not is refused with a sentence that names the operation and the line."""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from elman import Cell
from elman.backends.program.stand_in import NotRecordedError, Value
from program_steps import arguments, assert_same, by_program, by_torch, gradients, program

if TYPE_CHECKING:
    from collections.abc import Callable


class Step(Cell):
    """Whose step is a function."""

    gates = ("a", "b")
    states = ("h",)
    parameters = {"w": "H", "q": ""}  # noqa: RUF012

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def step(self, x: Any, r: Any, s: Any, p: Any) -> Any:
        return self.function(x, r, s, p)


class StraightThrough(torch.autograd.Function):
    """A jump with the gradient of a line."""

    @staticmethod
    def forward(ctx: Any, value: Any) -> Any:
        return torch.sign(value)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient


class Reversed(StraightThrough):
    """The same numbers, with another gradient."""

    @staticmethod
    def forward(ctx: Any, value: Any) -> Any:
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return -gradient


class InTwoParts(StraightThrough):
    """What a gradient needs is kept apart."""

    @staticmethod
    def forward(value: Any) -> Any:  # type: ignore[override]
        return torch.sign(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...


def _without_gradient(x: Any, r: Any, s: Any, p: Any) -> Any:
    with torch.no_grad():
        return x.a * torch.tanh(x.b)


def _in_bfloat16(x: Any, r: Any, s: Any, p: Any) -> Any:
    with torch.autocast("cpu", torch.bfloat16):
        return x.a * torch.tanh(x.b)


def _without_end(x: Any, r: Any, s: Any, p: Any) -> Any:
    for _ in range(10_000):
        x.a = torch.tanh(x.a) + x.b
    return x.a


def _with_a_way_out(x: Any, r: Any, s: Any, p: Any) -> Any:
    try:
        return torch.cumsum(x.a, -1)
    except Exception:
        return x.b


def _with_any_way_out(x: Any, r: Any, s: Any, p: Any) -> Any:
    try:
        return torch.cumsum(x.a, -1)
    except:  # noqa: E722
        return x.b


def _branch(x: Any, r: Any, s: Any, p: Any) -> Any:
    return x.a if x.a.sum() > 2 else x.b


class Wordless:
    def __str__(self) -> str:
        raise ValueError("no words")


def _raises(words: object) -> Callable[..., Any]:
    def step(x: Any, r: Any, s: Any, p: Any) -> Any:
        x.a.shape  # noqa: B018 - that it was asked for is not what is wrong
        raise TypeError(words) if isinstance(x.a, Value) else AssertionError

    return step


REFUSED: dict[str, tuple[Callable[..., Any], str]] = {
    "an operation": (lambda x, r, s, p: torch.cumsum(x.a, -1), "does not run the operation cumsum"),
    "a method": (lambda x, r, s, p: x.a.cumsum(-1), "does not run the operation cumsum"),
    "an operation of several": (lambda x, r, s, p: torch.stack([x.a, x.b]).sum(0), "does not run the operation stack"),
    "a function of torch.nn": (lambda x, r, s, p: torch.nn.functional.celu(x.a), "does not run the operation celu"),
    "dropout": (lambda x, r, s, p: torch.nn.functional.dropout(x.a), "does not run random numbers other than the cell's draws"),
    "another norm": (lambda x, r, s, p: x.a.norm(p=1, dim=-1, keepdim=True) * x.b, "does not run a norm other than the Euclidean"),
    "a random number": (lambda x, r, s, p: torch.rand_like(x.a), "does not run the operation rand_like"),
    "a branch": (_branch, "does not run an operation over the batch"),
    "a truth": (lambda x, r, s, p: x.a if p.q > 0 else x.b, "does not run a step that depends on the values of its tensors"),
    "a number": (lambda x, r, s, p: x.a * float(p.q), "does not run a step that depends on the values of its tensors"),
    "an item": (lambda x, r, s, p: x.a * p.q.item(), "does not run the operation item"),
    "a part": (lambda x, r, s, p: x.a[:, :1] * x.b, "does not run indexing of tensors"),
    "a part by a number": (lambda x, r, s, p: x.a[0], "does not run indexing of tensors"),
    "a part by a list": (lambda x, r, s, p: x.a[:, [1, 0, 2, 3]], "does not run indexing of tensors"),
    "a part by a comparison": (lambda x, r, s, p: x.a[x.a > 0], "does not run indexing of tensors"),
    "a part by a truth": (lambda x, r, s, p: x.a[True], "does not run indexing of tensors"),
    "an iteration": (lambda x, r, s, p: next(iter(x.a)), "does not run indexing of tensors"),
    "a size": (lambda x, r, s, p: x.a / x.a.shape[-1], "does not run a step that computes with the size H"),
    "a size's root": (lambda x, r, s, p: x.a * x.a.size(0) ** 0.5, "does not run a step that computes with the size B"),
    "a length": (lambda x, r, s, p: x.a * len(x.a), "does not run a step that computes with the size B"),
    "a vector's length": (lambda x, r, s, p: x.a * len(p.w), "does not run a step that computes with the size H"),
    "a number's length": (lambda x, r, s, p: x.a * len(p.q), "does not run len() of a number"),
    "a size given": (
        lambda x, r, s, p: x.a * torch.linspace(0, 1, x.a.shape[-1]),
        "does not run a step that makes a tensor of a given size",
    ),
    "sizes given": (lambda x, r, s, p: x.a * torch.ones(x.a.shape), "does not run a step that makes a tensor of a given size"),
    "sizes given by place": (
        lambda x, r, s, p: x.a * torch.zeros(x.a.shape[0], 1),
        "does not run a step that makes a tensor of a given size",
    ),
    "a size given, in words of one's own": (_raises("Size of things"), "does not run a step with TypeError (Size of things)"),
    "an error of many words": (_raises("word " * 50), f"does not run a step with TypeError ({'word ' * 20}...)"),
    "an error of no words": (_raises(Wordless()), "does not run a step with TypeError"),
    "a size compared": (lambda x, r, s, p: x.a if x.a.shape[1] == 4 else x.b, "does not run a step that computes with the size H"),
    "a function of NumPy": (lambda x, r, s, p: np.tanh(x.a), "does not run a step with TypeError ("),
    "an attribute set": (lambda x, r, s, p: setattr(x.a, "grad", None), "does not run a step with FrozenInstanceError ("),
    "a matrix": (lambda x, r, s, p: x.a @ x.b, "does not run matrix products other than r(...)"),
    "a remainder": (lambda x, r, s, p: x.a % 1, "does not run rounding division"),
    "a rounding division": (lambda x, r, s, p: torch.div(x.a, 2, rounding_mode="floor"), "does not run rounding division"),
    "in place": (lambda x, r, s, p: x.a.add_(1), "does not run an operation in place (add_)"),
    "in place by an option": (lambda x, r, s, p: torch.nn.functional.relu(x.a, inplace=True), "does not run relu in place"),
    "a tensor of its own": (
        lambda x, r, s, p: x.a * torch.ones(4),
        "does not run a step with a tensor from outside that has more than one",
    ),
    "a parameter of its own": (
        lambda x, r, s, p: x.a * torch.ones((), requires_grad=True),
        "does not run a step with a tensor from outside",
    ),
    "over the batch": (lambda x, r, s, p: x.a - x.a.mean(0), "does not run an operation over the batch"),
    "over all": (lambda x, r, s, p: x.a - x.a.mean(), "does not run an operation over the batch"),
    "shapes": (lambda x, r, s, p: x.a * x.a.sum(-1), "does not run an operation on tensors of shape (B,) and (B, H)"),
    "an outer product": (
        lambda x, r, s, p: (x.a[..., None] * p.w).sum(-1),
        "does not run an operation on tensors of shape (H,) and (B, H, 1)",
    ),
    "an outer product of a vector": (
        lambda x, r, s, p: x.a + (p.w[:, None] * p.w[None]).sum(-1),
        "does not run an operation on tensors of shape (1, H) and (H, 1)",
    ),
    "an outer product of the batch": (
        lambda x, r, s, p: (x.a.sum(-1)[:, None, None] * x.a).sum(-1),
        "does not run an operation on tensors of shape (B, H) and (B, 1, 1)",
    ),
    "an outer product that nothing reads": (
        lambda x, r, s, p: torch.where(x.a.abs() > 9, (x.a[..., None] * p.w).sum(-1), x.b),
        "does not run an operation on tensors of shape (H,) and (B, H, 1)",
    ),
    "a power of a tensor": (lambda x, r, s, p: x.a**x.b, "does not run a power whose exponent is not a number"),
    "a power of a number": (lambda x, r, s, p: 2**x.b, "does not run a power whose exponent is not a number"),
    "another dtype": (lambda x, r, s, p: x.a.to(torch.float16), "does not run a step that changes the dtype to torch.float16"),
    "an argument": (lambda x, r, s, p: x.a.max(dim=-1), "does not run max with these arguments"),
    "an argument of torch": (lambda x, r, s, p: torch.sum(x.a, -1, dtype=torch.float32), "does not run sum with these arguments"),
    "a logical operation": (lambda x, r, s, p: x.a & x.b, "does not run logical operations on anything but comparisons"),
    "a narrow factor": (lambda x, r, s, p: r("a", p.w), "does not run r('a', v) with a v of a shape other than (B, H)"),
    "a complex number": (lambda x, r, s, p: x.a * 1j, "does not run mul with these arguments"),
    "too many": (_without_end, "does not run a step of more than 2048 operations"),
    "a way out": (_with_a_way_out, "does not run the operation cumsum"),
    "a way out of everything": (_with_any_way_out, "does not run the operation cumsum"),
    "a copy": (lambda x, r, s, p: copy.deepcopy(x.a), "does not run a copy other than clone()"),
    "no gradient": (_without_gradient, "does not run a step that turns gradients off (v.detach() does)"),
    "autocast": (_in_bfloat16, "does not run a step that turns autocast on"),
    "a gradient of its own": (lambda x, r, s, p: torch.tanh(Reversed.apply(x.a)) * x.b, "does not run the gradient of Reversed"),
    "a tensor's type": (
        lambda x, r, s, p: torch.tanh(x.a) if isinstance(x.a, torch.Tensor) else x.a,
        "does not run a step that does something else when it is recorded",
    ),
    "what tensors of three units cannot do": (
        lambda x, r, s, p: x.a[:, 5:6] - x.a[:, 5] if isinstance(x.a, torch.Tensor) else x.a,
        "does not run a step that raises IndexError with another H",
    ),
    "truths added": (lambda x, r, s, p: x.b * ((x.a > 0) + (x.b > 0)), "does not run add of comparisons alone (c.to(v.dtype) makes"),
    "a truth scaled": (lambda x, r, s, p: x.b * (0.3 * (x.a > 0)), "does not run mul of comparisons alone"),
    "a truth in float32 scaled": (lambda x, r, s, p: x.b * (0.3 * (x.a > 0).float()), "does not run mul of comparisons alone"),
    "truths counted": (lambda x, r, s, p: x.b * (x.a > 0).sum(-1, keepdim=True), "does not run sum of comparisons alone"),
    "a choice between numbers": (lambda x, r, s, p: x.b * torch.where(x.a > 0, 0.3, 0.7), "does not run a choice between two numbers"),
    "a choice between whole numbers": (lambda x, r, s, p: x.b * torch.where(x.a > 0, 1, 0), "does not run a choice between two numbers"),
    "sizes compared": (lambda x, r, s, p: x.a if x.a.shape[0] == x.a.shape[1] else x.b, "does not run a step that computes with the size"),
    "rows twice": (lambda x, r, s, p: r("a", x.a) + r("a", x.b), "does not run a step that uses the rows of gate 'a' twice"),
    "a truth put out": (lambda x, r, s, p: x.a > 0, "does not run a step that does not return its states"),
    "another state": (lambda x, r, s, p: (x.a, x.b), "does not run a step that does not return its states"),
    "nothing": (lambda x, r, s, p: None, "does not run a step that does not return its states"),
    "a new axis": (lambda x, r, s, p: x.a.unsqueeze(0), "does not run a new axis other than the last, or the first of a vector"),
    "a new axis between": (lambda x, r, s, p: x.a[:, None], "does not run a new axis other than the last, or the first of a vector"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_in_the_list_is_refused_and_told_where(name: str) -> None:
    function, sentence = REFUSED[name]
    with pytest.raises(NotRecordedError) as caught:
        program(Step(function))
    assert str(caught.value).startswith(sentence)
    if sentence.endswith(("return its states", "when it is recorded", "of Reversed")):  # of the whole step
        return
    line = function.__code__.co_firstlineno + (1 if function is _branch else 2 if function.__name__ != "<lambda>" else 0)
    assert str(caught.value).endswith(f", at test_program_record.py:{line}")


@pytest.mark.parametrize("function", [StraightThrough, InTwoParts])
def test_a_function_with_a_gradient_of_its_own_is_refused(function: Any) -> None:
    with pytest.raises(NotRecordedError, match=r"does not run a torch\.autograd\.Function, at test_program_record\.py"):
        program(Step(lambda x, r, s, p: function.apply(x.a)))


def test_a_choice_between_numbers_of_the_steps_dtype_is_recorded() -> None:
    assert "where" in str(program(Step(lambda x, r, s, p: x.b * torch.where(x.a > 0, 0.3, 1)), dtype=torch.float32).forward)


@pytest.mark.parametrize("name", ["iadd", "isub", "imul", "itruediv", "ipow"])
def test_operators_in_place_are_refused(name: str) -> None:
    def step(x: Any, r: Any, s: Any, p: Any) -> Any:
        return getattr(x.a, f"__{name}__")(x.b)

    with pytest.raises(NotRecordedError, match=rf"in place \(__{name}__\), at test_program_record"):
        program(Step(step))


def test_a_step_that_is_another_one_each_time_is_an_error() -> None:
    count = itertools.count(1)
    with pytest.raises(
        RuntimeError, match=r"the step of Step to do the same at each call, got another one the second time \(at .*:\d+\): keep"
    ):
        program(Step(lambda x, r, s, p: x.a * next(count)))


def test_a_step_that_keeps_what_it_has_computed_is_an_error() -> None:
    kept: list[Any] = []

    def step(x: Any, r: Any, s: Any, p: Any) -> Any:
        kept.append(torch.tanh(x.a))
        return kept[0] * x.b

    with pytest.raises(
        RuntimeError, match=r"got what an earlier call has computed \(at test_program_record.py:\d+\): hand it on as a state"
    ):
        program(Step(step))


def test_numbers_of_numpy_and_of_torch_are_numbers() -> None:
    cell = Step(lambda x, r, s, p: np.float64(0.5) * x.a + x.b * np.float32(2) - torch.tensor(3.0) * r.a + torch.tensor([[4]]) * r.b)
    assert "0.5" in str(program(cell).forward)
    numbers = arguments(cell)
    expected, results = by_torch(cell, numbers), by_program(program(cell), numbers)
    assert_same(results, expected)
    assert_same(gradients(results, numbers), gradients(expected, numbers))


@pytest.mark.parametrize(
    "step",
    [
        lambda x, r, s, p: (x.a + r.a) * 2 + s.h,
        lambda x, r, s, p: torch.tanh(x.a + r.a) + r.b,
        lambda x, r, s, p: x.a * r("a", s.h * 2) + torch.relu(x.b + r("b", x.a * s.h)),
        lambda x, r, s, p: s.h + r("b", x.a),
        lambda x, r, s, p: x.a * torch.sigmoid(x.b + r.b),  # rows that are not used
        lambda x, r, s, p: (r("a", torch.tanh(x.b)), x.a * s.h)[1],  # a product that is not used
        lambda x, r, s, p: (r.a, x.a * s.h)[1],
        lambda x, r, s, p: s.h,
        lambda x, r, s, p: torch.sigmoid(torch.exp(x.a - torch.maximum(x.a, x.b)) + r.a),
    ],
)
def test_a_traced_gate_is_the_one_of_the_reference(step: Callable[..., Any]) -> None:
    cell = Step(step)
    numbers = arguments(cell)
    expected, results = by_torch(cell, numbers, traced=True), by_program(program(cell, traced=True), numbers)
    assert_same(results, expected)
    assert_same(gradients(results, numbers), gradients(expected, numbers))


def test_a_state_that_stays_and_one_of_a_number() -> None:
    class Idle(Step):
        states = ("h", "c", "d")

    cell = Idle(lambda x, r, s, p: (s.c, s.c, torch.zeros_like(s.d)))
    numbers = arguments(cell)
    expected, results = by_torch(cell, numbers), by_program(program(cell), numbers)
    assert_same(results, expected)
    assert_same(gradients(results, numbers), gradients(expected, numbers))


# --- Any program ------------------------------------------------------------------------------------------------------

UNARY = ("tanh", "sigmoid", "relu", "sin", "cos", "abs", "neg", "square", "exp", "erf", "detach")
BINARY = ("add", "sub", "mul", "maximum", "minimum")
ROW = ("sum", "mean", "amax")


@st.composite
def steps(draw: st.DrawFn) -> Callable[..., Any]:
    """A step of operations in any order, each of values that there are."""
    operations = draw(
        st.lists(st.tuples(st.sampled_from([*UNARY, *BINARY, *ROW, "where", "r", "shrink"]), *[st.integers(0, 99)] * 3), max_size=25)
    )
    ends = draw(st.tuples(st.integers(0, 99), st.integers(0, 99)))

    def step(x: Any, r: Any, s: Any, p: Any) -> Any:
        values = [x.a, x.b, r.a, s.h, s.c, p.w * s.h, p.q * x.b]
        unused = ["b", "c"]
        for name, *choices in operations:
            a, b, c = (values[choice % len(values)] for choice in choices)
            if name in UNARY:
                values.append(getattr(torch, name)(a * 0.5))
            elif name in BINARY:
                values.append(getattr(torch, name)(a, b))
            elif name in ROW:
                values.append(a * getattr(torch, name)(b, dim=-1, keepdim=True))
            elif name == "where":
                values.append(torch.where(a > b, b, c))
            elif name == "r" and unused:
                values.append(r(unused.pop(), torch.tanh(a)) * 0.5)
            else:
                values.append(torch.tanh(a))
        h, c = (torch.tanh(values[-1 - end % len(values)]) for end in ends)
        return h * x.a, c

    return step


class Any_(Step):  # noqa: N801
    gates = ("a", "b", "c")
    states = ("h", "c")


@given(step=steps(), traced=st.booleans())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_step_by_its_program_is_the_step(step: Callable[..., Any], traced: bool) -> None:
    cell = Any_(step)
    numbers = arguments(cell, units=3)
    expected = by_torch(cell, numbers)
    slopes = gradients(expected, numbers)
    assume(all(torch.isfinite(each).all() and each.abs().max() < 1e100 for each in (*expected, *slopes)))
    made = program(cell, traced=traced)
    results = by_program(made, numbers)
    assert_same(by_program(made, numbers, training=False)[:2], expected, 1e-10)
    assert_same(results[:2], expected, 1e-10)
    assert_same(gradients(results[:2], numbers), slopes, 1e-10)
