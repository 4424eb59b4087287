"""What a type checker and an editor know of the layers. `make lint` runs mypy on this file; the tests run it."""

from __future__ import annotations

import ast
import inspect
import pydoc
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from typing_extensions import assert_type

import elman

LAYERS = ("RNN", "GRU", "LSTM")
CELLS = ("RNNCell", "GRUCell", "LSTMCell")


def test_a_layers_results_have_types() -> None:
    x, packed = torch.randn(5, 3, 4), pack_sequence([torch.randn(5, 4), torch.randn(2, 4)])
    rnn, gru, lstm = elman.RNN(4, 6), elman.GRU(4, 6), elman.LSTM(4, 6)
    output, h_n = assert_type(rnn.forward(x, lengths=[5, 2, 0]), tuple[Tensor, Tensor])
    assert_type(gru.forward(x, h_n), tuple[Tensor, Tensor])
    assert_type(gru.forward(packed), tuple[PackedSequence, Tensor])
    _, state = assert_type(lstm.forward(x), tuple[Tensor, tuple[Tensor, Tensor]])
    assert_type(lstm.forward(x, state, reset=torch.zeros(5, 3) > 0), tuple[Tensor, tuple[Tensor, Tensor]])
    assert_type(lstm.forward(packed), tuple[PackedSequence, tuple[Tensor, Tensor]])
    assert output.shape == (5, 3, 6)


def test_a_cells_results_have_types() -> None:
    x = torch.randn(3, 4)
    h = assert_type(elman.RNNCell(4, 6).forward(x), Tensor)
    assert_type(elman.GRUCell(4, 6).forward(x, h), Tensor)
    state = assert_type(elman.LSTMCell(4, 6).forward(x), tuple[Tensor, Tensor])
    assert_type(elman.LSTMCell(4, 6).forward(x, state), tuple[Tensor, Tensor])


def test_wrong_arguments_are_known_to_be_wrong() -> None:
    """Mypy reports a comment of this kind that nothing needs."""
    x = torch.randn(5, 3, 4)
    with pytest.raises(ValueError, match="only an LSTM"):
        elman.GRU(4, 6, proj_size=2)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="hx to be a tuple"):
        elman.LSTM(4, 6).forward(x, x)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="unexpected keyword"):
        elman.RNN(4, 6, hidden=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_positional_arguments_are_torchs_and_keywords_only_ours(name: str) -> None:
    parameters = inspect.signature(getattr(elman, name)).parameters
    positional = [key for key, parameter in parameters.items() if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    named = [key for key, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY]
    sizes = ["input_size", "hidden_size"]
    expected = {
        "RNN": [*sizes, "num_layers", "nonlinearity", "bias", "batch_first", "dropout", "bidirectional", "device", "dtype"],
        "GRU": [*sizes, "num_layers", "bias", "batch_first", "dropout", "bidirectional", "device", "dtype"],
        "LSTM": [*sizes, "num_layers", "bias", "batch_first", "dropout", "bidirectional", "proj_size", "device", "dtype"],
        "RNNCell": [*sizes, "bias", "nonlinearity", "device", "dtype"],
        "GRUCell": [*sizes, "bias", "device", "dtype"],
        "LSTMCell": [*sizes, "bias", "device", "dtype"],
    }
    assert positional == expected[name]
    assert sorted(set(named) - {"proj_size"}) == (["learn_initial_state", "recompute"] if name in LAYERS else [])


@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_help_tells_every_argument_result_and_parameter(name: str) -> None:
    kind: Any = getattr(elman, name)
    text = pydoc.plain(pydoc.render_doc(kind))
    arguments = {*inspect.signature(kind).parameters, *inspect.signature(kind.forward).parameters} - {"self"}
    parameters = {re.sub(r"_l\d.*", "_l0", key) for key, _ in kind(3, 4).named_parameters()}
    for word in {f"{argument}: " for argument in arguments} | parameters | {"Returns:", "Raises:", "Source:", ">>> "}:
        assert word in text, word


@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_each_doc_is_in_the_source_where_an_editor_looks(name: str) -> None:
    """In the class itself, or in the class that a method is inherited from: nothing is put together at run time."""
    kind: Any = getattr(elman, name)
    (written,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(written, ast.ClassDef)
    assert ast.get_docstring(written) == inspect.getdoc(kind)
    for method in ("__init__", "forward"):
        owner = next(base for base in kind.__mro__ if method in vars(base) and vars(base)[method].__doc__)
        assert issubclass(owner, nn.Module)
        assert owner.__module__.startswith("elman.layers")
        assert "Args:" in inspect.getsource(vars(owner)[method])
