"""Gradients in the ways that people ask for them: after writing into the output, twice, in batches, under hooks, modes and compilers.

Whatever torch.nn answers is the right answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import elman
from kinds import GRU, LSTM, PROJECTED, TANH, Kind, as_hx, as_states, every_kind
from native import required

# torch's own compiler, tracer and forward mode warn of each other.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
TOLERANCE = 1e-12

Run = Callable[[nn.Module, Tensor], Tensor]


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module]:
    """torch.nn's network and ours: RNNs, or those of the kind that ``every_pair`` asks for."""
    torch.manual_seed(0)
    kind = getattr(request, "param", TANH)
    theirs, ours = kind.pair(4, 5, 2, dtype=torch.float64)
    return theirs, ours


every_pair = pytest.mark.parametrize("pair", [TANH, GRU, LSTM, PROJECTED], ids=str, indirect=True)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    yield
    torch.compiler.reset()


class PassThrough(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return func(*args, **(kwargs or {}))


def gradients(run: Run, rnn: nn.Module, x: Tensor) -> list[Tensor]:
    rnn.zero_grad()
    x = x.clone().requires_grad_()
    run(rnn, x).backward()
    return [x.grad.clone(), *(p.grad.clone() for p in rnn.parameters())]


def assert_same_gradients(run: Run, pair: tuple[nn.Module, nn.Module], x: Tensor) -> None:
    theirs, ours = (gradients(run, rnn, x) for rnn in pair)
    for expected, got in zip(theirs, ours, strict=True):
        assert expected.abs().max() > 100 * TOLERANCE
        torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE)


def relu_in_place(rnn: nn.Module, x: Tensor) -> Tensor:
    return torch.relu_(rnn(x)[0]).square().sum()


def one_step_overwritten(rnn: nn.Module, x: Tensor) -> Tensor:
    output, hx = rnn(x)
    output[0] = 1
    return output.square().sum() + sum(state.sum() for state in as_states(hx))


def detached_output_overwritten(rnn: nn.Module, x: Tensor) -> Tensor:
    output, _ = rnn(x)
    loss = output.sum()
    output.detach().zero_()
    return loss


def twice_over(rnn: nn.Module, x: Tensor) -> Tensor:
    loss = rnn(x)[0].square().sum()
    loss.backward(retain_graph=True)
    return loss


def offloaded(rnn: nn.Module, x: Tensor) -> Tensor:
    with torch.autograd.graph.save_on_cpu():
        return rnn(x)[0].square().sum()


def checkpointed(rnn: nn.Module, x: Tensor) -> Tensor:
    return checkpoint(lambda x: rnn(x)[0], x, use_reentrant=False).square().sum()


def checkpointed_reentrant(rnn: nn.Module, x: Tensor) -> Tensor:
    return checkpoint(lambda x: rnn(x)[0], x, use_reentrant=True).square().sum()


@every_pair
@pytest.mark.parametrize(
    "run", [relu_in_place, one_step_overwritten, detached_output_overwritten, twice_over, offloaded, checkpointed, checkpointed_reentrant]
)
def test_gradients_are_torchs(run: Run, pair: tuple[nn.Module, nn.Module], x: Tensor) -> None:
    assert_same_gradients(run, pair, x)


def test_one_state_for_two_has_the_gradients_of_both_with_a_graph_too(x: Tensor) -> None:
    rnn, both = elman.LSTM(4, 5, dtype=torch.float64), torch.randn(1, 2, 5, dtype=torch.float64, requires_grad=True)
    loss = rnn(x, (both, both))[0].square().sum()
    (once,) = torch.autograd.grad(loss, both, retain_graph=True)
    (again,) = torch.autograd.grad(loss, both, create_graph=True)
    torch.testing.assert_close(again, once, rtol=0, atol=TOLERANCE)


def test_the_helper_sees_a_wrong_gradient(pair: tuple[nn.Module, nn.Module], x: Tensor) -> None:
    with torch.no_grad():
        pair[1].weight_hh_l0[0, 0] += 1e-6
    with pytest.raises(AssertionError):
        assert_same_gradients(relu_in_place, pair, x)


@every_pair
def test_batched_gradients_are_torchs(pair: tuple[nn.Module, nn.Module], x: Tensor) -> None:
    output = pair[0](x)[0]
    directions = torch.eye(output.numel(), dtype=x.dtype).view(-1, *output.shape)
    theirs, ours = (torch.autograd.grad(rnn(x)[0], rnn.weight_hh_l0, directions, is_grads_batched=True)[0] for rnn in pair)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE)
    assert not ours.requires_grad  # or what adds them up keeps every step's graph


