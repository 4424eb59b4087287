"""Chunks of a sequence: the state goes on, the gradient is cut; with nothing cut it is the whole sequence's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

import elman
from kinds import GRU, LSTM, TANH, Kind, as_hx, as_states, every_kind
from native import initial_states, random_like

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

T, B, I, H = 11, 3, 4, 5  # noqa: E741


def assert_near(got: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12 * max(1.0, b.abs().max().item()))


def gradients(outputs: list[Tensor], module: nn.Module, weights: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(torch.cat(outputs), list(module.parameters()), weights))


@every_kind
@pytest.mark.parametrize("size", [T, T + 5])
def test_a_chunk_of_the_whole_length_cuts_nothing(size: int, kind: Kind) -> None:
    theirs, ours = kind.pair(I, H, 2)
    theirs, ours, x = theirs.double(), ours.double(), torch.randn(T, B, I, dtype=torch.float64)
    ((steps, output),) = elman.chunks(ours, x, size)
    assert steps == slice(0, T)
    expected, _ = theirs(x)
    weights = random_like(expected)
    assert_near([output, *gradients([output], ours, weights)], [expected, *gradients([expected], theirs, weights)])


@every_kind
@pytest.mark.parametrize("given", [False, True], ids=["from zeros", "from a state"])
@pytest.mark.parametrize("size", [1, 4])
def test_gradients_are_those_of_a_loop_that_detaches(size: int, given: bool, kind: Kind) -> None:
    theirs, ours = kind.pair(I, H, 2)
    theirs, ours, x = theirs.double(), ours.double(), torch.randn(T, B, I, dtype=torch.float64)
    hx = as_hx(initial_states(ours, B)) if given else None
    weights = torch.randn(T, B, ours.stack.output_size, dtype=torch.float64)
    chunks = elman.chunks(ours, x, size, hx)
    got = [output for _, output in chunks]
    expected = []
    for piece in x.split(size):
        output, hx = theirs(piece, hx)
        hx = as_hx(tuple(state.detach() for state in as_states(hx)))
        expected.append(output)
    assert_near(gradients(got, ours, weights), gradients(expected, theirs, weights))
    assert_near(list(as_states(chunks.state)), list(as_states(hx)))
    assert not any(state.requires_grad for state in as_states(chunks.state))


@torch.no_grad()
def test_steps_say_where_a_chunk_lies() -> None:
    for batch_first in (False, True):
        rnn, x = elman.GRU(I, H, batch_first=batch_first), torch.randn(*((B, T) if batch_first else (T, B)), I)
        whole = rnn(x)[0]
        covered = []
        for steps, output in elman.chunks(rnn, x, 4):
            torch.testing.assert_close(output, whole[:, steps] if batch_first else whole[steps], rtol=0, atol=1e-6)
            covered += range(T)[steps]
        assert covered == list(range(T))
    rnn, x = elman.GRU(I, H, batch_first=True), torch.randn(T, I)  # unbatched: time is the first axis all the same
    torch.testing.assert_close(torch.cat([output for _, output in elman.chunks(rnn, x, 4)]), rnn(x)[0], rtol=0, atol=1e-6)


def test_each_chunk_runs_with_the_parameters_of_its_time() -> None:
    rnn, x = elman.RNN(I, H), torch.randn(8, B, I)
    optimizer = torch.optim.SGD(rnn.parameters(), lr=0.5)
    chunks = elman.chunks(rnn, x, 4)
    _, first = next(chunks)
    first.square().sum().backward()
    optimizer.step()
    state = chunks.state
    _, second = next(chunks)
    assert torch.equal(second, rnn(x[4:], state)[0])
    with pytest.raises(StopIteration):
        next(chunks)


def test_a_graph_that_the_initial_state_carries_is_not_cut() -> None:
    rnn, x = elman.RNN(I, H), torch.randn(8, B, I)
    hx = torch.randn(1, B, H, requires_grad=True)
    (_, first), (_, second) = elman.chunks(rnn, x, 4, hx)
    assert torch.autograd.grad(first.sum(), hx)[0].any()
    with pytest.raises(RuntimeError, match="not have been used in the graph"):
        torch.autograd.grad(second.sum(), hx)


@pytest.mark.parametrize("kind", [TANH, GRU, LSTM], ids=str)
@pytest.mark.parametrize("batch_first", [False, True])
@torch.no_grad()
def test_lengths_and_resets_are_those_of_the_whole(batch_first: bool, kind: Kind) -> None:
    rnn = kind.build(elman, I, H, 2, batch_first=batch_first).double()
    x, reset = torch.randn(T, B, I, dtype=torch.float64), torch.rand(T, B) < 0.3
    reset[4, 0] = True  # where a chunk begins
    if batch_first:
        x, reset = x.transpose(0, 1), reset.t()
    for lengths in ([11, 0, 6], torch.tensor([4, 5, 8]), None):
        for given_reset in (reset, None):
            whole, hx = rnn(x, lengths=lengths, reset=given_reset)
            chunks = elman.chunks(rnn, x, 4, lengths=lengths, reset=given_reset)
            output = torch.cat([output for _, output in chunks], 1 if batch_first else 0)
            assert_near([output, *as_states(chunks.state)], [whole, *as_states(hx)])


def test_what_is_wrong_is_said() -> None:
    rnn, x = elman.RNN(I, H), torch.randn(T, B, I)
    with pytest.raises(ValueError, match="its reverse direction begins at the sequence's end, which the first chunk does not have"):
        elman.chunks(elman.RNN(I, H, bidirectional=True), x, 4)
    with pytest.raises(
        TypeError,
        match=r"expected rnn to be one of Elman's layers, RNN, GRU, LSTM or Recurrent, got torch\.nn\.RNN: "
        r"elman.convert\(rnn\) makes it one$",
    ):
        elman.chunks(nn.RNN(I, H), x, 4)
    with pytest.raises(TypeError, match="expected x to be a tensor, got PackedSequence"):
        elman.chunks(rnn, nn.utils.rnn.pack_sequence([x[:, 0]]), 4)
    with pytest.raises(ValueError, match=r"expected x of 2 or 3 dimensions, got 1: x has shape \(4,\)"):
        elman.chunks(rnn, x[0, 0], 4)
    with pytest.raises(ValueError, match="expected size to be at least 1, got 0"):
        elman.chunks(rnn, x, 0)
    with pytest.raises(TypeError, match=r"expected size to be an int, got 2.0 of type float"):
        elman.chunks(rnn, x, 2.0)
    with pytest.raises(RuntimeError, match=r"expected input of 4 features"):
        next(elman.chunks(rnn, torch.randn(T, B, 3), 4))


def test_a_chunk_that_fails_changes_nothing() -> None:
    rnn, x = elman.RNN(I, H), torch.randn(8, B, I)
    chunks = elman.chunks(rnn, x, 4)
    next(chunks)
    state = chunks.state
    rnn.double()
    with pytest.raises(ValueError, match="the parameters' dtype"):
        next(chunks)
    assert torch.equal(chunks.state, state)
    rnn.float()
    steps, output = next(chunks)
    assert steps == slice(4, 8)
    assert torch.equal(output, rnn(x[4:], state)[0])


@pytest.mark.parametrize(
    ("spans", "error", "message"),
    [
        ({"lengths": [10, 2, 5]}, RuntimeError, "expected lengths from 0 to 9"),
        ({"lengths": [9, -2, 5]}, RuntimeError, "expected lengths from 0 to 9"),
        ({"lengths": [9, 2]}, RuntimeError, "lengths"),
        ({"lengths": torch.tensor([True, True, False])}, TypeError, "torch.bool"),
        ({"reset": torch.zeros(20, 3, dtype=torch.bool)}, RuntimeError, r"expected reset of shape \(9, 3\)"),
        ({"reset": [[False]]}, TypeError, "reset"),
    ],
)
def test_spans_must_fit_the_whole_sequence(spans: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        elman.chunks(elman.GRU(3, 4), torch.randn(9, 3, 3), 3, **spans)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int64])
def test_lengths_of_any_integers_are_those_of_a_call_and_are_the_callers_own_no_longer(dtype: torch.dtype) -> None:
    gru, x, lengths = elman.GRU(3, 4), torch.randn(9, 3, 3), torch.tensor([9, 2, 5], dtype=dtype)
    expected, h_n = gru(x, lengths=lengths)
    pieces, outputs = elman.chunks(gru, x, 3, lengths=lengths), []
    for _, output in pieces:
        outputs.append(output)
        lengths.fill_(0)
    torch.testing.assert_close(torch.cat(outputs), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(pieces.state, h_n, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.tensor, np.array])
def test_resets_are_the_callers_own_no_longer(kind: Callable[[Any], Any]) -> None:
    gru, x, reset = elman.GRU(3, 4), torch.randn(9, 3, 3), kind([[False] * 3] * 5 + [[True, False, True]] + [[False] * 3] * 3)
    expected, h_n = gru(x, reset=reset)
    pieces, outputs = elman.chunks(gru, x, 3, reset=reset), []
    for _, output in pieces:
        outputs.append(output)
        reset[:] = True
    torch.testing.assert_close(torch.cat(outputs), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(pieces.state, h_n, rtol=0, atol=1e-6)


def test_a_second_pass_is_an_error() -> None:
    chunks = elman.chunks(elman.RNN(3, 5), torch.randn(T, B, 3), 4)
    next(chunks)
    assert len(list(chunks)) == -(-T // 4) - 1  # what is left of the first pass
    with pytest.raises(RuntimeError, match=r"run once, got a second pass: call elman.chunks again"):
        for _ in chunks:
            pass
