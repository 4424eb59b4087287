"""What is wrong with what a cell declares, or with its parameters and step inputs, is said in one sentence with the mend."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import dropout, layer_norm

import elman
import own_cells
from elman.layers.check_cell import as_cell
from own_cells import cell

if TYPE_CHECKING:
    from collections.abc import Callable

# --- What is declared -------------------------------------------------------------------------------------------------


def fine(self, x, r, s, p):
    return s.h, s.c


DECLARED = {
    "a class": (
        lambda: own_cells.Peephole,
        TypeError,
        r"expected cell to be an elman.Cell, got the class Peephole: make one with Peephole\(\)",
    ),
    "no cell": (lambda: "cell", TypeError, r"to be an elman.Cell, got 'cell': pass the cell itself, such as elman.zoo.MGU\(\)"),
    "a size": (lambda: 10, TypeError, r"elman.Cell, got 10: the cell comes first, elman.Recurrent\(cell, input_size, hidden_size\)"),
    "a module": (lambda: torch.nn.Linear(2, 3), TypeError, "derive its class from elman.Cell"),
    "a list of sizes": (
        lambda: cell(fine, parameters={"q": ["H", "H"]}),
        ValueError,
        r"got \['H', 'H'\]: for a matrix, name 'q' in gates, leave it out of input_gates, and write r\('q', v\)",
    ),
    "two units": (
        lambda: cell(fine, parameters={"q": "HxH"}),
        ValueError,
        "got 'HxH': for a matrix, name 'q' in gates, leave it out of input_gates",
    ),
    "a set as a size": (lambda: cell(fine, step_inputs={"q": {"H"}}), ValueError, r"got {'H'}: write {'q': ''} for one number"),
    "swapped": (
        lambda: cell(lambda self, r, x, s, p: (s.h, s.c)),
        TypeError,
        r"step to take \(x, r, s, p\), got \(r, x, s, p\): they come in this order, whatever you call them$",
    ),
    "swapped with draws": (
        lambda: cell(lambda self, x, r, s, d, p: (s.h, s.c), draws={"u": "step"}),
        TypeError,
        r"step to take \(x, r, s, p, d\), got \(x, r, s, d, p\): they come in this order",
    ),
    "parameters in short": (lambda: cell(fine, params={"q": "H"}), ValueError, "got params: did you mean parameters"),
    "an option called step": (lambda: with_option("step", 2), ValueError, "other names for the options of Mine, got 'step'"),
    "an option called shapes": (lambda: with_option("shapes", (3, 4)), ValueError, "other names for the options of Mine, got 'shapes'"),
    "an option called init": (lambda: with_option("init", lambda: None), ValueError, "other names for the options of Mine, got 'init'"),
    "an option called name": (lambda: with_option("name", [1.5]), ValueError, "expected Mine without an attribute name"),
    "a wrapper of one's own": (
        lambda: with_option("cell", elman.zoo.MGU(), gates=()),
        ValueError,
        r"to have a parameter, got none: derive it from elman.cells.Wrapper, which has those of MGU\(\)$",
    ),
    "a network's name": (lambda: "lstm", TypeError, r"got 'lstm': an LSTM is elman.LSTM\(input_size, hidden_size\), one step"),
    "a network's class": (lambda: elman.GRU, TypeError, r"got the class GRU: a GRU is elman.GRU\(input_size, hidden_size\), one"),
    "a network": (lambda: elman.RNN(2, 3), TypeError, r"got RNN\(2, 3\): an RNN is elman.RNN\(input_size, hidden_size\), one"),
    "another class": (lambda: int, TypeError, "got the class int: derive its class from elman.Cell"),
    "a string": (lambda: cell(fine, gates="fn"), TypeError, r"Mine.gates to be a tuple of names, got 'fn': write \('fn',\)"),
    "no states": (lambda: cell(fine, states=()), ValueError, "expected Mine to have a state, got none"),
    "twice": (lambda: cell(fine, gates=("f", "f")), ValueError, "expected Mine.gates to have each name once, got 'f' twice"),
    "no name": (lambda: cell(fine, states=("h", "c t")), ValueError, "expected Mine.states to have valid Python names, got 'c t'"),
    "private": (lambda: cell(fine, parameters={"_q": "H"}), ValueError, "expected Mine.parameters to have valid Python names, got '_q'"),
    "other gates": (lambda: cell(fine, input_gates=("f", "k")), ValueError, "Mine.input_gates to be among its gates, f, n, got 'k'"),
    "idle gate": (
        lambda: cell(fine, input_gates=("f",), recurrent_gates=()),
        ValueError,
        "expected gate 'n' of Mine to be in input_gates or recurrent_gates, got it in neither",
    ),
    "a misspelled gate": (lambda: cell(fine, recurrent_gates=("F",)), ValueError, r"among its gates, f, n, got 'F': did you mean 'f'\?"),
    "no dict": (
        lambda: cell(fine, parameters=("q",)),
        TypeError,
        r"parameters to be a dict, got \('q',\): write {'q': 'H'} for a vector of H numbers or {'q': ''} for one number$",
    ),
    "a list of step inputs": (
        lambda: cell(fine, step_inputs=["dt"]),
        TypeError,
        r"to be a dict, got \['dt'\]: write {'dt': ''} for one number for each step and sequence or {'dt': 'H'} for one for each unit too$",
    ),
    "a name of draws": (
        lambda: cell(fine, draws="u"),
        TypeError,
        "to be a dict, got 'u': write {'u': 'step'} for new numbers at every step or {'u': 'sequence'} for the same ones for a whole",
    ),
    "none": (lambda: cell(fine, parameters=None), TypeError, "parameters to be a dict, got None: write {'name': 'H'} for a vector"),
    "size": (
        lambda: cell(fine, parameters={"q": "2H"}),
        ValueError,
        "expected Mine.parameters to have 'H' or '' for 'q', got '2H': write {'q': 'H'} for a vector of H numbers or {'q': ''} for one",
    ),
    "a number": (lambda: cell(fine, parameters={"q": (4,)}), ValueError, r"expected Mine.parameters to have 'H' or '' for 'q', got \(4,\)"),
    "a matrix": (
        lambda: cell(fine, parameters={"q": ("H", "H")}),
        ValueError,
        r"got \('H', 'H'\): for a matrix, name 'q' in gates, leave it out of input_gates, and write r\('q', v\)",
    ),
    "draws": (lambda: cell(fine, draws={"u": "H"}), ValueError, "expected Mine.draws to have 'step' or 'sequence' for 'u', got 'H'"),
    "a weight": (lambda: cell(fine, parameters={"weight_ih": ""}), ValueError, "other names in Mine.parameters, got 'weight_ih'"),
    "an argument": (lambda: cell(fine, step_inputs={"lengths": ""}), ValueError, "other names in Mine.step_inputs, got 'lengths'"),
    "a chunk": (lambda: cell(fine, step_inputs={"chunk": ""}), ValueError, "other names in Mine.step_inputs, got 'chunk'"),
    "an input gate twice": (lambda: cell(fine, input_gates=("f", "n", "f")), ValueError, "Mine.input_gates to have each name once"),
    "a gate": (lambda: cell(fine, step_inputs={"f": ""}), ValueError, "other names in Mine.step_inputs, got 'f'"),
    "kernels": (lambda: cell(fine, name="lstm"), ValueError, "expected Mine without an attribute name, which cells with kernels have"),
    "nothing": (lambda: cell(fine, gates=()), ValueError, "expected Mine to have a parameter, got none"),
    "misspelled": (lambda: cell(fine, recurent_gates=("f",)), ValueError, "got recurent_gates: did you mean recurrent_gates?"),
    "one state": (
        lambda: cell(fine, state=("h",)),
        ValueError,
        "expected the declarations of Mine to be gates, .*, got state: did you mean",
    ),
    "no step": (
        lambda: type("Mine", (elman.Cell,), {"gates": ("f",)})(),
        TypeError,
        "expected Mine to have a method step, got none: write def step",
    ),
}


def with_option(name: str, value: Any, **declared: Any) -> elman.Cell:
    made = cell(fine, **declared)
    setattr(made, name, value)
    return made


@pytest.mark.parametrize(("make", "error", "words"), DECLARED.values(), ids=DECLARED)
def test_what_is_wrong_with_a_declaration_is_said(make: Any, error: type[Exception], words: str) -> None:
    for module in (elman.Recurrent, elman.RecurrentCell):
        with pytest.raises(error, match=words):
            module(make(), 3, 4)


def test_a_cells_parameter_must_not_be_a_modules_attribute() -> None:
    with pytest.raises(ValueError, match=r"expected other names in Mine\.parameters, got 'bias', which is already in use"):
        elman.RecurrentCell(cell(fine, parameters={"bias": "H"}), 3, 4)


# --- Parameters and step inputs ---------------------------------------------------------------------------------------


def test_a_parameter_of_the_wrong_shape_is_named() -> None:
    rnn = elman.Recurrent(own_cells.Peephole(), 3, 4)
    rnn.p_f_l0 = torch.nn.Parameter(torch.zeros(5))
    with pytest.raises(RuntimeError, match=r"expected p_f_l0 of shape \(4,\), got \(5,\)"):
        rnn(torch.zeros(5, 2, 3))
    rnn = elman.Recurrent(own_cells.Decay(), 3, 4)
    with pytest.raises(RuntimeError, match="size mismatch for rate_l0"):
        rnn.load_state_dict({**rnn.state_dict(), "rate_l0": torch.zeros(3)})


DT, MASK = torch.zeros(5, 2), torch.zeros(5, 2, 4)
BESIDE = {
    "missing": ({"dt": DT}, TypeError, "expected mask, which Decay needs at every step, got none: pass it by name, mask=..."),
    "unknown": ({"dt": DT, "mask": MASK, "to": DT}, TypeError, "expected no argument to, got one: the cell is Decay, whose .* dt, mask"),
    "kind": ({"dt": [1.0], "mask": MASK}, TypeError, "expected dt to be a tensor, got list$"),
    "a number": ({"dt": 0.1, "mask": MASK}, TypeError, r"dt to be a tensor, got float: for the same .* pass torch.full\(\(5, 2\), 0.1\)$"),
    "of each step": (
        {"dt": DT[:, 0], "mask": MASK},
        RuntimeError,
        r"got \(5,\): repeat it .* last axis with dt.unsqueeze\(-1\).expand\(5, 2\)$",
    ),
    "of each sequence": ({"dt": DT[0], "mask": MASK}, RuntimeError, r"got \(2,\): repeat it along the first axis with dt.expand\(5, 2\)$"),
    "an axis and swapped": (
        {"dt": DT.t()[..., None], "mask": MASK},
        RuntimeError,
        r"got \(2, 5, 1\): drop the last axis and swap the others with dt.squeeze\(-1\).swapaxes\(0, 1\)$",
    ),
    "neither": ({"dt": torch.zeros(7), "mask": MASK}, RuntimeError, r"got \(7,\)$"),
    "shape": (
        {"dt": DT.t(), "mask": MASK},
        RuntimeError,
        r"expected dt of shape \(5, 2\), \(T, B\), got \(2, 5\): swap .* with dt.swapaxes\(0, 1\)$",
    ),
    "swapped": ({"dt": DT, "mask": MASK.transpose(0, 1)}, RuntimeError, r"got \(2, 5, 4\): swap its axes with mask.swapaxes\(0, 1\)$"),
    "an axis": ({"dt": DT[..., None], "mask": MASK}, RuntimeError, r"got \(5, 2, 1\): drop the last axis with dt.squeeze\(-1\)$"),
    "a state's name": (
        {"HX": DT, "dt": DT, "mask": MASK},
        TypeError,
        "expected no argument HX, got one: the cell is Decay, whose .* dt, mask",
    ),
    "capitals": ({"DT": DT, "mask": MASK}, TypeError, r"expected no argument DT, got one: did you mean dt=\?"),
    "units": ({"dt": DT, "mask": DT}, RuntimeError, r"expected mask of shape \(5, 2, 4\), \(T, B, H\), got \(5, 2\)"),
    "dtype": (
        {"dt": DT.long(), "mask": MASK},
        RuntimeError,
        r"expected dt of torch.float32, the dtype of x, got torch.int64: convert it with",
    ),
}


@pytest.mark.parametrize(("beside", "error", "words"), BESIDE.values(), ids=BESIDE)
def test_what_is_wrong_with_step_inputs_is_said(beside: dict[str, Any], error: type[Exception], words: str) -> None:
    rnn, x = elman.Recurrent(own_cells.Decay(), 3, 4), torch.zeros(5, 2, 3)
    for call in (rnn, rnn.trace, lambda x, **given: elman.why(rnn, x, **given)):
        with pytest.raises(error, match=words):
            call(x, **beside)


class Timed(elman.Cell):
    gates = ("z",)
    step_inputs: ClassVar[dict[str, str]] = {"dt": "", "mask": "H"}

    def step(self, x: Any, r: Any, s: Any, p: Any) -> Tensor:
        return (s.h + x.mask) * x.dt + x.z + r.z


X = torch.zeros(5, 2, 3)
BY_PLACE = {
    "as x": (elman.Recurrent, X, DT, "dt"),
    "swapped": (elman.Recurrent, X, DT.t(), "dt"),
    "of each unit": (elman.Recurrent, X, MASK, "mask"),
    "unbatched": (elman.Recurrent, X[:, 0], DT[:, 0], "dt"),
    "of a step": (elman.RecurrentCell, X[0], DT[0], "dt"),
    "of x's features": (elman.Recurrent, X, X, None),
    "of a step, of x's features": (elman.RecurrentCell, X[0], X[0], None),
    "of one step, of other units": (elman.Recurrent, X[:1], torch.zeros(1, 2, 7), None),
    "a state of another batch": (elman.Recurrent, X, torch.zeros(1, 3, 4), None),
}


@pytest.mark.parametrize(("kind", "x", "given", "meant"), BY_PLACE.values(), ids=BY_PLACE)
def test_a_step_input_given_by_place_is_told_from_a_state(kind: Any, x: Tensor, given: Tensor, meant: str | None) -> None:
    with pytest.raises(RuntimeError, match="expected hx of shape") as caught:
        kind(Timed(), 3, 4)(x, given)
    assert (f": hx comes second, so pass {meant} by name, {meant}=..." in str(caught.value)) == (meant is not None)
    assert ("comes second" in str(caught.value)) == (meant is not None)


class TimedOfTwo(Timed):
    states = ("h", "c")

    def step(self, x: Any, r: Any, s: Any, p: Any) -> tuple[Tensor, Tensor]:
        return super().step(x, r, s, p), s.c


@pytest.mark.parametrize("given", [DT, MASK, torch.zeros(1, 2, 4)], ids=["of a step", "of each unit", "a state"])
def test_a_step_input_given_by_place_is_told_where_there_are_two_states(given: Tensor) -> None:
    net, x = elman.Recurrent(TimedOfTwo(), 3, 4), X
    for call in (net, net.trace, lambda x, given: elman.why(net, x, given)):
        with pytest.raises(TypeError, match=r"hx to be a tuple \(h_0, c_0\), got Tensor: hx comes second, so pass dt by name, dt=\.\.\.$"):
            call(x, given)
    with pytest.raises(TypeError, match="pass dt by name"):
        elman.RecurrentCell(TimedOfTwo(), 3, 4)(x[0], given)
    with pytest.raises(TypeError, match=r"hx to be a tuple \(h_0, c_0\), got Tensor$"):
        elman.Recurrent(own_cells.Peephole(), 3, 4)(x, given)


def test_a_step_input_that_is_given_is_not_what_hx_was_meant_for() -> None:
    with pytest.raises(TypeError, match="pass mask by name"):
        elman.Recurrent(TimedOfTwo(), 3, 4)(X, MASK, dt=DT)
    with pytest.raises(TypeError, match=r"hx to be a tuple \(h_0, c_0\), got Tensor$"):
        elman.Recurrent(TimedOfTwo(), 3, 4)(X, torch.zeros(1, 2, 4), dt=DT, mask=MASK)


def test_the_number_that_a_hint_names_is_made_as_it_says() -> None:
    net, x = elman.Recurrent(Timed(), 3, 4, dtype=torch.float64), X.double()
    with pytest.raises(TypeError, match="for the same number everywhere") as caught:
        net(x, dt=0.5, mask=MASK.double())
    made = eval(str(caught.value).partition(" pass ")[2])
    assert torch.equal(net(x, dt=made, mask=MASK.double())[0], net(x, dt=torch.full((5, 2), 0.5).double(), mask=MASK.double())[0])
    for number in (math.nan, math.inf, "0.5", None):
        with pytest.raises(TypeError, match=f"expected dt to be a tensor, got {type(number).__name__}$"):
            net(x, dt=number, mask=MASK.double())


def test_a_shape_that_could_be_repeated_either_way_gets_no_hint() -> None:
    with pytest.raises(RuntimeError, match=r"expected dt of shape \(2, 2\), \(T, B\), got \(2,\)$"):
        elman.Recurrent(Timed(), 3, 4)(torch.zeros(2, 2, 3), dt=torch.zeros(2), mask=torch.zeros(2, 2, 4))


def test_names_that_differ_in_capitals_are_told() -> None:
    class Scaled(elman.Cell):
        gates = ("z",)
        parameters: ClassVar[dict[str, str]] = {"u": "H"}

        def step(self, x: Any, r: Any, s: Any, p: Any) -> Tensor:
            return s.h * p.U + x.z + r.z

    with pytest.raises(AttributeError, match=r"got p\.U \(at .*\): write p\.u, or declare 'U' in parameters"):
        elman.Recurrent(Scaled(), 3, 4)


def test_a_network_without_step_inputs_takes_none() -> None:
    for name in ("lengths", "reset"):  # which a single step does not take
        with pytest.raises(TypeError, match=f"expected no argument {name}, got one: the cell is Peephole, which has no step inputs"):
            elman.RecurrentCell(own_cells.Peephole(), 3, 4)(torch.zeros(2, 3), **{name: None})
    with pytest.raises(TypeError, match="expected no argument dt, got one: the cell is Peephole, which has no step inputs"):
        elman.Recurrent(own_cells.Peephole(), 3, 4)(torch.zeros(5, 2, 3), dt=DT)
    with pytest.raises(TypeError, match="expected no argument dt"):
        elman.LSTM(3, 4).trace(torch.zeros(5, 2, 3), dt=DT)


def test_a_packed_sequence_with_lengths_is_refused() -> None:
    packed = torch.nn.utils.rnn.pack_sequence([torch.zeros(3, 3)])
    with pytest.raises(ValueError, match="expected no lengths with a PackedSequence"):
        elman.Recurrent(own_cells.Peephole(), 3, 4)(packed, lengths=[3])


# --- Random numbers -----------------------------------------------------------------------------------------------------


def rarely(drawn: Callable[[], Any]) -> Callable[..., Any]:
    return lambda self, x, r, s, p: (s.h * (1.0 if float(drawn()) >= 1e-9 else 0.0), s.c)


@pytest.mark.parametrize(
    "drawn",
    [random.random, np.random.rand, lambda: torch.rand(()), lambda: dropout(torch.ones(()), 1e-9)],
    ids=["python", "numpy", "torch", "dropout"],
)
def test_random_numbers_that_hardly_ever_matter_are_found(drawn: Callable[[], Any]) -> None:
    """They would be the same for ever once the step has been recorded."""
    for module in (elman.Recurrent, elman.RecurrentCell):
        with pytest.raises(RuntimeError, match=r"got random numbers drawn in it \(at .*\): declare random numbers in draws"):
            module(cell(rarely(drawn)), 3, 4)


def test_a_trial_draws_no_random_number_of_the_callers() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    as_cell(elman.zoo.LeakyRNN(noise=0.1), 4, None, None)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]


# --- Steps --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (lambda self, x, r, s, p: (s.h + r, s.c), r"compute with tensors, got r itself \(at .*\): name what you need of it, write r.f or"),
        (lambda self, x, r, s, p: (s.h + r["n"], s.c), "compute with tensors, got r itself"),
        (lambda self, x, r, s, p: (s.h + r("n"), s.c), "compute with tensors, got r itself"),
        (lambda self, x, r, s, p: (torch.tanh(x), s.c), r"got x itself .*: name what you need of it, write x\.f$"),
        (lambda self, x, r, s, p: (torch.sigmoid(s), s.c), r"got s itself .*, write s\.h$"),
        (lambda self, x, r, s, p: (s.h * x["f"], s.c), r"got x itself .*, write x\.f, or getattr\(x, name\)$"),
    ],
)
def test_an_argument_in_place_of_what_it_holds_is_said(step: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        elman.Recurrent(cell(step), 3, 4)


def test_a_misspelled_name_is_told_the_one_that_is_near() -> None:
    with pytest.raises(AttributeError, match=r"got x\.nn \(at .*\): write x\.n, or declare 'nn' in gates or step_inputs"):
        elman.Recurrent(cell(lambda self, x, r, s, p: (s.h + x.nn, s.c)), 3, 4)


def test_why_says_that_a_size_is_written_as_a_number() -> None:
    rnn = elman.Recurrent(cell(lambda self, x, r, s, p: (layer_norm(x.n + r.n, (4,)), s.c)), 3, 4)
    assert "does not run a step that raises RuntimeError with another H (write s.h.shape[-1] for it), at" in elman.why(
        rnn, torch.zeros(5, 2, 3)
    )


class WordlessError(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


def test_an_error_that_cannot_be_read_is_named() -> None:
    def raises(self: Any, *args: Any) -> Any:
        raise WordlessError

    with pytest.raises(
        RuntimeError, match=r"the step of Mine to run on a trial batch of 2 sequences, got WordlessError \(at .*\): no words$"
    ):
        elman.Recurrent(cell(raises), 3, 4)
    with pytest.raises(RuntimeError, match="in place, got WordlessError: no words"):
        elman.Recurrent(cell(fine, init=raises), 3, 4)


def test_an_if_about_a_tensor_is_told_the_operation_that_chooses() -> None:
    def branches(self: Any, x: Any, r: Any, s: Any, p: Any) -> Any:
        return (x.n, s.c) if x.n > r.n else (r.n, s.c)

    with pytest.raises(RuntimeError, match=r"an if on one \(at .*\): write torch\.where\(condition, a, b\)"):
        elman.Recurrent(cell(branches), 3, 4)
