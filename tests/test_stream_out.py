"""A stream writes its output where it is told, and nowhere else; what cannot be written to is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import elman
from elman.backends import kernels
from kinds import Kind, as_states, every_kind
from native import tensors_asked
from streams import VIEWS, assert_same_state, every_view, freed, masked, tensor

LAYOUTS = {
    "dense": lambda B, H: torch.full((B, H), 7.0),
    "rows apart": lambda B, H: torch.full((B, 2 * H), 7.0)[:, H:],
    "every other row": lambda B, H: torch.full((2 * B, H), 7.0)[::2],
    "an axis between": lambda B, H: torch.full((B, 2, H), 7.0)[:, 1],
}


@every_view
@every_kind
@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_a_step_writes_where_it_is_told(layout: str, kind: Kind, view: Any) -> None:
    for B in (1, 3):
        rnn, x = kind.build(elman, 3, 5, 2), torch.randn(6, B, 3)
        expected, hx = rnn(x)
        for has_kernels in (True, False):
            with pytest.MonkeyPatch.context() as patch:
                if not has_kernels:
                    patch.setattr(kernels, "available", lambda: False)
                stream = elman.stream(rnn, B)
                for x_t, y_t in zip(x, expected, strict=True):
                    out = view(LAYOUTS[layout](B, expected.shape[2]))
                    assert stream.step(view(x_t), out=out) is out
                    torch.testing.assert_close(tensor(out), y_t, rtol=0, atol=0 if has_kernels else 1e-6)
                torch.testing.assert_close(as_states(stream.state), as_states(hx), rtol=0, atol=0 if has_kernels else 1e-6)


@torch.no_grad()
def test_torch_counts_each_write_to_an_output() -> None:
    stream, out = elman.stream(elman.RNN(3, 5)), torch.zeros(1, 5)
    for count in range(1, 4):
        stream.step(torch.ones(1, 3), out=out)
        assert out._version == count


def test_an_output_need_not_be_aligned() -> None:
    rnn, x = elman.GRU(3, 5), torch.randn(4, 2, 3)
    stream, expected = elman.stream(rnn, 2), rnn(x)[0].detach()
    out = np.zeros(2 * 5 * 4 + 1, np.uint8)[1:].view(np.float32).reshape(2, 5)
    assert not out.flags.aligned
    for x_t, y_t in zip(x, expected, strict=True):
        assert stream.step(x_t.numpy(), out) is out
        assert torch.equal(tensor(out.copy()), y_t)


@every_view
@torch.no_grad()
def test_what_lies_beside_an_output_is_not_touched(view: Any) -> None:
    rnn, x = elman.GRU(3, 5), torch.randn(3, 2, 3)
    whole, whole_run = torch.full((4, 9), 7.0), torch.full((5, 4, 9), 7.0)
    stream = elman.stream(rnn, 2)
    stream.step(view(x[0]), view(whole)[1:3, 2:7])
    stream.reset()
    stream.run(view(x), view(whole_run)[1:4, 1:3, 2:7])
    expected = rnn(x)[0]
    around = torch.full((5, 4, 9), 7.0)
    around[1:4, 1:3, 2:7] = expected
    assert torch.equal(whole_run, around)
    around = torch.full((4, 9), 7.0)
    around[1:3, 2:7] = expected[0]
    assert torch.equal(whole, around)


@every_view
@torch.no_grad()
def test_a_run_writes_where_it_is_told(view: Any) -> None:
    for batch_first in (False, True):
        rnn, x = elman.LSTM(3, 5, 2, batch_first=batch_first), torch.randn(4, 6, 3)
        B = 4 if batch_first else 6
        stream, out = elman.stream(rnn, B), view(torch.empty(4, 6, 5))
        assert stream.run(view(x), out) is out
        output, hx = rnn(x)
        assert torch.equal(tensor(out), output)
        assert_same_state(stream, hx)
        turned = view(torch.empty(6, 4, 5).transpose(0, 1))
        stream.reset()
        assert stream.run(view(x), out=turned) is turned
        assert torch.equal(tensor(turned), output)
        stream, out = elman.stream(rnn), view(torch.empty(6, 5))
        assert stream.run(view(x[0]), out=out) is out
        assert torch.equal(tensor(out), rnn(x[0])[0])
        row = view(torch.empty(5))
        assert stream.step(view(x[0, 0]), out=row) is row


@every_view
@torch.no_grad()
def test_the_output_may_be_written_over_the_input(view: Any) -> None:
    rnn, x = elman.GRU(5, 5, 2), torch.randn(2, 5)
    expected, hx = x, None
    stream, y = elman.stream(rnn, 2), view(x.clone())
    for _ in range(4):
        assert stream.step(y, out=y) is y
        output, hx = rnn(expected[None], hx)
        expected = output[0]
        assert torch.equal(tensor(y), expected)
    chunk = torch.randn(3, 2, 5)
    output, _ = rnn(chunk, hx)
    y = view(chunk.clone())
    assert torch.equal(tensor(stream.run(y, out=y)), output)


@every_view
@torch.no_grad()
def test_an_output_takes_the_dtype_of_the_network(view: Any) -> None:
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        if dtype is torch.bfloat16 and view is VIEWS["arrays"]:
            continue
        rnn, x = elman.GRU(3, 5).to(dtype), torch.randn(4, 1, 3).to(dtype)
        stream, out = elman.stream(rnn), view(torch.empty(4, 1, 5, dtype=dtype))
        for x_t, out_t in zip(view(x), out, strict=True):
            stream.step(x_t, out=out_t)
        again = elman.stream(rnn)
        assert torch.equal(tensor(out), torch.stack([tensor(again.step(view(x_t))) for x_t in x]))


def _read_only() -> np.ndarray:
    out = np.zeros((2, 5), np.float32)
    out.flags.writeable = False
    return out


OUT = {
    "another kind": (torch.zeros(2, 5), TypeError, "expected out to be a NumPy array, as x is, got Tensor"),
    "masked": (np.ma.zeros((2, 5), np.float32), TypeError, "expected out to be a NumPy array, as x is, got MaskedArray"),
    "a list": ([[0.0] * 5] * 2, TypeError, "expected out to be a NumPy array, as x is, got list"),
    "shape": (np.zeros((2, 6), np.float32), RuntimeError, r"expected out of shape \(2, 5\), the output's, got \(2, 6\)"),
    "rank": (np.zeros(10, np.float32), RuntimeError, r"expected out of shape \(2, 5\), the output's, got \(10,\)"),
    "dtype": (np.zeros((2, 5)), ValueError, "expected out of float32, the output's dtype, got float64"),
    "byte order": (np.zeros((2, 5), ">f4"), ValueError, "expected out of float32, the output's dtype, got >f4"),
    "read-only": (_read_only(), ValueError, "expected out to be writable, got a read-only array"),
    "columns apart": (
        np.zeros((2, 10), np.float32)[:, ::2],
        RuntimeError,
        r"contiguous along its last axis, got strides of \(10, 2\) numbers: make one with numpy.empty\(\(2, 5\), dtype=numpy.float32\)",
    ),
    "Fortran": (
        np.zeros((5, 2), np.float32).T,
        RuntimeError,
        r"contiguous along its last axis, got strides of \(1, 2\) numbers",
    ),
    "one row for all": (
        np.lib.stride_tricks.as_strided(np.zeros(5, np.float32), (2, 5), (0, 4), writeable=True),
        RuntimeError,
        r"expected out without overlapping elements, got strides of \(0, 1\) numbers",
    ),
}
OUT_TENSORS = {
    "another kind": (np.zeros((2, 5), np.float32), TypeError, "expected out to be a torch tensor, as x is, got ndarray"),
    "masked": (masked(torch.zeros(2, 5)), TypeError, "expected out to be a torch tensor, as x is, got MaskedTensor"),
    "nothing at all": (3, TypeError, "expected out to be a torch tensor, as x is, got int"),
    "shape": (torch.zeros(1, 5), RuntimeError, r"expected out of shape \(2, 5\), the output's, got \(1, 5\)"),
    "dtype": (torch.zeros(2, 5).double(), ValueError, "expected out of torch.float32, the output's dtype, got torch.float64"),
    "device": (torch.zeros(2, 5, device="meta"), RuntimeError, "expected out on cpu, where the output is, got meta"),
    "sparse": (torch.zeros(2, 5).to_sparse(), RuntimeError, "expected out to be a strided tensor, got torch.sparse_coo"),
    "freed": (freed(2, 5), RuntimeError, "expected out to lie in memory, got a null pointer: was its storage freed"),
    "a part, freed": (freed(2, 5, behind=5), RuntimeError, "expected out to lie in memory, got a null pointer: was its storage freed"),
    "zeros without memory": (torch._efficientzerotensor(2, 5), RuntimeError, "expected out to lie in memory, got zeros that"),
    "columns apart": (
        torch.zeros(2, 10)[:, ::2],
        RuntimeError,
        r"contiguous along its last axis, got strides of \(10, 2\) numbers: make one with torch.empty\(\(2, 5\), dtype=torch.float32\)",
    ),
    "one row for all": (torch.zeros(5).expand(2, 5), RuntimeError, r"expected out without overlapping elements, got strides of \(0, 1\)"),
}


@pytest.mark.parametrize("wrong", [("arrays", name) for name in OUT] + [("tensors", name) for name in OUT_TENSORS], ids=": ".join)
@torch.no_grad()
def test_an_output_that_does_not_fit_is_refused_and_changes_nothing(wrong: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    view, (out, error, message) = VIEWS[wrong[0]], (OUT if wrong[0] == "arrays" else OUT_TENSORS)[wrong[1]]
    for has_kernels, asked in ((True, False), (True, True), (False, False)):
        if not has_kernels:
            monkeypatch.setattr(kernels, "available", lambda: False)
        stream, x = elman.stream(elman.LSTM(3, 5), 2), view(torch.ones(2, 3))
        with tensors_asked(asked):
            for before in (lambda s: None, lambda s: s.step(np.ones((2, 3), np.float32))):
                before(stream)
                state = stream.state
                with pytest.raises(error, match=message):
                    stream.step(x, out=out)
                assert_same_state(stream, state)
            with pytest.raises(error):
                stream.run(x[None], out=out)
        assert_same_state(stream, state)


@every_view
def test_an_output_that_is_refused_cuts_no_graph_and_begins_no_sequence(view: Any) -> None:
    rnn, x, out = elman.GRU(3, 5, learn_initial_state=True), torch.ones(1, 3), view(torch.zeros(1, 6))
    stream = elman.stream(rnn)

    def refused() -> None:
        with torch.no_grad(), pytest.raises(RuntimeError, match=r"expected out of shape \(1, 5\)"):
            stream.step(view(x), out=out)

    refused()
    with torch.no_grad():
        rnn.h_0.fill_(1)
    assert torch.equal(stream.state, torch.ones(1, 1, 5))
    stream.step(x)
    state = stream.state
    refused()
    assert_same_state(stream, state)
    stream.step(x).sum().backward()
    assert rnn.h_0.grad is not None  # the graph goes back to the first step


@every_view
@torch.no_grad()
def test_after_a_refused_output_a_step_runs_the_network_as_it_is_now(view: Any) -> None:
    rnn, x, out = elman.RNN(3, 5), torch.ones(1, 3), view(torch.zeros(1, 6))
    stream, other = elman.stream(rnn), elman.stream(rnn)
    for mode in ("RNN_TANH", "RNN_RELU", "RNN_TANH"):
        rnn.mode = mode
        with pytest.raises(RuntimeError, match=r"expected out of shape \(1, 5\)"):
            stream.step(view(x), out=out)
        for _ in range(2):
            assert torch.equal(tensor(stream.step(view(x))), tensor(other.step(view(x))))
    rnn.weight_hh_l0 = torch.nn.Parameter(torch.ones(5, 5))
    with pytest.raises(RuntimeError, match=r"expected out of shape \(1, 5\)"):
        stream.step(view(x), out=out)
    assert torch.equal(tensor(stream.step(view(x))), tensor(other.step(view(x))))


@every_view
@torch.no_grad()
def test_an_output_in_the_memory_of_the_state_or_of_a_parameter_is_refused(view: Any) -> None:
    rnn, x = elman.LSTM(3, 5, learn_initial_state=True), torch.ones(1, 3)
    stream = elman.stream(rnn)
    for _ in range(2):
        stream.step(view(x))
        before = [p.clone() for p in rnn.parameters()]
        for name, memory in (*rnn.named_parameters(), *(("the stream's state", s[0]) for s in stream._state.values)):
            if name in ("h_0", "c_0"):  # a step has read them
                continue
            out = view(memory.detach().view(-1)[-5:].view(1, 5))
            for call, given in ((stream.step, x), (stream.run, x[None])):
                state = stream.state
                with pytest.raises(RuntimeError, match=f"expected out to share no memory with {name}, got one that does: make one with"):
                    call(view(given), out=out if given is x else out[None])
                assert_same_state(stream, state)
        assert all(map(torch.equal, before, rnn.parameters()))


def test_so_is_an_array_that_runs_backwards_into_a_parameter() -> None:
    rnn, memory = elman.RNN(5, 5), np.zeros((7, 5), np.float32)
    rnn.weight_hh_l0 = nn.Parameter(torch.from_numpy(memory[:5]))
    with pytest.raises(RuntimeError, match="expected out to share no memory with weight_hh_l0"):
        elman.stream(rnn, 3).step(np.ones((3, 5), np.float32), out=memory[6:3:-1])


def test_where_a_graph_is_wanted_there_is_no_output_to_write_to() -> None:
    rnn, x, out = elman.GRU(3, 5), torch.ones(1, 3), torch.zeros(1, 5)
    stream = elman.stream(rnn)
    state = stream.state
    for call, given, to in ((stream.step, x, out), (stream.run, x[None], out[None])):
        with pytest.raises(RuntimeError, match=r"where the output carries a graph: leave it out, or call under torch.no_grad\(\)"):
            call(given, out=to)
        assert_same_state(stream, state)
        call(given.numpy(), out=to.numpy())  # arrays know of no graph
        stream.reset()
    rnn.requires_grad_(False)
    with pytest.raises(RuntimeError, match="where out requires gradients"):
        stream.step(x, out=torch.zeros(1, 5, requires_grad=True))
    assert_same_state(stream, state)
    assert stream.step(x, out=out) is out
    with torch.no_grad():
        parameter = nn.Parameter(torch.zeros(1, 5))
        assert stream.step(x, out=parameter) is parameter


def test_an_output_of_inference_mode_is_written_to_there_only() -> None:
    rnn, x = elman.GRU(3, 5).requires_grad_(False), torch.ones(1, 3)
    stream, ordinary = elman.stream(rnn), torch.zeros(1, 5)
    with torch.inference_mode():
        out = torch.zeros(1, 5)
        assert stream.step(x, out=out) is out
        assert stream.step(x, out=ordinary) is ordinary
        assert stream.step(x).is_inference()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="got one made in inference mode: it can be written to in that mode only"):
            stream.step(x, out=out)
        stream.step(x)
