"""Weights from Keras's arrays: the module computes what Keras computed (keras_numbers.json), and the arrays come back."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import elman

NUMBERS = json.loads(Path(__file__).with_name("keras_numbers.json").read_text(encoding="utf-8"))
CASES = [name for name, numbers in NUMBERS.items() if "arrays" in numbers]

every_case = pytest.mark.parametrize("case", CASES)


def arrays(case: str) -> list[np.ndarray]:
    return [np.array(each) for each in NUMBERS[case]["arrays"]]


def tolerance(case: str) -> float:
    """Keras rounds the products of layers that it runs step by step to float32 even in float64, and sums them as the processor does best:
    of a SimpleRNN two of at most 2 a step, three steps, slopes of at most 1. An LSTM has four gates; without tanh, sums grow to 14, and
    their errors to 68 * 2**-24.
    """
    of_simple = 6 * 2 * 2.0**-24 * 2
    return of_simple if case.startswith("SimpleRNN") else 4 * of_simple if case in ("linear", "reset-before", "cell") else 1e-12


def options(case: str) -> dict[str, object]:
    """What the arrays do not tell."""
    stated: dict[str, object] = {"activation": "relu"} if "relu" in case else {}
    return stated | ({"reset_after": True} if case.startswith("GRU") and "no-bias" in case else {})


def run(module: torch.nn.Module, case: str) -> np.ndarray:
    return module(torch.tensor(NUMBERS[case]["x"], dtype=torch.float64))[0].detach().numpy()


@every_case
def test_a_layers_arrays_make_a_module_that_computes_the_same(case: str) -> None:
    module = elman.from_keras(arrays(case), **options(case))
    assert type(module).__name__ == case.split("-")[0].removeprefix("Simple")
    assert module.bidirectional is ("bidirectional" in case)
    np.testing.assert_allclose(run(module, case), NUMBERS[case]["output"], rtol=0, atol=tolerance(case))


@every_case
def test_a_modules_arrays_are_keras_again(case: str) -> None:
    (back,) = elman.to_keras(elman.from_keras(arrays(case), **options(case)))
    for ours, theirs in zip(back, arrays(case), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.flags.c_contiguous


def test_two_biases_are_added_up_where_keras_has_one() -> None:
    lstm = elman.LSTM(3, 4)
    ((_, _, bias),) = elman.to_keras(lstm)
    i, f, g, o = (lstm.bias_ih_l0 + lstm.bias_hh_l0).detach().chunk(4)
    np.testing.assert_array_equal(bias, torch.cat((i, f, g, o)))


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_layers_come_back_from_keras_as_they_went(kind: str, bidirectional: bool) -> None:
    module = getattr(elman, kind)(3, 4, num_layers=3, bidirectional=bidirectional)
    again = elman.from_keras(elman.to_keras(module), batch_first=False)
    assert (again.num_layers, again.batch_first) == (3, False)
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(again(x)[0], module(x)[0], rtol=0, atol=1e-6)


def test_the_module_is_its_own_and_can_be_trained() -> None:
    given = arrays("LSTM")
    before = torch.random.get_rng_state()
    lstm = elman.from_keras(given)
    assert torch.equal(torch.random.get_rng_state(), before)
    given[0][:] = 0
    np.testing.assert_allclose(run(lstm, "LSTM"), NUMBERS["LSTM"]["output"], rtol=0, atol=1e-12)
    lstm(torch.randn(2, 3, 2, dtype=torch.float64))[0].sum().backward()
    assert all(parameter.is_leaf and parameter.grad is not None for parameter in lstm.parameters())
    assert lstm.training
    assert elman.to_torch(lstm)(torch.randn(2, 3, 2, dtype=torch.float64))[0].shape == (2, 3, 2)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8"])
@pytest.mark.parametrize("case", ["SimpleRNN", "GRU", "LSTM"])
def test_the_module_has_the_arrays_dtype(case: str, dtype: str) -> None:
    module, same = elman.from_keras([array.astype(dtype) for array in arrays(case)]), elman.from_keras(arrays(case))
    for ours, double in zip(module.parameters(), same.parameters(), strict=True):
        assert ours.dtype is {"2": torch.float16, "4": torch.float32, "8": torch.float64}[dtype[2]]
        np.testing.assert_array_equal(ours.detach(), double.detach().to(ours.dtype))


def test_a_layer_object_is_asked_for_its_arrays_and_config() -> None:
    class LSTM(SimpleNamespace):  # Keras tells its layers by their classes' names
        name = "encoder"

        def get_weights(self) -> list[np.ndarray]:
            return arrays("LSTM")

        def get_config(self) -> dict[str, object]:
            return {"activation": "tanh", "recurrent_activation": "sigmoid", "go_backwards": False, **vars(self)}

    class Model(SimpleNamespace):
        get_weights = get_config = None

    assert type(elman.from_keras(LSTM())) is elman.LSTM
    model = Model(layers=[LSTM(), Model(layers=[LSTM(name="decoder")])])
    assert elman.from_keras(model, ["encoder", "decoder"]).num_layers == 2
    with pytest.raises(ValueError, match=r"expected one recurrent layer, got 2, \['encoder', 'decoder'\]: choose with layer="):
        elman.from_keras(model)
    with pytest.raises(
        ValueError, match="expected encoder to have recurrent_activation='sigmoid', as Elman's LSTM does, got 'hard_sigmoid'"
    ):
        elman.from_keras(LSTM(recurrent_activation="hard_sigmoid"))
    with pytest.raises(ValueError, match="expected no activation for encoder, whose settings the source contains"):
        elman.from_keras(LSTM(), activation="tanh")


GRU, LSTM = arrays("GRU"), arrays("LSTM")


@pytest.mark.parametrize(
    ("source", "options", "error", "said"),
    [
        (
            [*GRU[:2], GRU[2][0]],
            {},
            ValueError,
            "the layer to be a GRU with reset_after=True, got reset_after=False: its reset",
        ),
        (GRU[:2], {}, ValueError, "expected reset_after=True or False for the layer, a GRU without biases"),
        (GRU[:2], {"reset_after": False}, ValueError, "no weights turn one into the other; run it in Keras, or train it with"),
        (GRU[:2], {"reset_after": "yes"}, ValueError, "to be a GRU with reset_after=True, got reset_after='yes': its reset"),
        (GRU, {"reset_after": False}, ValueError, "expected reset_after=True for the layer, a GRU whose bias says so, got False"),
        (LSTM, {"activation": "elu"}, ValueError, "expected the layer to have activation='tanh', as Elman's LSTM does, got 'elu'"),
        (arrays("SimpleRNN"), {"activation": "elu"}, ValueError, "expected the layer to have activation='tanh' or 'relu'.*got 'elu'"),
        (LSTM[:1], {}, ValueError, "expected 2 or 3 arrays in the layer, kernel, recurrent kernel and bias, .* got 1"),
        ([LSTM, LSTM[:1]], {}, ValueError, "in layer 1, .* got 1"),
        (
            [LSTM, arrays("GRU")],
            {},
            ValueError,
            r"expected layers of one kind, .* got layer 0 \(lstm, 2 units, one direction\) and layer 1 \(gru",
        ),
        (
            [[np.ones((5, 8)), *LSTM[1:]], [np.ones((3, 8)), *LSTM[1:]]],
            {},
            ValueError,
            "expected layer 1 to take the 2 outputs of layer 0, got",
        ),
        ([LSTM[0].T, *LSTM[1:]], {}, ValueError, "expected a kernel .inputs, gates.units. and a recurrent kernel"),
        ([np.ones((2, 10)), np.ones((2, 10))], {}, ValueError, "expected 1, 3 or 4 gates of 2 units in the layer"),
        ([*LSTM[:2], LSTM[2][:-1]], {}, ValueError, "expected bias_ih of the layer to be .8,. for 4 gates of 2 units, got .7,."),
        ([*LSTM[:2], LSTM[2].astype("f4")], {}, ValueError, "expected one dtype in the layer, got float64 and float32"),
        ([array.astype(int) for array in LSTM], {}, ValueError, "expected the layer to be float16, float32 or float64, got int64"),
        ([np.ones((0, 8)), np.ones((0, 8))], {}, ValueError, "expected a kernel"),
        ([*LSTM[:2], [0.0] * 8], {}, TypeError, "expected the list of arrays of layer.get_weights"),
        ([], {}, ValueError, "expected 2 or 3 arrays"),
        (3, {}, TypeError, "expected a file's path, a layer of Keras or its list of arrays, got 3"),
        (LSTM, {"layer": "lstm"}, ValueError, "expected no layer with a list of arrays"),
        (LSTM, {"batch_first": 1}, TypeError, "expected batch_first to be True or False, got 1"),
    ],
)
def test_what_is_wrong_is_said(source: object, options: dict[str, object], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        elman.from_keras(source, **options)


def test_what_keras_has_no_layer_for_is_said() -> None:
    for module, error, said in (
        (elman.LSTM(3, 4, proj_size=2), ValueError, "got one with proj_size, which Keras's layers do not have"),
        (elman.GRU(3, 4, learn_initial_state=True), ValueError, "got one with learn_initial_state"),
        (elman.GRU(3, 4, dtype=torch.bfloat16), ValueError, r"expected .* NumPy has, got torch.bfloat16: pass rnn.float\(\)"),
        (elman.GRU(3, 4, device="meta"), ValueError, "got one on the meta device"),
        (torch.nn.LSTM(3, 4), TypeError, "expected module to be one of Elman's layers"),
        (elman.LSTMCell(3, 4), TypeError, "got elman.*LSTMCell"),
    ):
        with pytest.raises(error, match=said):
            elman.to_keras(module)