@pytest.mark.parametrize("network", [elman.Recurrent, elman.RecurrentCell])
def test_batched_gradients_of_ones_own_cell_carry_a_graph_only_if_asked(network: Any) -> None:
    net, x = network(elman.zoo.MGU(), 3, 4), torch.randn(5, 3) if network is elman.RecurrentCell else torch.randn(5, 2, 3)
    result = net(x) if network is elman.RecurrentCell else net(x)[0]
    for create_graph in (False, True):
        directions = torch.eye(result.numel()).view(-1, *result.shape)
        (found,) = torch.autograd.grad(
            result, next(net.parameters()), directions, is_grads_batched=True, retain_graph=True, create_graph=create_graph
        )
        assert found.requires_grad == create_graph


def test_saved_tensors_of_another_dtype_are_refused(pair: tuple[nn.Module, nn.Module], x: Tensor) -> None:
    with saved_tensors_hooks(lambda t: t.float(), lambda t: t):
        output, _ = pair[1](x)
    with pytest.raises(RuntimeError, match="was x changed after the forward pass"):
        output.sum().backward()


def test_saved_tensors_of_another_shape_are_refused(pair: tuple[nn.Module, nn.Module], x: Tensor) -> None:
    with saved_tensors_hooks(lambda t: t[:1], lambda t: t):
        output, _ = pair[1](x)
    with pytest.raises(RuntimeError, match="parameter 0 of shape"):
        output.sum().backward()


@every_pair
def test_a_traced_network_computes(pair: tuple[nn.Module, nn.Module], x: Tensor) -> None:
    with torch.no_grad():
        traced = torch.jit.trace(pair[1], (x,))
        torch.testing.assert_close(traced(x)[0], pair[0](x)[0], rtol=0, atol=TOLERANCE)


