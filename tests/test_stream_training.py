"""Training goes through a stream: gradients of the whole sequence, until the graph is cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

import elman
from kinds import Kind, every_kind
from native import random_like, required
from streams import assert_same_state

if TYPE_CHECKING:
    from torch import Tensor

    from elman import Stream


@every_kind
def test_gradients_through_a_stream_are_torchs_of_the_whole_sequence(kind: Kind) -> None:
    theirs, ours = kind.pair(3, 5, 2)
    theirs, ours, x = theirs.double(), ours.double(), torch.randn(9, 2, 3, dtype=torch.float64)
    expected = theirs(x)[0]
    weights = random_like(expected)
    stream = elman.stream(ours, 2)
    outputs = [stream.step(x[0])[None], stream.run(x[1:4]), stream.step(x[4])[None], stream.step(x[5])[None], stream.run(x[6:])]
    got = torch.autograd.grad(torch.cat(outputs), list(ours.parameters()), weights)
    for a, b in zip(got, torch.autograd.grad(expected, list(theirs.parameters()), weights), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12 * max(1.0, b.abs().max().item()))


def test_the_graph_grows_with_each_step_on_a_tensor_until_it_is_cut() -> None:
    def length(stream: Stream) -> int:
        nodes, last = 0, stream.state.grad_fn
        seen, following = set(), [last]
        while following:
            node = following.pop()
            if node is not None and node not in seen:
                seen.add(node)
                nodes += 1
                following += [next_ for next_, _ in node.next_functions]
        return nodes

    x = torch.randn(1, 3)
    for cut in (lambda s: s.detach(), lambda s: s.reset()):
        stream = elman.stream(elman.RNN(3, 5))
        lengths = []
        for _ in range(3):
            stream.step(x)
            lengths.append(length(stream))
        assert lengths[0] < lengths[1] < lengths[2]
        cut(stream)
        assert length(stream) == 0
        stream.step(x.numpy())
        with torch.no_grad():
            stream.step(x)
        assert length(stream) == 0


def test_detach_cuts_the_graph() -> None:
    rnn, x = elman.LSTM(3, 5).double(), torch.randn(6, 2, 3, dtype=torch.float64, requires_grad=True)
    stream = elman.stream(rnn, 2)
    stream.run(x[:3])
    state = stream.state
    assert all(s.requires_grad for s in state)
    stream.detach()
    assert_same_state(stream, tuple(s.detach() for s in state))
    assert not any(s.requires_grad for s in stream.state)
    output = stream.run(x[3:])
    (grad_x,) = torch.autograd.grad(output.sum(), x)
    assert not grad_x[:3].any()
    expected = torch.autograd.grad(rnn(x[3:], tuple(s.detach() for s in state))[0].sum(), x)[0]
    torch.testing.assert_close(grad_x, expected, rtol=0, atol=1e-12)


def test_a_reset_cuts_the_graph_of_its_sequences() -> None:
    stream = elman.stream(elman.RNN(3, 5), 2)
    x = torch.randn(4, 2, 3, requires_grad=True)
    stream.run(x[:2])
    stream.reset([0])
    (grad_x,) = torch.autograd.grad(stream.step(x[2]).sum(), x)
    assert not grad_x[:2, 0].any()
    assert grad_x[:2, 1].any(1).all()
    stream.reset()
    assert not stream.state.requires_grad


def test_steps_in_place_between_steps_of_training_do_not_harm_the_graph() -> None:
    rnn, x = elman.GRU(3, 5).double(), torch.randn(3, 2, 3, dtype=torch.float64)
    stream = elman.stream(rnn, 2)
    with torch.no_grad():
        stream.step(x[0])
    state = stream.state
    y = stream.step(x[1])  # its graph begins with the state that the step after writes over
    with torch.no_grad():
        stream.step(x[2])
        stream.step(x[2])
    got = torch.autograd.grad(y.sum(), list(rnn.parameters()))
    expected = torch.autograd.grad(rnn(x[1:2], state)[0].sum(), list(rnn.parameters()))
    assert all(map(torch.equal, got, expected))


def test_an_initial_state_is_trained() -> None:
    rnn, x = elman.RNN(3, 5).double().requires_grad_(False), torch.randn(4, 2, 3, dtype=torch.float64)
    state = torch.randn(1, 2, 5, dtype=torch.float64, requires_grad=True)
    stream = elman.stream(rnn, 2)
    stream.state = state
    (got,) = torch.autograd.grad(stream.step(x[0]).sum() + stream.run(x[1:]).sum(), state)
    (expected,) = torch.autograd.grad(rnn(x, state)[0].sum(), state)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_what_is_built_on_a_frozen_network_trains() -> None:
    rnn, head, x = elman.RNN(3, 5).requires_grad_(False), nn.Linear(5, 1), torch.randn(4, 2, 3)
    stream = elman.stream(rnn, 2)
    loss = sum(head(stream.step(x_t)).square().sum() for x_t in x)
    got = torch.autograd.grad(loss, head.weight)[0]
    expected = torch.autograd.grad(head(rnn(x)[0]).square().sum(), head.weight)[0]
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@required
def test_a_graph_that_kept_an_output_learns_that_it_was_written_over() -> None:
    for call, x in (("step", torch.ones(1, 3)), ("run", torch.ones(1, 1, 3))):
        stream, weight = elman.stream(elman.RNN(3, 5)), torch.ones(5, requires_grad=True)
        take = getattr(stream, call)
        with torch.no_grad():
            out, y = take(x), take(x)
            take(x, out=out)
        loss, with_y = (out * weight).sum(), (y * weight).sum()
        with torch.no_grad():
            take(x, out=out)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
        with_y.backward()


def test_what_inference_mode_left_can_be_trained_on() -> None:
    stream, x = elman.stream(elman.RNN(3, 5)), torch.randn(1, 3)
    with torch.inference_mode():
        stream.step(x)
        stream.run(x[None])
    stream.step(x).sum().backward()
    stream = elman.stream(elman.RNN(3, 5), 2)
    x = torch.randn(2, 3)
    with torch.inference_mode():
        stream.step(x)
        stream.reset([0])
    stream.step(x).sum().backward()
    with torch.inference_mode():
        stream.step(x)
    assert not stream.step(x).is_inference()


@pytest.mark.parametrize(("name", "dtype"), [("RNN", torch.bfloat16), ("GRU", torch.float32)])
def test_modes_of_torch_are_the_layers(name: str, dtype: torch.dtype) -> None:
    rnn, x = getattr(elman, name)(3, 5), torch.randn(4, 2, 3)
    with torch.no_grad():
        stream = elman.stream(rnn, 2)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = torch.stack([stream.step(x_t) for x_t in x])
            # The same but for the order in which the reference adds products up: below 4 a bfloat16 sum is then one of two neighbours.
            torch.testing.assert_close(outputs, rnn(x)[0], rtol=0, atol=2**-6)
            assert outputs.dtype is dtype
        assert stream.state.dtype is torch.float32
        stream.step(x[0])

        def step(x: Tensor) -> Tensor:
            stream.reset()
            return stream.step(x)

        many = torch.randn(6, 2, 3)
        mapped = torch.func.vmap(step)(many)
        torch.testing.assert_close(mapped, torch.stack([rnn(m[None])[0][0] for m in many]), rtol=0, atol=1e-6)


@torch.no_grad()
def test_an_output_that_cannot_be_an_array_leaves_the_state() -> None:
    rnn = elman.RNN(3, 5)
    rnn.register_forward_hook(lambda rnn, x, result: (result[0].bfloat16(), result[1]))
    stream = elman.stream(rnn)
    stream.step(np.ones((1, 3), np.float32))
    state = stream.state
    with pytest.raises(TypeError, match="BFloat16"):
        stream.run(np.ones((4, 1, 3), np.float32))
    assert_same_state(stream, state)
