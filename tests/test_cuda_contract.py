"""What the operators of recorded calls refuse on a GPU, whose kernels know sizes and addresses alone: on the emulated device."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

import cuda_emulator
import elman
import own_cells
from elman.backends import contract, registry
from elman.backends.cuda.backend import CudaBackend
from elman.backends.program.lookup import program_of
from elman.backends.program.text import text_of
from elman.backends.reference import ReferenceBackend
from native import required
from test_cuda_own import NoInput
from test_cuda_recorded import BACKWARD, CELLS, OPERATOR, B, H, I, T, call_of, operands_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Gradients = Callable[[Sequence[Tensor]], list[Tensor]]

pytestmark = [
    required,
    cuda_emulator.required,
]


@pytest.fixture(autouse=True)
def on_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call of a test runs on the emulated kernels."""
    cuda_emulator.install(monkeypatch)
    monkeypatch.setattr(registry, "BACKENDS", (CudaBackend(), ReferenceBackend()))
    torch.manual_seed(0)


# Of a Decay's: x; three initial states, three fresh ones; two step inputs; the parameters.
WRONG: dict[str, tuple[int, Callable[[Tensor], Tensor], str]] = {
    "an initial state with too few sequences": (1, lambda state: state[:, :-1], "an initial state of shape"),
    "an initial state of float16": (2, Tensor.half, "an initial state of torch.float32"),
    "a fresh state with too few layers": (4, lambda state: state[:-1], "a fresh state of shape"),
    "a step input with too few steps": (7, lambda numbers: numbers[:-1], "a step input of shape"),
    "a parameter with too few rows": (9, lambda weight: weight[:-1], "a parameter of shape"),
    "a parameter of float64": (10, Tensor.double, "a parameter of torch.float32"),
}


@pytest.mark.parametrize("what", WRONG)
def test_an_operand_that_does_not_fit_is_refused(what: str) -> None:
    operands, text, form = operands_of(own_cells.Decay())
    place, change, words = WRONG[what]
    operands[place] = change(operands[place])
    with pytest.raises(RuntimeError, match=words):
        OPERATOR(operands, None, None, text, form, False)


def test_so_are_too_few_and_those_on_another_device() -> None:
    operands, text, form = operands_of(own_cells.Decay())
    with pytest.raises(RuntimeError, match="expected 24 parameters, got 23"):
        OPERATOR(operands[:-1], None, None, text, form, False)
    with pytest.raises(RuntimeError, match="on cpu, where x is, got it on meta"):
        contract.check("a state", operands[1].to("meta"), operands[1].shape, operands[0])


@pytest.mark.parametrize("lengths", [[1, 2], [T + 1] * B, [-1] * B], ids=str)
def test_lengths_that_do_not_fit_are_refused(lengths: list[int]) -> None:
    operands, text, form = operands_of(own_cells.Decay())
    with pytest.raises(RuntimeError, match="expected lengths"):
        OPERATOR(operands, torch.tensor(lengths), None, text, form, False)


def without_a_row(given: Sequence[Tensor], place: int) -> list[Tensor]:
    """The same tensors, but for a view of one of them."""
    return [each[:-1] if index == place else each for index, each in enumerate(given)]


@cache
def gradients_of_a_decay() -> tuple[Gradients, tuple[Tensor, ...]]:
    """What computes the gradients of a call, and what it takes, in the order of the ids below. For all cases it has run once with that."""
    operands, text, form = operands_of(own_cells.Decay())
    output, *finals, hidden, kept = OPERATOR(operands, None, None, text, form, True)
    needs = [True] * len(operands)
    given = output, hidden, kept, torch.ones_like(output), *map(torch.ones_like, finals)

    def gradients(given: Sequence[Tensor]) -> list[Tensor]:
        return BACKWARD(given[3:], operands, None, None, *given[:3], text, form, needs)

    assert all(gradient.isfinite().all() for gradient in gradients(given))
    return gradients, given


@pytest.mark.parametrize("place", range(5), ids=["output", "hidden", "kept", "the gradient of output", "the gradient of a final state"])
def test_what_the_gradient_is_given_is_checked(place: int) -> None:
    gradients, given = gradients_of_a_decay()
    with pytest.raises(RuntimeError, match=r"expected .* of shape"):
        gradients(without_a_row(given, place))


def test_so_is_how_much_it_is_given() -> None:
    operands, text, form = operands_of(own_cells.Decay())
    output, *finals, hidden, kept = OPERATOR(operands, None, None, text, form, True)
    needs, grads = [True] * len(operands), [torch.ones_like(output), *map(torch.ones_like, finals)]

    def gradients(grads: list[Tensor], hidden: Tensor | None, needs: list[bool]) -> list[Tensor]:
        return BACKWARD(grads, operands, None, None, output, hidden, kept, text, form, needs)

    for one, other in zip(gradients(grads[:1], hidden, needs), gradients([grads[0], None, None, None], hidden, needs), strict=True):
        assert torch.equal(one, other)
    for wrong, words in (
        ((grads * 2, hidden, needs), "each of 3 final states, got 7"),
        ((grads, None, needs), "1 lower layers, got none"),
        ((grads, hidden, needs[1:]), "needs_grad of"),
        ((grads, hidden, []), "needs_grad of"),
    ):
        with pytest.raises(RuntimeError, match=words):
            gradients(*wrong)
    with pytest.raises(RuntimeError, match="1 or 2 directions, got 20, 2 and 3"):
        OPERATOR(operands, None, None, text, [*form[:2], 3, *form[3:]], False)


