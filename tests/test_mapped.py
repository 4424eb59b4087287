"""A call under vmap reaches the kernels as it came: as one batch, or as one call of an ensemble."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.fx.experimental.proxy_tensor import make_fx

import elman
from elman.backends import mapped
from elman.backends.native import NativeBackend
from kinds import GRU, LSTM, TANH, Kind, as_hx, as_states, every_cell, every_kind
from native import required

pytestmark = required
V, T, B, I, H = 3, 4, 2, 2, 5  # noqa: E741


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many sequences the kernels ran in each call, all members' of an ensemble; none was checked before."""
    seen: list[int] = []
    unchecked = NativeBackend.run_unchecked

    def spy(self: Any, stack: Any, x: Tensor, states: Any, params: Any, batch_first: bool, *step_inputs: Any) -> Any:
        done = unchecked(self, stack, x, states, params, batch_first, *step_inputs)
        if done is not None and not torch._C._are_functorch_transforms_active():
            seen.append(x.shape[stack.lead + (0 if batch_first else 1)] * max(1, stack.members))
        return done

    monkeypatch.setattr(NativeBackend, "run_unchecked", spy)
    monkeypatch.setattr(NativeBackend, "refuses", lambda *_: pytest.fail("the call was checked"))
    return seen


def flat(result: Any) -> tuple[Tensor, ...]:
    return result[0], *as_states(result[1])


def assert_stacked(got: Any, expected: list[Any]) -> None:
    for one, others in zip(flat(got), zip(*map(flat, expected), strict=True), strict=True):
        assert torch.equal(one, torch.stack(others))


def without_batch(result: Any, axis: int) -> Any:
    output, hx = result
    return output.squeeze(axis), as_hx(tuple(state.squeeze(1) for state in as_states(hx)))


@pytest.mark.parametrize("batch_first", [False, True])
@every_kind
def test_examples_are_one_batch(kind: Kind, batch_first: bool, batches: list[int]) -> None:
    rnn = kind.build(elman, I, H, 2, bidirectional=True, batch_first=batch_first)
    x = torch.randn(V, *((B, T, I) if batch_first else (T, B, I)))
    states = tuple(torch.randn(V, 4, B, width) for width in rnn.stack.state_sizes)
    started = vmap(lambda x, states: rnn(x, as_hx(states)), in_dims=(0, 1), out_dims=1)(x, tuple(state.transpose(0, 1) for state in states))
    alone, shared = vmap(rnn)(x), vmap(lambda states: rnn(x[0], as_hx(states)))(states)
    assert batches == [V * B] * 3
    each = [as_hx(own) for own in zip(*states, strict=True)]
    assert_stacked((started[0].transpose(0, 1), as_hx(tuple(s.transpose(0, 1) for s in as_states(started[1])))), list(map(rnn, x, each)))
    assert_stacked(alone, list(map(rnn, x)))
    assert_stacked(shared, [rnn(x[0], own) for own in each])


@pytest.mark.parametrize("batch_first", [False, True])
@every_kind
def test_unbatched_examples_are_one_batch(kind: Kind, batch_first: bool, batches: list[int]) -> None:
    rnn, x = kind.build(elman, I, H, 2, batch_first=batch_first), torch.randn(V, T, I)
    states = tuple(torch.randn(V, 2, width) for width in rnn.stack.state_sizes)
    got = vmap(lambda x, states: rnn(x, as_hx(states)))(x, states)
    assert batches == [V]
    axis = 0 if batch_first else 1
    each = [as_hx(tuple(state.unsqueeze(1) for state in own)) for own in zip(*states, strict=True)]
    assert_stacked(got, [without_batch(rnn(one.unsqueeze(axis), own), axis) for one, own in zip(x, each, strict=True)])


@every_cell
def test_the_steps_of_a_cell_are_one_batch(kind: Kind, batches: list[int]) -> None:
    cell, x = kind.build_cell(elman, I, H), torch.randn(V, B, I)
    got, unbatched = vmap(cell)(x), vmap(cell)(x[:, 0])
    assert batches == [V * B, V]
    for index in range(V):
        for one, all_, first in zip(*map(as_states, (cell(x[index]), got, unbatched)), strict=True):
            assert torch.equal(all_[index], one)
            assert torch.equal(first[index], one[0])


