"""elman's cells are torch.nn's: RNNCell, GRUCell, LSTMCell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

import elman
from elman.backends import registry
from elman.backends.reference import ReferenceBackend
from kinds import Kind, as_hx, as_states, every_cell

if TYPE_CHECKING:
    from collections.abc import Callable

    from elman.backends import Backend


def _pair(kind: Kind, *arguments: object, **options: object) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    theirs = kind.build_cell(nn, *arguments, **options)
    torch.manual_seed(0)
    return theirs, kind.build_cell(elman, *arguments, **options)


def _states(kind: Kind, *shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    return tuple(torch.randn(*shape, dtype=dtype) for _ in kind.states)


@pytest.mark.parametrize("unbatched", [False, True], ids=["batched", "unbatched"])
@pytest.mark.parametrize("given_state", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@every_cell
@pytest.mark.usefixtures("poisoned")
def test_a_step_and_its_gradients_are_torchs(backend: Backend, kind: Kind, bias: bool, given_state: bool, unbatched: bool) -> None:
    results = []
    for cell in _pair(kind, 3, 4, bias):
        torch.manual_seed(1)
        batch = () if unbatched else (5,)
        x, states = torch.randn(*batch, 3, dtype=torch.float64), _states(kind, *batch, 4, dtype=torch.float64)
        leaves = [leaf.requires_grad_() for leaf in ((x, *states) if given_state else (x,))]
        after = as_states(cell.double()(x, as_hx(states)) if given_state else cell.double()(x))
        loss = sum(state.square().sum() for state in after)
        results.append([*after, *torch.autograd.grad(loss, [*leaves, *cell.parameters()])])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("gone", [("bias_ih",), ("bias_hh",), ("bias_ih", "bias_hh")], ids=" ".join)
@pytest.mark.parametrize("wrap", [lambda cell: cell, lambda cell: torch.compile(cell, backend="eager")], ids=["eager", "compiled"])
@every_cell
def test_a_bias_that_was_set_to_none_adds_nothing_as_in_torch(kind: Kind, wrap: Callable[[Any], Any], gone: tuple[str, ...]) -> None:
    results = []
    for cell in _pair(kind, 3, 4):
        for name in gone:
            setattr(cell, name, None)
        torch.manual_seed(1)
        after = as_states(wrap(cell.double())(torch.randn(5, 3, dtype=torch.float64), as_hx(_states(kind, 5, 4, dtype=torch.float64))))
        results.append([*after, *torch.autograd.grad(sum(state.square().sum() for state in after), list(cell.parameters()))])
    assert len(results[0]) == len(kind.states) + 4 - len(gone)
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@every_cell
@pytest.mark.parametrize("bias", [True, False])
def test_the_same_seed_gives_torchs_parameters(kind: Kind, bias: bool) -> None:
    theirs, ours = _pair(kind, 3, 4, bias)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, expected in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], expected)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert (ours.bias_ih is None, ours.bias_hh is None) == (not bias, not bias)


@every_cell
@pytest.mark.parametrize("bias", [True, False])
def test_it_prints_as_torchs(kind: Kind, bias: bool) -> None:
    theirs, ours = _pair(kind, 3, 4, bias=bias)
    assert repr(ours) == repr(theirs)


def test_positional_arguments_come_in_torchs_order() -> None:
    for kind in (elman.GRUCell, elman.LSTMCell):
        assert kind(3, 4, False, "cpu", torch.float64).weight_ih.dtype is torch.float64
    assert elman.RNNCell(3, 4, False, "relu", "cpu", torch.float64).weight_ih.dtype is torch.float64


@every_cell
def test_steps_one_by_one_are_the_sequence(backend: Backend, kind: Kind) -> None:
    rnn, cell = kind.build(elman, 3, 4).double(), kind.build_cell(elman, 3, 4).double()
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in rnn.state_dict().items()})
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    hx, steps = None, []
    for step in x:
        hx = cell(step, hx)
        steps.append(as_states(hx)[0])
    output, last = rnn(x)
    torch.testing.assert_close(torch.stack(steps), output, rtol=0, atol=1e-14)
    for got, expected in zip(as_states(hx), as_states(last), strict=True):
        torch.testing.assert_close(got, expected[0], rtol=0, atol=1e-14)


@every_cell
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_state_is_detached_in_place_as_torchs(backend: Backend, kind: Kind, dtype: torch.dtype) -> None:
    for cell in _pair(kind, 3, 4, dtype=dtype):
        states = None
        for x in torch.randn(3, 2, 3).to(dtype):
            states = as_states(cell(x, None if states is None else as_hx(states)))
            for state in states:
                assert state.requires_grad
                state.detach_()


@every_cell
@pytest.mark.parametrize(("input_size", "hidden_size"), [(0, 4), (3, 0), (0, 0)])
def test_sizes_of_zero_are_torchs(kind: Kind, input_size: int, hidden_size: int) -> None:
    theirs, ours = _pair(kind, input_size, hidden_size)
    x = torch.randn(2, input_size)
    torch.testing.assert_close(ours(x), theirs(x))


@every_cell
def test_an_empty_batch_gives_an_empty_state(kind: Kind) -> None:
    for state in as_states(kind.build_cell(elman, 3, 4)(torch.randn(0, 3))):
        assert state.shape == (0, 4)


@every_cell
def test_autocast_on_the_reference_gives_what_it_gives_in_torch(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BACKENDS", (ReferenceBackend(),))
    theirs, ours = _pair(kind, 3, 4)
    x, hx = torch.randn(2, 3), as_hx(_states(kind, 2, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(ours(x, hx), theirs(x, hx), rtol=0, atol=0)


@every_cell
@pytest.mark.parametrize("given_state", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("unbatched", [False, True], ids=["batched", "unbatched"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.slow
def test_a_compiler_sees_torchs_own_operators(kind: Kind, given_state: bool, unbatched: bool) -> None:
    """Which it fuses, over a loop of steps too: the same numbers and gradients."""
    cell, rows = kind.build_cell(elman, 3, 4, dtype=torch.float64), () if unbatched else (5,)
    x = torch.randn(3, *rows, 3, dtype=torch.float64, requires_grad=True)
    states = [state.requires_grad_() for state in _states(kind, *rows, 4, dtype=torch.float64)] if given_state else []
    graphs: list[torch.fx.GraphModule] = []

    def loop(x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        hx = as_hx(states) if states else None
        for step in x:
            hx = cell(step, hx)
        return as_states(hx)

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    torch.compiler.reset()
    results = []
    for run in (loop, torch.compile(loop, fullgraph=True, backend=backend)):
        after = run(x, *states)
        loss = sum(state.square().sum() for state in after)
        results.append([*after, *torch.autograd.grad(loss, [x, *states, *cell.parameters()])])
    assert len(graphs) == 1
    assert not [node for node in graphs[0].graph.nodes if "elman" in str(node.target)]
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@every_cell
@pytest.mark.parametrize("autocasts", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.slow
def test_a_compiled_step_has_torchs_dtypes(kind: Kind, autocasts: bool) -> None:
    torch.compiler.reset()
    theirs, ours = _pair(kind, 3, 4, dtype=None if autocasts else torch.bfloat16)
    x, hx = torch.randn(2, 3).to(ours.weight_ih.dtype), as_hx(_states(kind, 2, 4, dtype=ours.weight_ih.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocasts):
        torch.testing.assert_close(
            torch.compile(ours, fullgraph=True, backend="aot_eager")(x, hx), theirs(x, hx), rtol=0, atol=0 if autocasts else 2**-6
        )
