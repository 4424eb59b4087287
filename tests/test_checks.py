"""Whatever is given for whatever argument, either works or is told in one sentence: the product of arguments and values, and of layouts."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import elman
from native import tensors_asked

if TYPE_CHECKING:
    from collections.abc import Callable

# torch warns of its quantized, nested and sparse compressed tensors where they are made.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def _quantized(tensor: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


def _nested(tensor: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor(list(tensor))


VALUES: dict[str, object] = {
    "None": None,
    "a str": "a",
    "bytes": b"a",
    "True": True,
    "a NumPy bool": np.True_,
    "-1": -1,
    "2**70": 2**70,
    "1.5": 1.5,
    "nan": float("nan"),
    "inf": float("inf"),
    "1j": 1j,
    "a NumPy int": np.int64(2),
    "a NumPy float": np.float32(0.5),
    "a 0-d array": np.array(2),
    "an array": np.zeros((2, 2)),
    "an empty array": np.zeros(0),
    "an array of objects": np.array([None, 1]),
    "a list": [1, 2],
    "an empty list": [],
    "a list of str": ["a", "b"],
    "a pair of None": (None, None),
    "a pair of tuples": ((), ()),
    "a dict": {},
    "a set": {1},
    "a type": int,
    "a function": len,
    "a module": nn.Identity(),
    "a 0-d tensor": torch.tensor(2),
    "an empty tensor": torch.zeros(0),
    "a matrix": torch.zeros(2, 2),
    "a complex matrix": torch.zeros(2, 2, dtype=torch.complex64),
    "a sparse matrix": torch.zeros(2, 2).to_sparse(),
    "a matrix on meta": torch.zeros(2, 2, device="meta"),
    "a quantized matrix": _quantized(torch.zeros(2, 2)),
    "a nested tensor": _nested(torch.zeros(2, 3, 3)),
    "a PackedSequence": pack_sequence([torch.zeros(2, 3)]),
}
# torch's own sentences of devices and dtypes, which say what a person needs.
TORCHS = (
    "Expected one of cpu, cuda|Device index must not be negative|Cannot access accelerator|Overflow when unpacking long|"
    "Only Tensors of floating point and complex dtype|Found no NVIDIA driver"
)

SIZES = {"input_size": 3, "hidden_size": 4}
OPTIONS = (
    "num_layers",
    "bias",
    "batch_first",
    "dropout",
    "bidirectional",
    "device",
    "dtype",
    "proj_size",
    "recompute",
    "learn_initial_state",
)
X = torch.randn(5, 2, 3)
PACKED = PackedSequence(torch.randn(8, 3), torch.tensor([2, 2, 2, 1, 1]), torch.tensor([1, 0]), torch.tensor([1, 0]))

every_layer = pytest.mark.parametrize("layer", ["RNN", "GRU", "LSTM"])


def _unclear(call: Callable[[Any], object], skipped: tuple[str, ...] = ()) -> list[str]:
    """What is said of values that neither work nor are told in a sentence of ours."""
    message = []
    for name, value in VALUES.items():
        if name in skipped:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                call(value)
            except (TypeError, ValueError, RuntimeError, AttributeError) as error:
                if not re.match(f"expected [^\n]*$|{TORCHS}", str(error)):
                    message.append(f"{name}: {type(error).__name__}: {error}")
    return message


@pytest.mark.parametrize("suffix", ["", "Cell"])
@every_layer
def test_any_value_for_an_option_works_or_is_told(layer: str, suffix: str) -> None:
    options = (*SIZES, *(OPTIONS if not suffix else ("bias", "device", "dtype")), *(("nonlinearity",) if layer == "RNN" else ()))
    for option in options:
        assert _unclear(lambda value, option=option: getattr(elman, layer + suffix)(**SIZES | {option: value})) == [], option


@pytest.mark.parametrize("argument", ["input", "hx", "lengths", "reset"])
@every_layer
def test_any_value_for_an_argument_works_or_is_told(layer: str, argument: str) -> None:
    rnn = getattr(elman, layer)(3, 4)
    named = {"input": "x"}.get(argument, argument)
    calls: dict[str, Callable[[Any], object]] = {
        "padded": lambda value: rnn(**{"input": X} | {argument: value}),
        "unbatched": lambda value: rnn(**{"input": X[:, 0]} | {argument: value}),
        "packed": lambda value: rnn(**{"input": PACKED} | {argument: value}),
        "trace": lambda value: rnn.trace(**{"x": X} | {"state" if named == "hx" else named: value}),
        "why": lambda value: elman.why(rnn, **{"x": X} | {named: value}),
        "chunks": lambda value: list(elman.chunks(rnn, **{"x": X, "size": 2} | {named: value})),
    }
    if argument == "hx":
        calls["a pair"] = lambda value: rnn(X, (value, value))
    for form, call in calls.items():
        assert _unclear(call) == [], form


@every_layer
def test_any_value_for_a_cells_argument_works_or_is_told(layer: str) -> None:
    cell = getattr(elman, f"{layer}Cell")(3, 4)
    for call in (cell, lambda value: cell(X[0], value), lambda value: cell(X[0], (value, value)), lambda value: elman.why(cell, value)):
        assert _unclear(call) == []


@pytest.mark.parametrize("part", ["data", "batch_sizes", "sorted_indices", "unsorted_indices"])
@every_layer
def test_any_value_for_a_part_of_a_packed_sequence_works_or_is_told(layer: str, part: str) -> None:
    rnn = getattr(elman, layer)(3, 4)
    for call in (rnn, rnn.trace, lambda x: elman.why(rnn, x)):
        assert _unclear(lambda value, call=call: call(PACKED._replace(**{part: value}))) == []


@every_layer
def test_any_value_for_a_parameter_works_or_is_told(layer: str) -> None:
    rnn = getattr(elman, layer)(3, 4)
    for name, parameter in list(rnn.named_parameters()):

        def put(value: object, name: str = name) -> object:
            rnn._parameters[name] = value
            return rnn(X)

        assert _unclear(put) == [], name
        rnn._parameters[name] = parameter


def test_any_size_of_a_chunk_and_any_module_to_ask_about_works_or_is_told() -> None:
    rnn = elman.GRU(3, 4)
    assert _unclear(lambda value: list(elman.chunks(rnn, X, value))) == []
    assert _unclear(lambda value: elman.why(value, X)) == []
    assert _unclear(lambda value: elman.chunks(value, X, 2)) == []


@pytest.mark.parametrize(
    "size", [np.int64(3), np.int32(3), np.uint8(3), torch.tensor(3), np.array(3)], ids=lambda size: type(size).__name__
)
@pytest.mark.parametrize("suffix", ["", "Cell"])
@every_layer
def test_a_size_may_be_any_integer(layer: str, suffix: str, size: Any) -> None:
    module = getattr(elman, layer + suffix)(size, size + 1)
    assert (type(module.input_size), module.input_size, type(module.hidden_size), module.hidden_size) == (int, 3, int, 4)
    assert repr(module) == f"{layer}{suffix}(3, 4)"
    assert len(list(elman.chunks(elman.GRU(3, 4), X, size))) == 2


# --- Layouts ----------------------------------------------------------------------------------------------------------

DENSE = "expected {0} to be dense, torch.strided, got {1}: convert it with {0}.to_dense()"
NESTED = "expected {0} to be a tensor with one size for each axis, got a nested tensor: pad it with torch.nested.to_padded_tensor"
LAYOUTS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "coo": (lambda t: t.to_sparse(), DENSE.format("{0}", "torch.sparse_coo")),
    "oneDNN": (lambda t: t.to_mkldnn(), DENSE.format("{0}", "torch._mkldnn")),
    "nested": (_nested, NESTED),
    "jagged": (lambda t: torch.nested.nested_tensor(list(t), layout=torch.jagged), NESTED),
    "quantized": (_quantized, "{0}.dequantize()"),
}


@pytest.mark.parametrize(("change", "message"), LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("options", [{}, {"learn_initial_state": True}], ids=["plain", "learned"])
@pytest.mark.parametrize("asked", [False, True], ids=["shown", "asked"])
@every_layer
def test_a_tensor_that_is_no_plain_array_is_told_what_to_become(
    layer: str, asked: bool, options: dict[str, bool], change: Callable[[Tensor], Tensor], message: str
) -> None:
    rnn, cell = getattr(elman, layer)(3, 4, **options), getattr(elman, f"{layer}Cell")(3, 4)
    states = {"RNN": ("hx",), "GRU": ("hx",), "LSTM": ("h_0", "c_0")}[layer]

    def raises(name: str, call: Callable[[], object]) -> None:
        for to in (None, torch.bfloat16, torch.float16):  # under autocast, where operands are converted
            refused = pytest.raises((RuntimeError, ValueError), match=re.escape(message.format(name)))
            with tensors_asked(asked), torch.autocast("cpu", to, enabled=to is not None), refused:
                call()

    for call in (rnn, rnn.trace, lambda x: list(elman.chunks(rnn, x, 2)), lambda x: elman.why(rnn, x)):
        raises("x", lambda call=call: call(change(X)))
    if message != NESTED:  # of vectors there is no nested tensor
        raises("x", lambda: rnn(PACKED._replace(data=change(PACKED.data))))
        raises("x", lambda: cell(change(X[0])))
    for index, name in enumerate(states):
        for module, x, right in ((rnn, X, torch.zeros(1, 2, 4)), (cell, X[0], torch.zeros(2, 4))):
            if module is cell and message == NESTED:
                continue
            given = tuple([change(right) if place == index else right for place in range(len(states))])
            raises(name, lambda module=module, x=x, given=given: module(x, given if len(states) > 1 else given[0]))


@pytest.mark.parametrize("to", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float64], ids=str)
@every_layer
def test_autocast_does_not_change_what_it_has_no_numbers_for(layer: str, dtype: torch.dtype, to: torch.dtype) -> None:
    """In torch.nn the products refuse it; a cast would drop a complex number's imaginary part."""
    for module, axes in ((getattr(elman, layer)(3, 4), (1,)), (getattr(elman, f"{layer}Cell")(3, 4), ())):
        x, state = torch.ones(*axes, 2, 3), torch.ones(*axes, 2, 4)
        with torch.autocast("cpu", to):
            with pytest.raises((RuntimeError, ValueError), match=f"expected x of torch.float32, .* got {dtype}: convert x with x.to"):
                module(x.to(dtype))
            with pytest.raises(RuntimeError, match=f"torch.float32, the dtype of x, got {dtype}|must have the same dtype, but got Double"):
                module(x, (state.to(dtype), state) if layer == "LSTM" else state.to(dtype))


@pytest.mark.parametrize("make", [lambda t: t.to_sparse(), lambda t: t.to_sparse_csr()], ids=["coo", "csr"])
def test_a_sparse_matrix_is_told_to_become_dense(make: Callable[[Tensor], Tensor]) -> None:
    rnn = elman.GRU(3, 4)
    with pytest.raises(RuntimeError, match=re.escape("convert it with x.to_dense()")):
        rnn(make(X[:, 0]))
    with pytest.raises(RuntimeError, match=re.escape("convert it with reset.to_dense()")):
        rnn(X, reset=make(torch.ones(5, 2, dtype=torch.bool)))
    with pytest.raises(RuntimeError, match=re.escape("convert it with weight_ih_l0.to_dense()")):
        functional_call(rnn, {"weight_ih_l0": make(rnn.weight_ih_l0.detach())}, (X,))
    with pytest.raises(RuntimeError, match=re.escape("convert it with lengths.to_dense()")):
        rnn(X, lengths=torch.tensor([2, 1]).to_sparse())
    with pytest.raises(RuntimeError, match="expected lengths with numbers, got a tensor on the meta device"):
        rnn(X, lengths=torch.tensor([2, 1], device="meta"))