@every_pair
def test_forward_mode_and_vmap_work_under_a_dispatch_mode(pair: tuple[nn.Module, nn.Module], x: Tensor) -> None:
    theirs, ours = pair
    with PassThrough():
        _, slope = jvp(lambda x: ours(x)[0], (x,), (torch.ones_like(x),))
        mapped = vmap(lambda x: ours(x)[0])(torch.stack([x, x]))
    torch.testing.assert_close(slope, jvp(lambda x: theirs(x)[0], (x,), (torch.ones_like(x),))[1], rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(mapped[1], theirs(x)[0], rtol=0, atol=TOLERANCE)


def test_a_second_derivative_under_a_dispatch_mode_is_refused_not_wrong(pair: tuple[nn.Module, nn.Module], x: Tensor) -> None:
    x = x.requires_grad_()
    with PassThrough():
        (slope,) = torch.autograd.grad(pair[1](x)[0].sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="cannot be differentiated again"):
            slope.square().sum().backward()


@pytest.mark.slow
def test_compiled_transforms_are_torchs(pair: tuple[nn.Module, nn.Module], x: Tensor) -> None:
    def gradient(rnn: nn.Module) -> Callable[[Tensor], Tensor]:
        return grad(lambda x: rnn(x)[0].square().sum())

    def slope(rnn: nn.Module) -> Callable[[Tensor], Tensor]:
        return lambda x: jvp(lambda x: rnn(x)[0], (x,), (torch.ones_like(x),))[1]

    theirs, ours = pair
    for transform in (gradient, slope):
        compiled = torch.compile(transform(ours), backend="aot_eager")
        torch.testing.assert_close(compiled(x), transform(theirs)(x), rtol=0, atol=TOLERANCE)


@pytest.mark.slow
def test_a_compiled_network_checks_its_parameters(pair: tuple[nn.Module, nn.Module], x: Tensor) -> None:
    swapped = {"weight_ih_l0": torch.ones(1, 1, dtype=x.dtype)}
    compiled = torch.compile(lambda x: functional_call(pair[1], swapped, (x,))[0], backend="aot_eager")
    with pytest.raises(RuntimeError, match="expected weight_ih_l0 of shape"):
        compiled(x)


@pytest.mark.skipif(not elman.why(elman.RNN(1, 1), torch.ones(1, 1, 1)).startswith("native"), reason="the kernels are not built here")
def test_the_operator_checks_what_it_is_given(pair: tuple[nn.Module, nn.Module], x: Tensor) -> None:
    params = list(pair[1].parameters())

    def scan(x: Tensor, states: list[Tensor], params: list[Tensor], batch_sizes: Tensor | None, cell: str = "rnn_tanh") -> object:
        h_0, c_0 = [*states, None, None][:2]
        spans = (batch_sizes, None, None, None, None)
        return torch.ops.elman.scan(x, h_0, c_0, params, *spans, cell, 5, 2, False, True, 0, False, False, True)

    scan(x, [], params, None)
    with pytest.raises(RuntimeError, match="expected batch_sizes that never increase, nor fall below 1, nor count more than"):
        scan(x[0], [], params, torch.tensor([1000, 1000]))
    with pytest.raises(RuntimeError, match="expected initial state 0 of shape"):
        scan(x, [x.new_zeros(1)], params, None)
    with pytest.raises(RuntimeError, match="expected one tensor for each of 1 states, got 2"):
        scan(x, [x.new_zeros(2, 2, 5)] * 2, params, None)
    with pytest.raises(RuntimeError, match="expected parameter 1 of shape"):
        scan(x, [], [params[0], params[1].float(), *params[2:]], None)
    with pytest.raises(RuntimeError, match="expected parameter 0 of shape"):
        scan(x, [], params, None, "lstm")


@required
@every_kind
@pytest.mark.parametrize("what", ["a weight", "the initial state"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_memory_swapped_before_the_gradient_is_noticed(kind: Kind, what: str, dtype: torch.dtype) -> None:
    """What .data replaces, no count of writes tells: the kernels must not read by the sizes of before."""
    rnn, x = kind.build(elman, 3, 8, dtype=dtype), torch.randn(5, 2, 3, dtype=dtype)
    states = tuple(torch.zeros(1, 2, width, dtype=dtype) for width in rnn.stack.state_sizes)
    output, _ = rnn(x, states if len(states) > 1 else states[0])
    swapped = rnn.weight_hh_l0 if what == "a weight" else states[0]
    swapped.data = torch.zeros(1, dtype=dtype)
    with pytest.raises(RuntimeError, match="expected"):
        output.sum().backward()


@required
@every_kind
def test_batch_sizes_may_be_written_before_the_gradient(kind: Kind) -> None:
    rnn, x = kind.build(elman, 3, 8), torch.randn(5, 2, 3)

    def gradient(spoil: bool) -> Tensor:
        packed = pack_padded_sequence(x, torch.tensor([5, 3]))
        output, _ = rnn(packed)
        if spoil:
            packed.batch_sizes.fill_(2)
        return torch.autograd.grad(output.data.sum(), rnn.weight_hh_l0)[0]

    assert torch.equal(gradient(spoil=True), gradient(spoil=False))


@every_kind
@pytest.mark.parametrize("options", [{}, {"recompute": True, "num_layers": 2}, {"dtype": torch.bfloat16}], ids=str)
@pytest.mark.parametrize("spans", [{}, {"lengths": [5, 3]}], ids=["whole", "ragged"])
@pytest.mark.parametrize("behind", [0, 1], ids=["all", "a part"])
def test_zeros_without_memory_are_zeros(kind: Kind, options: dict[str, Any], spans: dict[str, Any], behind: int) -> None:
    """Formulas of torch's own give such gradients where there is nothing to add; they may come as anything else, too, and in parts."""

    def without_memory(shape: Sequence[int], **like: Any) -> Tensor:
        return torch._efficientzerotensor((behind + shape[0], *shape[1:]), **like)[behind:]

    rnn = kind.build(elman, 3, 8, **options)

    def found(zeros: Callable[..., Tensor], place: str) -> list[Tensor]:
        like = {"dtype": rnn.weight_hh_l0.dtype}
        torch.manual_seed(0)
        x = zeros((5, 2, 3), **like) if place == "x" else torch.randn(5, 2, 3, **like)
        states = [torch.randn(rnn.num_layers, 2, width, **like) for width in rnn.stack.state_sizes]
        if place == "states":
            states = [zeros(state.shape, **like) for state in states]
        output, finals = rnn(x, as_hx(tuple(states)), **spans)
        results = [output, *as_states(finals)]
        gradients = [torch.ones_like(t) for t in results]
        for at in {"output": range(1), "finals": range(1, len(results))}.get(place, ()):
            gradients[at] = zeros(results[at].shape, **like)
        with torch.no_grad():
            again = rnn(x, as_hx(tuple(states)), **spans)[0]
        return [output, again, *torch.autograd.grad(results, list(rnn.parameters()), gradients)]

    for place in ("x", "states", "output", "finals"):
        for got, expected in zip(found(without_memory, place), found(torch.zeros, place), strict=True):
            assert torch.equal(got, expected), place


class _Counting(elman.Cell):
    """Counts its steps, in a state that no gradient reaches."""

    gates = ("n",)
    states = ("h", "k")

    def step(self, x, r, s, p):
        return torch.tanh(x.n + r.n), s.k + 1


@pytest.mark.parametrize("traced", [False, True])
def test_a_state_without_a_gradient_has_no_part_in_the_second_derivative(traced: bool) -> None:
    rnn, x = elman.Recurrent(_Counting(), 3, 4), torch.randn(5, 2, 3, requires_grad=True)
    h, k = rnn.trace(x).final if traced else rnn(x)[1]
    (with_count,) = torch.autograd.grad(h.square().sum() + k.sum(), x, create_graph=True)
    (without,) = torch.autograd.grad(rnn(x)[1][0].square().sum(), x, create_graph=True)
    torch.testing.assert_close(with_count, without)
    for first in (with_count, without):
        assert torch.autograd.grad(first.square().sum(), x)[0].any()


def test_a_state_without_a_gradient_alone_gives_zeros() -> None:
    rnn, x = elman.Recurrent(_Counting(), 3, 4), torch.randn(5, 2, 3, requires_grad=True)
    for create_graph in (False, True):
        assert not torch.autograd.grad(rnn(x)[1][1].sum(), x, create_graph=create_graph)[0].any()


@pytest.mark.parametrize("traced", [False, True])
def test_what_no_gradient_reaches_has_zeros(traced: bool) -> None:
    """As the initial count reaches the last one, and nothing else does."""
    rnn, x = elman.Recurrent(_Counting(), 3, 4), torch.randn(5, 2, 3, requires_grad=True)
    states = torch.randn(1, 2, 4, requires_grad=True), torch.zeros(1, 2, 4, requires_grad=True)
    leaves = [x, *states, *rnn.parameters()]
    for create_graph in (False, True):
        final = rnn.trace(x, states).final if traced else rnn(x, states)[1]
        of_x, of_h, of_k, *rest = torch.autograd.grad(final[1].sum(), leaves, create_graph=create_graph)
        assert (of_k == 1).all()
        assert not any(gradient.any() for gradient in (of_x, of_h, *rest))


@pytest.mark.parametrize("network", [elman.Recurrent, elman.RecurrentCell])
def test_so_have_batched_gradients(network: Any) -> None:
    net, x = network(_Counting(), 3, 4), torch.randn((2, 3) if network is elman.RecurrentCell else (5, 2, 3), requires_grad=True)
    shape = (2, 4) if network is elman.RecurrentCell else (1, 2, 4)
    states = torch.randn(shape), torch.zeros(shape, requires_grad=True)
    count = (net(x, states) if network is elman.RecurrentCell else net(x, states)[1])[1]
    of_x, of_k = torch.autograd.grad(count, (x, states[1]), torch.ones(3, *shape), is_grads_batched=True)
    assert of_x.shape == (3, *x.shape)
    assert not of_x.any()
    assert (of_k == 1).all()


def _after_freezing(rnn: nn.Module, shapes: Sequence[tuple[int, ...]], frozen: str, batched: bool) -> tuple[Tensor, ...]:
    """The gradients, also of gradients, where something was frozen after the forward pass; ``shapes``: of x and of the states."""
    x, *states = (torch.ones(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    output = as_states(rnn(x, as_hx(tuple(states))))[0]
    biases = [p for name, p in rnn.named_parameters() if name.startswith("bias_ih")]
    for tensor in {"all": rnn.parameters(), "a bias": biases[:1], "the states": states, "x": [x]}[frozen]:
        tensor.requires_grad_(False)
    leaves = [t for t in (x, *states, *rnn.parameters()) if t.requires_grad]
    if batched:
        return torch.autograd.grad(output, leaves, torch.stack([output, output + 1]), is_grads_batched=True)
    first = torch.autograd.grad(output.square().mean(), leaves, create_graph=True)
    return *first, *torch.autograd.grad(sum(g.square().mean() for g in first), leaves)


@pytest.mark.parametrize("frozen", ["all", "a bias", "the states", "x"])
@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("one_step", [False, True])
@every_kind
def test_what_is_frozen_after_the_forward_pass_leaves_the_other_gradients(kind: Kind, one_step: bool, batched: bool, frozen: str) -> None:
    if one_step and kind is PROJECTED:
        return  # torch.nn has no such cell
    torch.manual_seed(0)
    theirs, ours = ((kind.build_cell if one_step else kind.build)(library, 4, 5, dtype=torch.float64) for library in (nn, elman))
    ours.load_state_dict(theirs.state_dict())
    shapes = [(2, 4) if one_step else (3, 2, 4), *[(2, width) if one_step else (1, 2, width) for width in kind.widths(5)]]
    found = [_after_freezing(rnn, shapes, frozen, batched) for rnn in (theirs, ours)]
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.filterwarnings("ignore:Using backward")
def test_a_frozen_parameters_hook_still_gets_its_gradient() -> None:
    given: list[Tensor] = []
    rnn, x = elman.Recurrent(elman.zoo.MGU(), 3, 4), torch.randn(5, 2, 3, requires_grad=True)
    rnn.weight_hh_l0.register_hook(given.append)
    for create_graph in (False, True):
        output, _ = rnn.requires_grad_()(x)
        rnn.requires_grad_(False)
        output.sum().backward(create_graph=create_graph)
    assert given[0].any()
    torch.testing.assert_close(given[1], given[0])
