"""An ensemble, whose members have parameters of their own, is one call of the kernels, and gives what a loop over its members gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

import elman
from elman.backends import Operands, call, kernels
from elman.backends.reference import REFERENCE
from kinds import GRU, LSTM, PROJECTED, TANH, Kind, as_hx, as_states, every_kind
from native import native_alone, required, threads
from own_cells import OWN
from program_runs import NATIVE
from test_program_autocast import Shift

if kernels.available():
    from elman import _native

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [required, pytest.mark.usefixtures("poisoned")]
__all__ = ["native_alone"]
V, T, B, I, H = 3, 4, 2, 2, 5  # noqa: E741
DEEP: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "batch_first": True}
options = pytest.mark.parametrize("options", [{}, DEEP], ids=["plain", "deep"])


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The calls of the kernels: which way, and of how many members."""
    seen: list[tuple[str, int]] = []

    def watch(name: str, run: Callable[..., Any]) -> None:
        def spy(*operands: Any, **others: Any) -> Any:
            done = run(*operands, **others)
            seen.append((name, operands[name.startswith("program")][-2]))  # of a stack's numbers the last but one
            return done

        monkeypatch.setattr(_native, name, spy)

    for name in ("forward", "backward", "program_forward"):
        watch(name, getattr(_native, name))
    return seen


def made(kind: Kind, dtype: torch.dtype = torch.float64, **given: Any) -> tuple[list[nn.Module], dict[str, Tensor]]:
    """The members, and their parameters, stacked."""
    members = [kind.build(elman, I, H, **given, dtype=dtype) for _ in range(V)]
    return members, stack_module_state(members)[0]


