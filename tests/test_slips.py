"""Slips that a newcomer makes: the error names the call that was meant."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

import elman


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rnn, x: rnn(x.numpy()), "got ndarray: convert it with torch.from_numpy(x)"),
        (lambda rnn, x: rnn(x, [5, 3, 0]), "got list of integers: did you mean lengths=?"),
        (lambda rnn, x: elman.LSTM(10, 20)(x, [5, 3]), "got list of integers: did you mean lengths=?"),
        (lambda rnn, x: rnn(x, lengths=5), "of 3 integers, one for each sequence of x, got int"),
        (lambda rnn, x: rnn(x, reset=[2]), "make it with reset = torch.zeros(5, 3).bool(), and mark step 2 with reset[2] = True"),
        (lambda rnn, x: rnn(x[:, 0], reset=[2]), "make it with reset = torch.zeros(5,).bool(), and mark step 2 with reset[2] = True"),
        (lambda rnn, x: elman.stream(torch.nn.GRU(10, 20)), "got torch.nn.GRU: elman.convert(rnn) makes it one"),
        (lambda rnn, x: elman.why(torch.nn.GRUCell(10, 20), x), "got torch.nn.GRUCell: elman.convert(rnn) makes it one"),
        (lambda rnn, x: elman.stream(elman.GRUCell(10, 20)), "GRUCell: a cell runs one step, and its layer a sequence"),
        (lambda rnn, x: elman.stream(torch.nn.GRUCell(10, 20)), "GRUCell: a cell runs one step, and its layer a sequence"),
        (lambda rnn, x: elman.stream(torch.nn.Sequential(rnn)), "got torch.nn.Sequential: pass the layer that is inside it"),
        (lambda rnn, x: elman.convert(torch.nn.GRU), "expected convert to get a module, got the class GRU"),
        (lambda rnn, x: rnn(x, reset=2), "NumPy array of shape (5, 3), (T, B), True where a fresh sequence begins, got int: make it with"),
        (lambda rnn, x: rnn(x, (torch.zeros(1, 3, 20),) * 2), "got tuple: there is one state, so pass the tensor alone"),
        (lambda rnn, x: rnn.trace(x, hx=torch.zeros(1, 3, 20)), "expected no argument hx, got one: did you mean state=?"),
        (lambda rnn, x: rnn.trace(x, length=[5, 3, 0]), "expected no argument length, got one: did you mean lengths=?"),
    ],
)
def test_a_slip_of_the_kind_is_told_how_to_mend(call: Any, message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        call(elman.GRU(10, 20), torch.randn(5, 3, 10))


def test_a_slip_of_the_shape_is_told_how_to_mend() -> None:
    gru, x = elman.GRU(10, 20, num_layers=2, batch_first=True), torch.randn(3, 5, 10)
    with pytest.raises(RuntimeError, match=r"got \(3, 2, 20\): .* swap its axes with hx\.swapaxes\(0, 1\)"):
        gru(x, torch.zeros(3, 2, 20))
    with pytest.raises(RuntimeError, match=r"got 3: x has shape \(3, 10\); make the stream with elman\.stream\(rnn, batch_size=3\)$"):
        elman.stream(gru).step(x[:, 0])


def test_only_what_torch_says_is_quoted() -> None:
    gru, x = elman.GRU(10, 20), torch.randn(5, 3, 10)
    with pytest.raises(ValueError, match=r"expected size to be at least 1, got 0$"):
        elman.chunks(gru, x, 0)
    with pytest.raises(TypeError, match=r"expected recompute to be True or False, got 1$"):
        elman.GRU(10, 20, recompute=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"got 0 \(torch.nn: hidden_size must be greater than zero\)$"):
        elman.GRU(10, 0)


def test_a_misspelt_name_is_told_what_it_is_like() -> None:
    with pytest.raises(AttributeError) as caught:
        elman.Lstm  # noqa: B018
    assert (caught.value.name, caught.value.obj) == ("Lstm", elman)  # of these Python makes "Did you mean: 'LSTM'?"


@pytest.mark.parametrize("batch_first", [False, True])
def test_what_is_said_of_a_list_of_tensors_mends_it(batch_first: bool) -> None:
    rnn = elman.GRU(10, 20, batch_first=batch_first)
    x = [torch.randn(5, 10), torch.randn(3, 10)]
    with pytest.raises(TypeError) as raised:
        rnn(x)
    said = str(raised.value)
    found = re.search(r"of sequences with (.*) and pass (lengths=.*), of steps with (.*)$", said)
    assert found is not None
    pad, lengths, steps = found.groups()
    output = eval(f"rnn({pad}, {lengths})", {"torch": torch, "rnn": rnn, "x": x})[0]
    for sequence, each in enumerate(x):
        alone = output[sequence, : len(each)] if batch_first else output[: len(each), sequence]
        torch.testing.assert_close(alone, rnn(each)[0])
    batch = torch.randn(5, 2, 10)
    expected = rnn(batch.transpose(0, 1) if batch_first else batch)[0]
    torch.testing.assert_close(eval(f"rnn({steps})", {"torch": torch, "rnn": rnn, "x": list(batch)})[0], expected)
    with pytest.raises(TypeError, match=re.escape("expected x to be a tensor, got list: make one with torch.stack(x)")):
        elman.GRUCell(10, 20)([torch.zeros(10), torch.zeros(10)])


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"dtype": "float32"}, "expected dtype to be a torch.dtype or None, got 'float32': pass torch.float32"),
        ({"dtype": np.float64}, "expected dtype to be a torch.dtype or None, got <class 'numpy.float64'>: pass torch.float64"),
        ({"dtype": "torch.half"}, "expected dtype to be a torch.dtype or None, got 'torch.half': pass torch.half"),
        ({"dtype": "fish"}, "expected dtype to be a torch.dtype or None, got 'fish'"),
        ({"device": 1.5}, "expected device to be a torch.device, its name or None, got 1.5"),
        ({"device": 1.5, "dtype": torch.float64}, "expected device to be a torch.device, its name or None, got 1.5"),
    ],
    ids=str,
)
@pytest.mark.parametrize("module", ["LSTM", "GRUCell"])
def test_of_device_and_dtype_the_wrong_one_is_named(module: str, option: dict[str, object], said: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(said)}$"):
        getattr(elman, module)(10, 20, **option)


def test_python_suggests_the_cell_rather_than_its_module() -> None:
    with pytest.raises(AttributeError):
        elman.zoo.Mgu  # noqa: B018
    assert "MGU" in dir(elman.zoo)
    assert "mgu" not in dir(elman.zoo)