def test_random_numbers_are_checked() -> None:
    rnn, x, _ = call_of(CELLS["zoneout"])
    text = text_of(program_of(rnn.stack.cell, torch.float32, draws=True, units=H))
    draws = [torch.rand(1, T, B, H) for _ in rnn.stack.cell.draws]
    form, params = [H, 1, 1, 1, 0, 0, 0, 0, 1], [parameter.detach() for parameter in rnn.parameters()]
    assert OPERATOR([x, *draws, *params], None, None, text, form, False)[0].shape == (T, B, H)
    for change in (lambda draw: draw[:, :-1], lambda draw: draw[0], lambda draw: draw[:, 0, :-1]):
        with pytest.raises(RuntimeError, match="random numbers of shape"):
            OPERATOR([x, *map(change, draws), *params], None, None, text, form, False)


def test_gradients_share_no_memory() -> None:
    operands, text, form = operands_of(own_cells.Peephole())
    output, *finals, hidden, kept = OPERATOR(operands, None, None, text, form, True)
    grads = [torch.ones_like(each) for each in (output, *finals)]
    found = BACKWARD(grads, operands, None, None, output, hidden, kept, text, form, [True] * len(operands))
    assert len({gradient.untyped_storage().data_ptr() for gradient in found}) == len(found)


SCAN, SCAN_BACKWARD = torch.ops.elman.scan.default, torch.ops.elman.scan_backward.default
LSTM = ("lstm", H, 2, False, True, 0, False, False)
WRONG_OF_A_LSTM: dict[str, tuple[dict[str, Any], str]] = {
    "x without sequences": ({"x": torch.zeros(T, I)}, "x of shape"),
    "x of float64": ({"x": torch.zeros(T, B, I, dtype=torch.float64)}, "x of torch.float32, torch.bfloat16, torch.float16"),
    "an initial state": ({"h_0": torch.zeros(2, B - 1, H)}, "an initial state of shape"),
    "a parameter": ({"params": 3}, "a parameter of shape|parameter 3 of shape"),
    "lengths": ({"lengths": torch.tensor([T + 1] * B)}, f"lengths from 0 to {T}"),
    "reset": ({"reset": torch.zeros(T, B + 1, dtype=torch.bool)}, "reset of shape"),
    "reset of numbers": ({"reset": torch.zeros(T, B)}, "reset of torch.bool"),
    "batch sizes": ({"x": torch.zeros(T, I), "h_0": None, "c_0": None, "batch_sizes": torch.tensor([1, 2, 1])}, "do not increase"),
    "one initial state of two": ({"c_0": None}, "an initial state for each of 2 states, got 1"),
    "one fresh state of two": ({"reset": torch.zeros(T, B, dtype=torch.bool), "fresh_h": torch.zeros(2, H)}, "a fresh state for each of 2"),
    "no step": ({"x": torch.zeros(0, B, I)}, "at least one step"),
    "batch sizes and lengths": ({"batch_sizes": torch.tensor([T]), "lengths": torch.tensor([1] * B)}, "got both"),
    "a packed x": ({"batch_sizes": torch.tensor([T])}, "x of shape"),
    "a fresh state": (
        {"reset": torch.zeros(T, B, dtype=torch.bool), "fresh_h": torch.zeros(2, H - 1), "fresh_c": torch.zeros(2, H)},
        "a fresh state of shape",
    ),
}


@cache
def operands_of_a_lstm() -> dict[str, Any]:
    """What the operator takes: for all cases it has run once with that."""
    names = ("x", "h_0", "c_0", "params", "batch_sizes", "lengths", "reset", "fresh_h", "fresh_c")
    operands = dict.fromkeys(names) | {
        "x": torch.zeros(T, B, I),
        "h_0": torch.zeros(2, B, H),
        "c_0": torch.zeros(2, B, H),
        "params": [parameter.detach() for parameter in elman.LSTM(I, H, 2).parameters()],
    }
    output, *_ = SCAN(*operands.values(), *LSTM, False)
    assert output.shape == (T, B, H)
    return operands


@pytest.mark.parametrize("what", WRONG_OF_A_LSTM)
def test_operands_of_the_built_in_cells_operator_are_checked(what: str) -> None:
    operands = operands_of_a_lstm()
    change, words = WRONG_OF_A_LSTM[what]
    given = operands | change
    if given["params"] == 3:
        given["params"] = without_a_row(operands["params"], 3)
    with pytest.raises(RuntimeError, match=words):
        SCAN(*given.values(), *LSTM, False)


@cache
def gradients_of_a_lstm() -> tuple[Gradients, tuple[Tensor, ...]]:
    """As of a Decay."""
    params = [parameter.detach() for parameter in elman.LSTM(I, H, 2).parameters()]
    operands = (torch.randn(T, B, I), None, None, params, None, None, None, None, None)
    output, _, _, hidden, steps, _ = SCAN(*operands, *LSTM, True)
    given = torch.ones_like(output), output, hidden, steps

    def gradients(given: Sequence[Tensor]) -> list[Tensor]:
        return SCAN_BACKWARD(given[0], None, None, *operands, *given[1:], None, *LSTM, [True] * (1 + len(params)))

    assert all(gradient.isfinite().all() for gradient in gradients(given))
    return gradients, given


@pytest.mark.parametrize("place", range(4), ids=["the gradient of output", "output", "hidden", "steps"])
def test_so_is_what_its_gradient_is_given(place: int) -> None:
    gradients, given = gradients_of_a_lstm()
    with pytest.raises(RuntimeError, match=r"expected .* of shape"):
        gradients(without_a_row(given, place))


def test_a_program_that_the_kernels_do_not_run_is_refused() -> None:
    operands, text, form = operands_of(NoInput())
    with pytest.raises(RuntimeError, match="input_gates"):
        OPERATOR(operands, None, None, text, form, False)
