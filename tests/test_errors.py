"""Bad input gets torch.nn's type of error, and one sentence that says what was expected and what came."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import elman
import native
from elman.backends import Operands, Spans, call
from raised import error_of, error_of_torch

if TYPE_CHECKING:
    from collections.abc import Callable

z = torch.zeros


def _packed(batch: int = 3) -> PackedSequence:
    return pack_padded_sequence(z(5, batch, 10), [5, 3, 2, 1][:batch])


# What is called with a network of 10 features and 20 units in one layer, and the sentence.
CALLS: list[tuple[str, Callable[[Any], object], str]] = [
    ("one dimension", lambda rnn: rnn(z(10)), "expected x of 2 or 3 dimensions, (T, I) or (T, B, I), got 1: x has shape (10,)"),
    ("four dimensions", lambda rnn: rnn(z(5, 3, 2, 10)), "got 4: x has shape (5, 3, 2, 10)"),
    ("features", lambda rnn: rnn(z(5, 3, 12)), "expected input of 10 features (input_size), got 12: x has shape (5, 3, 12)"),
    (
        "features, unbatched",
        lambda rnn: rnn(z(5, 12)),
        "expected input of 10 features (input_size), got 12: x has shape (5, 12), read as unbatched, (T, I)",
    ),
    ("features elsewhere", lambda rnn: rnn(z(3, 10, 7)), "if its axis 1 is the features, move it last: x.movedim(1, -1)"),
    ("features, packed", lambda rnn: rnn(pack_padded_sequence(z(5, 2, 3), [5, 3])), "got 3: x has shape (8, 3)"),
    ("no step", lambda rnn: rnn(z(0, 3, 10)), "expected at least one step, got none: x has shape (0, 3, 10)"),
    ("no step, unbatched", lambda rnn: rnn(z(0, 10)), "expected at least one step, got none: x has shape (0, 10)"),
    ("dtype", lambda rnn: rnn(z(5, 3, 10).double()), "expected x of torch.float32, the parameters' dtype, got torch.float64"),
    ("integers", lambda rnn: rnn(z(5, 3, 10).long()), "got torch.int64: convert x with x.to(torch.float32)"),
    ("dtype, packed", lambda rnn: rnn(_packed().double()), "got torch.float64"),
    ("device", lambda rnn: rnn(z(5, 3, 10, device="meta")), "expected x on cpu, where the parameters are, got meta"),
    ("rank, packed", lambda rnn: rnn(PackedSequence(z(5, 3, 10), torch.tensor([3, 2]))), "expected x of 2 dimensions, (N, I), got 3"),
]

# An input, a state that is wrong for it, one that is right, and the sentence, with {} for the state's name.
STATES: list[tuple[str, Tensor | PackedSequence, Tensor, Tensor, str]] = [
    ("batch", z(5, 3, 10), z(1, 4, 20), z(1, 3, 20), "expected {} of shape (1, 3, 20), (L·D, B, H), got (1, 4, 20)"),
    ("units", z(5, 3, 10), z(1, 3, 21), z(1, 3, 20), "expected {} of shape (1, 3, 20), (L·D, B, H), got (1, 3, 21)"),
    ("layers", z(5, 3, 10), z(2, 3, 20), z(1, 3, 20), "expected {} of shape (1, 3, 20), (L·D, B, H), got (2, 3, 20)"),
    ("rank", z(5, 3, 10), z(3, 20), z(1, 3, 20), "got (3, 20): add the first axis with {}.unsqueeze(0)"),
    ("unbatched", z(5, 10), z(1, 21), z(1, 20), "expected {} of shape (1, 20), (L·D, H), got (1, 21)"),
    ("unbatched, rank", z(5, 10), z(1, 1, 20), z(1, 20), "expected {} of shape (1, 20), (L·D, H), got (1, 1, 20)"),
    ("packed", _packed(), z(1, 4, 20), z(1, 3, 20), "expected {} of shape (1, 3, 20), (L·D, B, H), got (1, 4, 20)"),
    ("dtype", z(5, 3, 10), z(1, 3, 20).double(), z(1, 3, 20), "expected {} of torch.float32, the dtype of x, got torch.float64"),
    ("dtype, packed", _packed(), z(1, 3, 20).double(), z(1, 3, 20), "expected {} of torch.float32, the dtype of x, got torch.float64"),
    ("device", z(5, 3, 10), z(1, 3, 20, device="meta"), z(1, 3, 20), "expected {} on cpu, where x is, got meta"),
]

CELL_CALLS: list[tuple[str, Callable[[Any], object], str]] = [
    ("three dimensions", lambda cell: cell(z(5, 3, 10)), "expected x of 1 or 2 dimensions, (I,) or (B, I), got 3: x has shape (5, 3, 10)"),
    ("no dimension", lambda cell: cell(z(())), "got 0: x has shape ()"),
    ("features", lambda cell: cell(z(3, 12)), "expected input of 10 features (input_size), got 12: x has shape (3, 12)"),
    ("dtype", lambda cell: cell(z(3, 10).double()), "expected x of torch.float32, the parameters' dtype, got torch.float64"),
    ("device", lambda cell: cell(z(3, 10, device="meta")), "expected x on cpu, where the parameters are, got meta"),
]

CELL_STATES: list[tuple[str, Tensor, Tensor, Tensor, str]] = [
    ("units", z(3, 10), z(3, 21), z(3, 20), "expected {} of shape (3, 20), (B, H), got (3, 21)"),
    ("batch", z(3, 10), z(1, 20), z(3, 20), "expected {} of shape (3, 20), (B, H), got (1, 20)"),
    ("three dimensions", z(3, 10), z(1, 3, 20), z(3, 20), "expected {} of shape (3, 20), (B, H), got (1, 3, 20)"),
    ("one dimension", z(3, 10), z(20), z(3, 20), "expected {} of shape (3, 20), (B, H), got (20,)"),
    ("unbatched", z(10), z(1, 20), z(20), "expected {} of shape (20,), (H,), got (1, 20)"),
    ("dtype", z(3, 10), z(3, 20).double(), z(3, 20), "expected {} of torch.float32, the dtype of x, got torch.float64"),
]

# Which network, and which of its states is the wrong one.
places = pytest.mark.parametrize(
    ("layer", "place", "name"), [("RNN", 0, "hx"), ("GRU", 0, "hx"), ("LSTM", 0, "h_0"), ("LSTM", 1, "c_0")], ids=str
)

CONSTRUCTIONS: list[tuple[dict[str, object], str]] = [
    ({"input_size": 0}, "expected input_size to be at least 1, got 0"),
    ({"input_size": 10.0}, "expected input_size to be an int, got 10.0 of type float"),
    ({"hidden_size": 0}, "expected hidden_size to be at least 1, got 0"),
    ({"hidden_size": -3}, "expected hidden_size to be at least 1, got -3"),
    ({"hidden_size": 20.0}, "expected hidden_size to be an int"),
    ({"num_layers": 0}, "expected num_layers to be at least 1, got 0"),
    ({"num_layers": 1.5}, "expected num_layers to be an int, got 1.5"),
    ({"num_layers": "2"}, "expected num_layers to be an int, got '2'"),
    ({"bias": 1}, "expected bias to be True or False, got 1"),
    ({"batch_first": None}, "expected batch_first to be True or False, got None"),
    ({"dropout": 1.5}, "expected dropout to be a probability, a number from 0 to 1, got 1.5"),
    ({"dropout": -0.1}, "got -0.1"),
    ({"dropout": True}, "got True"),
    ({"dropout": "a"}, "got 'a'"),
    ({"dropout": float("nan")}, "got nan"),
    ({"dtype": torch.int64}, "floating point"),
    ({"surprise": 1}, "surprise"),
]

# What only some take, or mistake.
OWN_CONSTRUCTIONS: list[tuple[str, dict[str, object], str]] = [
    ("RNN", {"nonlinearity": "sigmoid"}, "expected nonlinearity to be one of 'tanh', 'relu', got 'sigmoid'"),
    ("GRU", {"nonlinearity": "tanh"}, "nonlinearity"),
    ("LSTM", {"nonlinearity": "tanh"}, "nonlinearity"),
    ("RNN", {"proj_size": 5}, "expected no proj_size, got 5: only an LSTM can project its output"),
    ("RNN", {"proj_size": 0}, "expected no proj_size, got 0"),
    ("GRU", {"proj_size": 5}, "expected no proj_size, got 5: only an LSTM can project its output"),
    ("GRU", {"proj_size": 0}, "expected no proj_size, got 0"),
    ("LSTM", {"proj_size": -1}, "expected proj_size to be at least 0, got -1"),
    ("LSTM", {"proj_size": 20}, "expected proj_size to be below hidden_size, 20, got 20"),
    ("LSTM", {"proj_size": 21}, "expected proj_size to be below hidden_size, 20, got 21"),
    ("LSTM", {"proj_size": 2.0}, "expected proj_size to be an int, got 2.0 of type float"),
    ("LSTM", {"proj_size": "2"}, "expected proj_size to be an int, got '2' of type str"),
    ("LSTM", {"proj_size": None}, "expected proj_size to be an int, got None"),
]


every_layer = pytest.mark.parametrize("layer", ["RNN", "GRU", "LSTM"])


@every_layer
@pytest.mark.parametrize(("call", "sentence"), [c[1:] for c in CALLS], ids=[c[0] for c in CALLS])
def test_a_bad_call_of_a_layer_raises_what_torch_raises(layer: str, call: Callable[[Any], object], sentence: str) -> None:
    error = error_of(lambda: call(getattr(elman, layer)(10, 20)))
    assert type(error) is type(error_of(lambda: call(getattr(nn, layer)(10, 20))))
    assert sentence in str(error)


@every_layer
@pytest.mark.parametrize(("call", "sentence"), [c[1:] for c in CELL_CALLS], ids=[c[0] for c in CELL_CALLS])
def test_a_bad_call_of_a_cell_raises_what_torch_raises(layer: str, call: Callable[[Any], object], sentence: str) -> None:
    error = error_of(lambda: call(getattr(elman, f"{layer}Cell")(10, 20)))
    assert type(error) is type(error_of(lambda: call(getattr(nn, f"{layer}Cell")(10, 20))))
    assert sentence in str(error)


def _hx(layer: str, place: int, wrong: Tensor, right: Tensor) -> Tensor | tuple[Tensor, ...]:
    return wrong if layer != "LSTM" else tuple(wrong if k == place else right for k in range(2))


@places
@pytest.mark.parametrize(("x", "wrong", "right", "sentence"), [c[1:] for c in STATES], ids=[c[0] for c in STATES])
def test_a_bad_state_of_a_layer_raises_what_torch_raises(
    layer: str, place: int, name: str, x: Tensor | PackedSequence, wrong: Tensor, right: Tensor, sentence: str
) -> None:
    hx = _hx(layer, place, wrong, right)
    error = error_of(lambda: getattr(elman, layer)(10, 20)(x, hx))
    assert type(error) is type(error_of(lambda: getattr(nn, layer)(10, 20)(x, hx)))
    assert sentence.format(name) in str(error)


@places
@pytest.mark.parametrize(("x", "wrong", "right", "sentence"), [c[1:] for c in CELL_STATES], ids=[c[0] for c in CELL_STATES])
def test_a_bad_state_of_a_cell_raises_what_torch_raises(
    layer: str, place: int, name: str, x: Tensor, wrong: Tensor, right: Tensor, sentence: str
) -> None:
    hx = _hx(layer, place, wrong, right)
    error = error_of(lambda: getattr(elman, f"{layer}Cell")(10, 20)(x, hx))
    if name == "c_0" and "dtype" in sentence:  # torch.nn.LSTMCell computes in the wider dtype, and torch.nn.LSTM raises
        assert type(error) is RuntimeError
    else:
        assert type(error) is type(error_of(lambda: getattr(nn, f"{layer}Cell")(10, 20)(x, hx)))
    assert sentence.format(name) in str(error)


def test_a_projected_state_is_told_in_its_own_axes() -> None:
    theirs, ours = nn.LSTM(10, 20, proj_size=5), elman.LSTM(10, 20, proj_size=5)
    for hx, sentence in (
        ((z(1, 3, 20), z(1, 3, 20)), "expected h_0 of shape (1, 3, 5), (L·D, B, P), got (1, 3, 20)"),
        ((z(1, 3, 5), z(1, 3, 5)), "expected c_0 of shape (1, 3, 20), (L·D, B, H), got (1, 3, 5)"),
    ):
        error = error_of(lambda hx=hx: ours(z(5, 3, 10), hx))
        assert type(error) is type(error_of(lambda hx=hx: theirs(z(5, 3, 10), hx)))
        assert sentence in str(error)


@pytest.mark.parametrize(("module", "x", "state"), [("LSTM", z(5, 3, 10), z(1, 3, 20)), ("LSTMCell", z(3, 10), z(3, 20))])
def test_the_lstm_takes_two_states(module: str, x: Tensor, state: Tensor) -> None:
    theirs, ours = getattr(nn, module)(10, 20), getattr(elman, module)(10, 20)
    error = error_of(lambda: ours(x, (state, state, state)))
    assert type(error) is type(error_of(lambda: theirs(x, (state, state, state))))
    assert str(error) == "expected hx to be a tuple (h_0, c_0), got one of length 3"
    with pytest.raises(RuntimeError, match=r"expected hx to be a tuple \(h_0, c_0\), got one of length 1"):
        ours(x, (state,))
    for hx in (state, torch.stack((state, state)), 1.0):
        with pytest.raises(TypeError, match=r"expected hx to be a tuple \(h_0, c_0\), got (Tensor|float)"):
            ours(x, hx)
    for hx in ((None, state), (state, 1.0)):
        for gradients in (True, False):
            with (
                torch.set_grad_enabled(gradients),
                pytest.raises(TypeError, match=r"expected (h_0|c_0) to be a tensor, got (NoneType|float)"),
            ):
                ours(x, hx)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x, [state, state]), theirs(x, [state, state]))


@every_layer
@pytest.mark.parametrize(("options", "sentence"), CONSTRUCTIONS, ids=[str(c[0]) for c in CONSTRUCTIONS])
def test_a_bad_construction_raises_what_torch_raises(layer: str, options: dict[str, object], sentence: str) -> None:
    arguments = {"input_size": 10, "hidden_size": 20} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of the dropout before it rejects the rest
        expected = error_of_torch(lambda: getattr(nn, layer)(**arguments))
    error = error_of(lambda: getattr(elman, layer)(**arguments))
    assert type(error) is type(expected)
    assert sentence in str(error)


# What programs and PyTorch's own tests recognise an error by.
TORCHS_WORDS: dict[str, Callable[[Any, str], object]] = {
    "no features": lambda library, name: getattr(library, name)(0, 20),
    "features of another type": lambda library, name: getattr(library, name)("10", 20),
    "no units": lambda library, name: getattr(library, name)(10, 0),
    "units of another type": lambda library, name: getattr(library, name)(10, 5.0),
    "no layers": lambda library, name: getattr(library, name)(10, 20, 0),
    "bias": lambda library, name: getattr(library, name)(10, 20, bias=0),
    "batch_first": lambda library, name: getattr(library, name)(10, 20, batch_first="False"),
    "dtype": lambda library, name: getattr(library, name)(10, 20)(z(5, 3, 10).double()),
    "features": lambda library, name: getattr(library, name)(10, 20)(z(5, 3, 12)),
    "features, unbatched": lambda library, name: getattr(library, name)(10, 20)(z(5, 12)),
    "state": lambda library, name: getattr(library, name)(10, 20)(z(5, 3, 10), _states(name, 1, 4, 20)),
    "a state's axes": lambda library, name: getattr(library, name)(10, 20)(z(5, 3, 10), _states(name, 3, 20)),
    "a state's axes, unbatched": lambda library, name: getattr(library, name)(10, 20)(z(5, 10), _states(name, 1, 1, 20)),
}
TORCHS_WORDS_OF_CELLS: dict[str, Callable[[Any, str], object]] = {
    "features": lambda library, name: getattr(library, name)(10, 20)(z(3, 11)),
    "features, unbatched": lambda library, name: getattr(library, name)(10, 20)(z(11)),
    "units": lambda library, name: getattr(library, name)(10, 20)(z(3, 10), _states(name, 3, 21)),
    "units, unbatched": lambda library, name: getattr(library, name)(10, 20)(z(10), _states(name, 21)),
    "batch": lambda library, name: getattr(library, name)(10, 20)(z(3, 10), _states(name, 5, 20)),
    "rank": lambda library, name: getattr(library, name)(10, 20)(z(3, 10), _states(name, 3, 1, 1, 20)),
}


def _states(name: str, *shape: int) -> Tensor | tuple[Tensor, Tensor]:
    return (z(shape), z(shape)) if name.startswith("LSTM") else z(shape)


@every_layer
@pytest.mark.parametrize("call", TORCHS_WORDS.values(), ids=TORCHS_WORDS)
def test_torchs_own_words_are_there(layer: str, call: Callable[[Any, str], object]) -> None:
    theirs, ours = error_of_torch(lambda: call(nn, layer)), error_of(lambda: call(elman, layer))
    assert f"(torch.nn: {theirs})" in str(ours)
    assert type(ours) is type(theirs)


@every_layer
@pytest.mark.parametrize("call", TORCHS_WORDS_OF_CELLS.values(), ids=TORCHS_WORDS_OF_CELLS)
def test_torchs_own_words_are_there_for_a_cell(layer: str, call: Callable[[Any, str], object]) -> None:
    theirs, ours = (error_of(lambda library=library: call(library, f"{layer}Cell")) for library in (nn, elman))
    found = re.search(r"\(torch.nn: (.*)\)$", str(ours))
    assert found is not None
    assert found[1] in str(theirs)  # which has "RNNCell: " before it, for example
    assert type(ours) is type(theirs)


@pytest.mark.parametrize(("layer", "options", "sentence"), OWN_CONSTRUCTIONS, ids=str)
def test_an_option_of_another_network_raises_what_torch_raises(layer: str, options: dict[str, object], sentence: str) -> None:
    error = error_of(lambda: getattr(elman, layer)(10, 20, **options))
    assert type(error) is type(error_of(lambda: getattr(nn, layer)(10, 20, **options)))
    assert sentence in str(error)


@every_layer
@pytest.mark.parametrize("suffix", ["", "Cell"])
@pytest.mark.parametrize(
    ("x", "got"),
    [(None, "NoneType"), ([], "list"), ((z(5, 3, 10), None), "tuple"), ([[1.0]], "list: convert it with torch.tensor(x)")],
    ids=["None", "nothing", "a tensor and more", "numbers"],
)
def test_an_input_that_is_no_tensor_is_a_type_error(layer: str, suffix: str, x: object, got: str) -> None:
    with pytest.raises(TypeError, match=rf"expected x to be a tensor( or a PackedSequence)?, got {re.escape(got)}$"):
        getattr(elman, layer + suffix)(10, 20)(x)


@pytest.mark.parametrize("name", ["RNN", "RNNCell", "GRU", "GRUCell"])
@pytest.mark.parametrize("hx", [(z(1, 3, 20),), (z(1, 3, 20), z(1, 3, 20)), 1.0], ids=["tuple", "pair", "float"])
def test_a_tuple_where_a_tensor_is_due_is_a_type_error(name: str, hx: object) -> None:
    with pytest.raises(TypeError, match=r"expected hx to be a tensor, got (float|tuple: there is one state, so pass the tensor alone)$"):
        getattr(elman, name)(10, 20)(z(3, 10), hx)


def test_batch_first_is_told_in_its_own_axes() -> None:
    with pytest.raises(ValueError, match=re.escape("(T, I) or (B, T, I), got 1")):
        elman.RNN(10, 20, batch_first=True)(z(10))
    with pytest.raises(RuntimeError, match="expected at least one step"):
        elman.RNN(10, 20, batch_first=True)(z(3, 0, 10))
    with pytest.raises(RuntimeError, match=re.escape("expected hx of shape (1, 5, 20)")):
        elman.RNN(10, 20, batch_first=True)(z(5, 3, 10), z(1, 3, 20))


def test_a_cell_with_an_unknown_nonlinearity_raises_what_torchs_first_call_raises() -> None:
    expected = error_of(lambda: nn.RNNCell(10, 20, nonlinearity="sigmoid")(z(3, 10)))
    error = error_of(lambda: elman.RNNCell(10, 20, nonlinearity="sigmoid"))
    assert type(error) is type(expected)
    assert "expected nonlinearity to be one of 'tanh', 'relu', got 'sigmoid'" in str(error)


@pytest.mark.parametrize(
    ("layer", "name"), [("RNN", "weight_ih_l0"), ("RNN", "weight_hh_l0"), ("GRU", "bias_hh_l0"), ("LSTM", "weight_ih_l0")], ids=str
)
def test_a_parameter_of_another_shape_is_an_error(layer: str, name: str) -> None:
    rnn, x = getattr(elman, layer)(10, 20), z(5, 3, 10)
    for wrong in (z(1), z(10, 20), z(400, 1), z(0)):
        with pytest.raises(RuntimeError, match=f"expected {name} of shape .*, got "):
            functional_call(rnn, {name: wrong}, (x,))
    setattr(rnn, name, nn.Parameter(z(7)))
    with pytest.raises(RuntimeError, match=re.escape("got (7,): it does not fit the module's class and sizes")):
        rnn(x)


def test_parameters_of_different_dtypes_are_an_error() -> None:
    rnn = elman.RNN(10, 20)
    rnn.bias_hh_l0.data = rnn.bias_hh_l0.data.double()
    with pytest.raises(RuntimeError, match=r"expected bias_hh_l0 of torch\.float32, as weight_ih_l0 is, got torch\.float64"):
        rnn(z(5, 3, 10))


def test_parameters_on_different_devices_are_an_error() -> None:
    with pytest.raises(RuntimeError, match="expected bias_hh_l0 on cpu, where weight_ih_l0 is, got meta"):
        functional_call(elman.RNN(10, 20), {"bias_hh_l0": z(20, device="meta")}, (z(5, 3, 10),))


@every_layer
def test_dropout_on_one_layer_warns_in_torchs_words(layer: str) -> None:
    with pytest.warns(UserWarning, match="dropout") as warned:
        _ = [getattr(library, layer)(10, 20, dropout=0.5) for library in (nn, elman)]
    theirs, ours = warned
    assert (str(ours.message), ours.filename) == (str(theirs.message), __file__)


# --- What is written past every guard ---------------------------------------------------------------------------------


@every_layer
@pytest.mark.parametrize(
    ("name", "value", "x", "hx"),
    [
        ("input_size", 3, (5, 3, 3), None),
        ("input_size", 1, (5, 3, 1), None),
        ("num_layers", 1, (5, 3, 6), (1, 3, 8)),
        ("batch_first", True, (3, 5, 6), (3, 5, 8)),
    ],
    ids=str,
)
def test_the_kernels_run_what_their_operands_are_made_for(
    layer: str, name: str, value: object, x: tuple[int, ...], hx: tuple[int, ...] | None
) -> None:
    """Whatever a module says of itself, its stack is what runs: what does not fit the stack is not read."""
    rnn = getattr(elman, layer)(6, 8, num_layers=3)
    vars(rnn)[name] = value
    states = None if hx is None else (z(*hx), z(*hx)) if layer == "LSTM" else z(*hx)
    with pytest.raises(RuntimeError):
        rnn(z(*x), states)


@pytest.mark.parametrize("cell", ["RNNCell", "GRUCell", "LSTMCell"])
def test_so_do_those_of_a_cell(cell: str) -> None:
    step = getattr(elman, cell)(6, 8)
    vars(step)["input_size"] = 3
    with pytest.raises(RuntimeError):
        step(z(5, 3))


@every_layer
def test_another_stack_needs_other_parameters(layer: str) -> None:
    rnn = getattr(elman, layer)(6, 8)
    vars(rnn)["stack"] = getattr(elman, layer)(6, 800, num_layers=2).stack
    vars(rnn)["_params"] = rnn._own_params  # nor do they depend on the layer's checks
    with pytest.raises((RuntimeError, ValueError)):
        rnn(z(5, 3, 6))


@native.required
@pytest.mark.parametrize("batch", [1, 2, 200_000])
def test_states_of_another_batch_than_the_packed_sequence_are_refused_by_the_kernels(batch: int) -> None:
    """Where a state was permuted after it was checked, it may have lost its sequences."""
    gru = elman.GRU(6, 256)
    spans = Spans(torch.tensor([3]))
    with pytest.raises(RuntimeError, match=rf"expected initial state 0 of shape \(1, 3, 256\) and float32, got \(1, {batch}, 256\)"):
        call.forward(gru.stack, Operands(z(3, 6), (z(1, 1, 256).expand(1, batch, 256),), tuple(gru.parameters()), spans), False, save=False)


@pytest.mark.parametrize("indices", [[0], [0, 0, 0, 1], [2, 1, 7], [0, -1, 1]], ids=str)
@every_layer
def test_a_packed_sequence_with_wrong_indices_reads_no_other_memory(layer: str, indices: list[int]) -> None:
    packed = tuple.__new__(PackedSequence, (z(7, 6), torch.tensor([3, 2, 2]), torch.tensor(indices), torch.tensor(indices)))
    rnn = getattr(elman, layer)(6, 8)
    with pytest.raises((RuntimeError, IndexError)):
        rnn(packed, (z(1, 3, 8), z(1, 3, 8)) if layer == "LSTM" else z(1, 3, 8))