def inputs(member: nn.Module, dtype: torch.dtype = torch.float64) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The input, x, and the initial states of each member."""
    x = torch.randn(V, *((B, T, I) if member.batch_first else (T, B, I)), dtype=dtype)
    directions = member.num_layers * member.stack.num_directions
    return x, tuple(torch.randn(V, directions, B, width, dtype=dtype) for width in member.stack.state_sizes)


def loss(output: Tensor, hx: Any) -> Tensor:
    return output.double().square().sum() + sum((1 + i) * state.double().sin().sum() for i, state in enumerate(as_states(hx)))


@options
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@every_kind
def test_it_has_the_bits_of_its_members(kind: Kind, dtype: torch.dtype, options: dict[str, Any], calls: list[tuple[str, int]]) -> None:
    """Results, and gradients by plain autograd: of parameters, inputs and states."""
    members, stacked = made(kind, dtype, **options)
    x, states = inputs(members[0], dtype)
    run = lambda values, x, states: functional_call(members[0], values, (x, as_hx(states)))  # noqa: E731
    with torch.no_grad():
        alone = vmap(run)(stacked, x, states)
    assert calls == [("forward", V)]
    x.requires_grad_(), [state.requires_grad_() for state in states]
    output, hx = vmap(run)(stacked, x, states)
    got = torch.autograd.grad(loss(output, hx), [x, *states, *stacked.values()])
    assert {members for _, members in calls} == {V}
    for index, member in enumerate(members):
        own = [x[index].detach().requires_grad_(), *[state[index].detach().requires_grad_() for state in states]]
        expected = member(own[0], as_hx(tuple(own[1:])))
        for found in ((output, *as_states(hx)), (alone[0], *as_states(alone[1]))):
            for one, other in zip(found, (expected[0], *as_states(expected[1])), strict=True):
                assert torch.equal(one[index], other)
        for one, other in zip(got, torch.autograd.grad(loss(*expected), [*own, *member.parameters()]), strict=True):
            assert torch.equal(one[index], other)


@options
@pytest.mark.parametrize("kind", [TANH, GRU, LSTM, PROJECTED], ids=str)
def test_lengths_and_resets_may_be_each_members_own(kind: Kind, options: dict[str, Any], calls: list[tuple[str, int]]) -> None:
    members, stacked = made(kind, learn_initial_state=True, **options)
    (x, _), stacked = inputs(members[0]), {name: value.detach() for name, value in stacked.items()}
    lengths = torch.tensor([[0, 0], [3, 4], [1, 0]])  # one has no steps at all
    reset = torch.rand(V, *((B, T) if members[0].batch_first else (T, B))) < 0.3

    def of(values: dict[str, Tensor], x: Tensor, lengths: Tensor, reset: Tensor) -> Tensor:
        return loss(*functional_call(members[0], values, (x,), {"lengths": lengths, "reset": reset}))

    got = vmap(grad(of, argnums=(0, 1)))(stacked, x, lengths, reset)
    assert calls == [("forward", V), ("backward", V)]
    for index in range(V):
        values = {name: value[index] for name, value in stacked.items()}
        expected = grad(of, argnums=(0, 1))(values, x[index], lengths[index], reset[index])
        assert torch.equal(got[1][index], expected[1])
        for name, value in expected[0].items():
            assert torch.equal(got[0][name][index], value), name


@options
@every_kind
def test_it_gives_what_torchs_networks_give(kind: Kind, options: dict[str, Any]) -> None:
    """In training with one input for all."""
    pairs = [kind.pair(I, H, **options, dtype=torch.float64) for _ in range(V)]
    stacked, x = stack_module_state([ours for _, ours in pairs])[0], inputs(pairs[0][1])[0][0].requires_grad_()
    output, hx = vmap(lambda values, x: functional_call(pairs[0][1], values, (x,)), in_dims=(0, None))(stacked, x)
    got = torch.autograd.grad(loss(output, hx), [x, *stacked.values()])
    results = [theirs(x) for theirs, _ in pairs]
    expected = torch.stack([each[0] for each in results]), *map(torch.stack, zip(*[as_states(each[1]) for each in results], strict=True))
    torch.testing.assert_close((output, *as_states(hx)), expected, rtol=0, atol=1e-12)
    parameters = [list(theirs.parameters()) for theirs, _ in pairs]
    of_all = torch.autograd.grad(sum(loss(*each) for each in results), [x, *[p for own in parameters for p in own]])
    count = len(parameters[0])
    torch.testing.assert_close(got[0], of_all[0], rtol=0, atol=1e-12)
    for place, gradient in enumerate(got[1:]):
        torch.testing.assert_close(gradient, torch.stack(of_all[1 + place :: count]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("kind", [TANH, LSTM], ids=str)
def test_members_may_lie_along_any_axis(kind: Kind, axis: int, calls: list[tuple[str, int]]) -> None:
    members, stacked = made(kind, bias=False)
    x, moved = inputs(members[0])[0], {name: value.detach().movedim(0, axis).contiguous() for name, value in stacked.items()}
    output, _ = vmap(lambda values, x: functional_call(members[0], values, (x,)), in_dims=(axis, 0))(moved, x)
    assert {members for _, members in calls} == {V}
    for index, member in enumerate(members):
        assert torch.equal(output[index], member(x[index])[0])


@pytest.mark.parametrize("kind", [GRU, LSTM], ids=str)
def test_ensembles_of_ensembles_are_one_call(kind: Kind, calls: list[tuple[str, int]]) -> None:
    members, stacked = made(kind)
    x, stacked = inputs(members[0])[0], {name: value.detach() for name, value in stacked.items()}
    other = {name: torch.stack([value, 2 * value]) for name, value in stacked.items()}
    of = lambda values, x: loss(*functional_call(members[0], values, (x,)))  # noqa: E731
    run = lambda values, x: functional_call(members[0], values, (x,))[0]  # noqa: E731
    output, gradients = vmap(vmap(run), (0, None))(other, x), vmap(vmap(grad(of)), (0, None))(other, x)
    assert calls == [("forward", 2 * V), ("forward", 2 * V), ("backward", 2 * V)]
    for first in range(2):
        for index in range(V):
            own = {name: value[first, index] for name, value in other.items()}
            assert torch.equal(output[first, index], run(own, x[index]))
            for name, value in grad(of)(own, x[index]).items():
                assert torch.equal(gradients[name][first, index], value)


@pytest.mark.parametrize("steps", [6, 60])  # a member's call is short, or long enough for threads of its own
def test_threads_change_no_bit(steps: int) -> None:
    members = [elman.LSTM(64, 64) for _ in range(V)]
    stacked, x = stack_module_state(members)[0], torch.randn(steps, 8, 64)
    found = []
    for count in (1, 2, 4):
        with threads(count):
            output, _ = vmap(lambda values, x: functional_call(members[0], values, (x,)), in_dims=(0, None))(stacked, x)
            used = kernels.threads_used()
            found.append((output.detach(), *torch.autograd.grad(output.square().sum(), list(stacked.values()))))
        assert used == min(count, _native.usable_processors())
    for one, other in zip(found[0], found[1], strict=True):
        assert torch.equal(one, other)
    for one, other in zip(found[0], found[2], strict=True):
        assert torch.equal(one, other)
    for index, member in enumerate(members):
        assert torch.equal(found[0][0][index], member(x)[0])


@options
@pytest.mark.parametrize("kind", [TANH, LSTM], ids=str)
def test_second_derivatives_are_those_of_the_members(kind: Kind, options: dict[str, Any]) -> None:
    members, stacked = made(kind, **options)
    x = inputs(members[0])[0][0].requires_grad_()

    def penalty(output: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(output.square().sum(), x, create_graph=True)
        return gradient.square().sum()

    together = vmap(lambda values, x: functional_call(members[0], values, (x,)), in_dims=(0, None))(stacked, x)[0]
    got = torch.autograd.grad(penalty(together), list(stacked.values()))
    parameters = [list(member.parameters()) for member in members]
    one_by_one = torch.stack([member(x)[0] for member in members])
    expected = torch.autograd.grad(penalty(one_by_one), [p for own in parameters for p in own])
    for place, gradient in enumerate(got):
        torch.testing.assert_close(gradient, torch.stack(expected[place :: len(parameters[0])]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("batch_first", [False, True])
def test_cells_of_your_own_are_one_call_too(batch_first: bool, calls: list[tuple[str, int]]) -> None:
    members = [elman.Recurrent(OWN["peephole"].cell, I, H, batch_first=batch_first, dtype=torch.float64) for _ in range(V)]
    stacked, x = stack_module_state(members)[0], torch.randn(T, B, I, dtype=torch.float64)
    run = vmap(lambda values: functional_call(members[0], values, (x,)))
    with torch.no_grad():
        alone = run(stacked)
    assert calls == [("program_forward", V)]
    output, hx = run(stacked)
    got = torch.autograd.grad(loss(output, hx), list(stacked.values()))
    for index, member in enumerate(members):
        expected = member(x)
        assert torch.equal(output[index], expected[0])
        assert torch.equal(alone[0][index], expected[0])
        for one, other in zip(got, torch.autograd.grad(loss(*expected), list(member.parameters())), strict=True):
            assert torch.equal(one[index], other)


class Asks(nn.Module):
    """Says which backend runs its network."""

    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor) -> str:
        return elman.why(self.rnn, x)


def test_why_says_that_the_kernels_run_it() -> None:
    asks = [Asks(elman.LSTM(I, H)) for _ in range(V)]
    said: list[str] = []
    vmap(lambda values, x: said.append(functional_call(asks[0], values, (x,))) or x)(stack_module_state(asks)[0], torch.randn(V, T, B, I))
    assert said[0].startswith("native")


@pytest.mark.parametrize("way", [lambda of: of, grad], ids=["vmap", "vmap of grad"])
def test_an_ensemble_of_nobody_is_told(way: Any) -> None:
    rnn = elman.GRU(I, H)
    nothing = {name: torch.zeros(0, *p.shape) for name, p in rnn.named_parameters()}
    of = way(lambda values: functional_call(rnn, values, (torch.zeros(T, B, I),))[0].sum())
    with pytest.raises(RuntimeError, match="expected an ensemble of at least one network, got none"):
        vmap(of)(nothing)


# --- What the kernels refuse ------------------------------------------------------------------------------------------


def operands(members: int = V) -> tuple[Any, list[np.ndarray], np.ndarray]:
    gru = elman.GRU(I, H, dtype=torch.float64)
    params = [np.random.default_rng(0).standard_normal((members, *p.shape)) for p in gru.parameters()]
    return gru.stack.of(V).numbers, params, np.ones((members, T, B, I))


def test_members_that_are_missing_are_told() -> None:
    numbers, params, x = operands()
    output, final = np.empty((V, T, B, H)), (np.empty((V, 1, B, H)),)
    given = (None, None, None, None, None, False, False, 1)
    _native.forward(numbers, params, x, *given, output=output, final=final)
    for wrong in (params[0][:2], params[0][0], np.asarray(params[0].sum())):
        with pytest.raises(RuntimeError, match=f"expected parameter 0 of {V} members, got shape"):
            _native.forward(numbers, [wrong, *params[1:]], x, *given, output=output, final=final)
    with pytest.raises(RuntimeError, match=r"expected x of 3 members, got shape \(2, 4, 2, 2\)"):
        _native.forward(numbers, params, x[:2], *given, output=output, final=final)
    with pytest.raises(ValueError, match="members"):
        _native.forward((*numbers[:-2], -1, 0), params, x, *given, output=output, final=final)


def test_members_that_would_write_into_one_another_are_refused() -> None:
    numbers, params, x = operands()
    given, final = (None, None, None, None, None, False, False, 1), (np.empty((V, 1, B, H)),)
    room = np.zeros((V + 1) * T * B * H)
    for apart in (0, 1, T * B * H - 1):
        output = np.lib.stride_tricks.as_strided(room, (V, T, B, H), (8 * apart, 8 * B * H, 8 * H, 8))
        with pytest.raises(RuntimeError, match="expected members of output that do not overlap one another"):
            _native.forward(numbers, params, x, *given, output=output, final=final)
        assert not room.any()
    whole = np.ones(2 * V * T * B * H)  # in which the first member's output would lie over the last one's x
    x, output = whole[: x.size].reshape(x.shape), whole[x.size - 1 :][: V * T * B * H].reshape(V, T, B, H)
    with pytest.raises(RuntimeError, match="got memory that overlaps"):
        _native.forward(numbers, params, x, *given, output=output, final=final)


def test_a_stream_runs_one_network() -> None:
    """With all axes: neither several members, nor a step that leaves some out."""
    numbers, params, _ = operands()
    for beyond in (numbers, (*numbers[:-2], 0, 1), (*numbers[:-2], 0, 2)):
        with pytest.raises(ValueError, match="a stream runs one network"):
            _native.Stream(beyond, 1, [p[0] for p in params], [np.zeros((1, 1, H))], ((len,),) * 4, {}, ())


@pytest.mark.usefixtures("native_alone")
def test_parameters_that_the_members_share_are_not_copied() -> None:
    """They may be one number that stands for all, in memory that is not there."""
    stack = elman.RNN(I, H).stack
    params = [torch.randn(shape).expand(V, *shape) for shape in stack.shapes]
    x = torch.randn(T, B, I).expand(V, T, B, I)
    output, finals, _ = call.forward(stack.of(V), Operands(x, None, params), False, save=False)
    alone, _, _ = call.forward(stack, Operands(x[0], None, [p[0] for p in params]), False, save=False)
    assert output.is_contiguous()
    assert finals[0].shape == (V, 1, B, H)
    for index in range(V):
        assert torch.equal(output[index], alone)


@pytest.mark.parametrize("steps", [1, 2, V + 1])
def test_under_autocast_the_dtypes_follow_from_the_steps(steps: int) -> None:
    """A state of this cell has another after each of the first three steps: its members must not be taken for them."""
    stack = elman.Recurrent(Shift(), I, H).stack.of(V)
    operands = Operands(torch.randn(V, steps, B, I), None, [torch.randn(V, *shape) for shape in stack.shapes])
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found, expected = (backend.run(stack, operands) for backend in (NATIVE, REFERENCE))
    assert found[0].dtype is expected[0].dtype
    assert [final.dtype for final in found[1]] == [final.dtype for final in expected[1]]