@pytest.mark.parametrize("unbatched", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@every_kind
def test_an_ensemble_is_called_once(kind: Kind, batch_first: bool, unbatched: bool, batches: list[int]) -> None:
    members = [kind.build(elman, I, H, batch_first=batch_first) for _ in range(3)]
    values, axis = stack_module_state(members)[0], 0 if batch_first else 1
    x = torch.randn(T, I) if unbatched else torch.randn(T, B, I)
    with torch.no_grad():
        got = vmap(lambda values, x: functional_call(members[0], values, (x,)), in_dims=(0, None))(values, x)
        assert batches == [3 if unbatched else 3 * x.shape[axis]]
        batch = x.unsqueeze(axis) if unbatched else x
        expected = [member(batch) for member in members]
    assert_stacked(got, [without_batch(each, axis) if unbatched else each for each in expected])


def test_each_member_may_have_examples(batches: list[int]) -> None:
    members, x = [elman.LSTM(I, H) for _ in range(2)], torch.randn(V, T, B, I)
    values = stack_module_state(members)[0]
    run = lambda values, x: functional_call(members[0], values, (x,))  # noqa: E731
    inside, outside = vmap(vmap(run, (None, 0)), (0, None))(values, x), vmap(vmap(run, (0, None)), (None, 0))(values, x)
    assert batches == [2 * V * B] * 2
    for index, member in enumerate(members):
        assert_stacked((inside[0][index], tuple(state[index] for state in inside[1])), list(map(member, x)))
        assert_stacked((outside[0][:, index], tuple(state[:, index] for state in outside[1])), list(map(member, x)))


@pytest.mark.parametrize("kind", [TANH, GRU, LSTM], ids=str)
def test_gradients_by_autograd_are_those_of_the_examples(kind: Kind, batches: list[int]) -> None:
    rnn, x = kind.build(elman, I, H).double(), torch.randn(V, T, B, I, dtype=torch.float64, requires_grad=True)
    inputs = [x, *rnn.parameters()]
    got = torch.autograd.grad(vmap(rnn)(x)[0].square().sum(), inputs)
    assert batches == [V * B]
    expected = torch.autograd.grad(torch.stack([rnn(each)[0] for each in x]).square().sum(), inputs)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


WRONG: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "features": ((T, B, I + 1), (1, B, H)),
    "a state's width": ((T, B, I), (1, B, H + 1)),
    "a state's batch": ((T, B, I), (1, 2 * B, H)),
    "a state without a batch": ((T, B, I), (1, H)),
    "a state with a batch": ((T, I), (1, B, H)),
    "a state of one more axis": ((T, B, I), (1, 1, B, H)),
    "x of one axis": ((I,), (1, B, H)),
    "x of four axes": ((1, T, B, I), (1, B, H)),
}


@pytest.mark.parametrize("dims", [(0, 0), (0, None), (None, 0)], ids=str)
@pytest.mark.parametrize(("x", "state"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_of_an_example_is_told_as_of_a_call(x: tuple[int, ...], state: tuple[int, ...], dims: tuple[int | None, ...]) -> None:
    gru, told = elman.GRU(I, H), []
    given = [torch.zeros(*((2,) if dim == 0 else ()), *shape) for shape, dim in zip((x, state), dims, strict=True)]
    for run, arguments in ((gru, (torch.zeros(x), torch.zeros(state))), (vmap(gru, dims), given)):
        with pytest.raises((RuntimeError, ValueError)) as error:
            run(*arguments)
        told.append((error.type, str(error.value)))
    assert told[0] == told[1]
    assert not torch._C._are_functorch_transforms_active()


def test_one_parameter_alone_may_be_the_examples_own(batches: list[int]) -> None:
    rnn, x = elman.RNN(I, H), torch.randn(T, B, I)
    biases = torch.randn(V, H)
    got = vmap(lambda bias: functional_call(rnn, {"bias_hh_l0": bias}, (x,)))(biases)
    assert batches == [V * B]
    assert_stacked(got, [functional_call(rnn, {"bias_hh_l0": bias}, (x,)) for bias in biases])


def test_a_call_that_has_no_examples_is_run_once(batches: list[int]) -> None:
    rnn, x = elman.RNN(I, H), torch.randn(T, B, I)
    got = vmap(lambda _: rnn(x), out_dims=None)(torch.zeros(V))
    assert batches == [B]
    assert torch.equal(got[0], rnn(x)[0])


def test_who_records_operators_sees_none_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "place", lambda *_: pytest.fail("examples were laid into a batch for nothing"))
    rnn, x = elman.RNN(I, H), torch.randn(V, T, B, I)
    with torch.no_grad():
        graph = make_fx(vmap(lambda x: rnn(x)[0]))(x)
    torch.testing.assert_close(graph(x), torch.stack([rnn(each)[0] for each in x]))
