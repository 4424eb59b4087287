"""What is wrong with a call of a stream is said in a sentence, and changes nothing."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

import elman
from native import tensors_asked
from streams import assert_same_state, freed

if TYPE_CHECKING:
    from collections.abc import Callable

STEP = {
    "a list": ([0.0] * 3, TypeError, "expected x to be a torch tensor or a NumPy array, got list"),
    "nothing": (None, TypeError, "expected x to be a torch tensor or a NumPy array, got NoneType"),
    "three dimensions": (
        np.zeros((1, 2, 3), np.float32),
        ValueError,
        r"expected x of 2 dimensions, \(B, I\), got 3: x has shape \(1, 2, 3\)",
    ),
    "one dimension": (np.zeros(3, np.float32), ValueError, r"expected x of 2 dimensions, \(B, I\), got 1: x has shape \(3,\)"),
    "features": (np.zeros((2, 4), np.float32), RuntimeError, r"expected input of 3 features \(input_size\), got 4: x has shape \(2, 4\)"),
    "sequences": (
        np.zeros((5, 3), np.float32),
        RuntimeError,
        r"expected x of 2 sequences \(batch_size\), got 5: x has shape \(5, 3\); make the stream",
    ),
    "no sequences": (np.zeros((0, 3), np.float32), RuntimeError, r"expected x of 2 sequences \(batch_size\), got 0"),
    "dtype": (
        np.zeros((2, 3)),
        ValueError,
        r"expected x of float32, the parameters' dtype, got float64: convert it with x.astype\(numpy.float32",
    ),
    "byte order": (np.zeros((2, 3), ">f4"), ValueError, "expected x of float32, the parameters' dtype, got >f4"),
    "objects": (np.full((2, 3), None), ValueError, "expected x of float32, the parameters' dtype, got object"),
    "integers": (torch.zeros(2, 3, dtype=torch.int32), ValueError, "expected x of torch.float32, the parameters' dtype, got torch.int32"),
    "device": (torch.zeros(2, 3, device="meta"), RuntimeError, "expected x on cpu, where the parameters are, got meta"),
    "freed": (freed(2, 3), RuntimeError, "expected x to lie in memory, got a null pointer: was its storage freed"),
    "a part, freed": (freed(2, 3, behind=3), RuntimeError, "expected x to lie in memory, got a null pointer: was its storage freed"),
    "packed": (nn.utils.rnn.pack_sequence([torch.zeros(2, 3)]), TypeError, "got PackedSequence"),
}
RUN = {
    "a list": ([[0.0] * 3], TypeError, "expected x to be a torch tensor or a NumPy array, got list"),
    "two dimensions": (np.zeros((2, 3), np.float32), ValueError, r"expected x of 3 dimensions, \(T, B, I\), got 2"),
    "sequences": (
        np.zeros((4, 5, 3), np.float32),
        RuntimeError,
        r"expected x of 2 sequences \(batch_size\), got 5: x has shape \(4, 5, 3\)",
    ),
    "no step": (np.zeros((0, 2, 3), np.float32), RuntimeError, "expected at least one step, got none"),
    "freed": (freed(4, 2, 3), RuntimeError, "expected x to lie in memory, got a null pointer: was its storage freed"),
    "dtype": (torch.zeros(4, 2, 3).double(), ValueError, "expected x of torch.float32, the parameters' dtype, got torch.float64"),
}


@pytest.mark.parametrize("wrong", [("step", name) for name in STEP] + [("run", name) for name in RUN], ids=": ".join)
def test_what_is_wrong_is_said_and_changes_nothing(wrong: tuple[str, str]) -> None:
    method, name = wrong
    x, error, message = (STEP if method == "step" else RUN)[name]
    for grad, asked in itertools.product((False, True), repeat=2):
        with torch.set_grad_enabled(grad), tensors_asked(asked):
            stream = elman.stream(elman.LSTM(3, 5, 2), 2)
            for before in (lambda s: None, lambda s: s.step(np.ones((2, 3), np.float32)), lambda s: s.run(torch.ones(4, 2, 3))):
                before(stream)
                state = stream.state
                with pytest.raises(error, match=message):
                    getattr(stream, method)(x)
                assert_same_state(stream, state)
                stream.reset([0])
                state = stream.state
                with pytest.raises(error, match=message):
                    getattr(stream, method)(x)
                assert_same_state(stream, state)


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("behind", [0, 1])
@pytest.mark.parametrize("steps", [0, 1])
def test_zeros_that_torch_keeps_without_memory_are_zeros(steps: int, behind: int, asked: bool) -> None:
    one, other = (elman.stream(rnn, 2) for rnn in [elman.LSTM(3, 5)] * 2)
    with torch.no_grad(), tensors_asked(asked):
        for _ in range(steps):
            one.step(torch.ones(2, 3)), other.step(torch.ones(2, 3))
        assert torch.equal(one.step(torch._efficientzerotensor(2 + behind, 3)[behind:]), other.step(torch.zeros(2, 3)))


def test_what_cannot_be_a_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="its reverse direction begins at the sequence's end, which a stream does not have"):
        elman.stream(elman.RNN(3, 5, bidirectional=True))
    with pytest.raises(
        TypeError,
        match=r"expected rnn to be one of Elman's layers, RNN, GRU, LSTM or Recurrent, got torch\.nn\.GRU: "
        r"elman.convert\(rnn\) makes it one$",
    ):
        elman.stream(nn.GRU(3, 5))
    with pytest.raises(TypeError, match=r"RNN, GRU, LSTM or Recurrent, got int$"):
        elman.stream(3)
    with pytest.raises(ValueError, match="expected batch_size to be at least 1, got 0"):
        elman.stream(elman.RNN(3, 5), 0)
    with pytest.raises(TypeError, match="expected batch_size to be an int, got True of type bool"):
        elman.stream(elman.RNN(3, 5), True)
    with pytest.raises(TypeError, match=r"expected batch_size to be an int, got 2\.0 of type float"):
        elman.stream(elman.RNN(3, 5), 2.0)
    with pytest.raises(ValueError, match="expected batch_size to be at least 1, got 0"):
        elman.stream(elman.RNN(3, 5), np.int32(0))


def test_so_is_a_step_of_what_has_become_torchs() -> None:
    rnn, x = elman.RNN(3, 5), np.ones((1, 3), np.float32)
    stream = elman.stream(rnn)
    stream.step(x)
    elman.to_torch(rnn)
    with pytest.raises(TypeError, match=r"expected rnn to be one of Elman's layers, .*, got torch\.nn\.RNN"):
        stream.step(x)


def test_a_batch_size_may_be_numpys() -> None:
    stream = elman.stream(elman.RNN(3, 5), np.int64(2))
    assert type(stream.batch_size) is int
    assert stream.step(np.zeros((2, 3), np.float32)).shape == (2, 5)


def test_a_stream_keeps_its_network_and_its_batch_size() -> None:
    stream = elman.stream(elman.RNN(3, 5), 2)
    rnn = stream.rnn
    messages = {
        "rnn": "expected rnn to stay .*: make another with elman.stream",
        "batch_size": "expected batch_size to stay 2, got 3: make another",
    }
    for name, other in {"rnn": elman.RNN(3, 5), "batch_size": 3}.items():
        with pytest.raises(AttributeError, match=messages[name]):
            setattr(stream, name, other)
    assert stream.rnn is rnn
    assert stream.batch_size == 2


def test_a_stream_says_what_it_is() -> None:
    assert repr(elman.stream(elman.RNN(3, 5), 2)) == "Stream(RNN(3, 5), batch_size=2)"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_masked_arrays_are_refused_wherever_arrays_are_taken(dtype: torch.dtype) -> None:
    """What is below a mask is no number of the caller's."""
    stream = elman.stream(elman.GRU(3, 4, dtype=dtype), 2)
    x, state, lengths = (np.ma.array(np.zeros(shape, kind), mask=True) for shape, kind in (((2, 3), "f4"), ((1, 2, 4), "f4"), (2, "i8")))
    masked, reset = np.ma.array([True, True], mask=[True, False]), np.ma.array(np.zeros((5, 2), bool))
    calls: dict[str, tuple[Callable[[], object], ...]] = {
        "x": (lambda: stream.step(x), lambda: stream.run(x[None])),
        "state": (lambda: setattr(stream, "state", state),),
        "h": (lambda: stream.load_state_dict({"h": state}),),
        "sequences": (lambda: stream.reset(masked), lambda: stream.reset(lengths)),
        "lengths": (lambda: stream.rnn(torch.zeros(5, 2, 3, dtype=dtype), lengths=lengths),),
        "reset": (lambda: stream.rnn(torch.zeros(5, 2, 3, dtype=dtype), reset=reset),),
    }
    for name, each in calls.items():
        for call in each:
            with pytest.raises(TypeError, match=rf"^expected {name} without a mask, got a masked array: pass {name}\.filled\(...\)"):
                call()
