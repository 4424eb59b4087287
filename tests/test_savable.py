"""Tensors from torch's inference mode, such as a frozen encoder's features, in a network that is trained; and calls in that mode."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import elman
from elman import zoo
from elman.backends import registry
from kinds import Kind, as_hx, as_states, every_cell, every_kind

if TYPE_CHECKING:
    from collections.abc import Callable

T, B, I, H = 4, 3, 5, 6  # noqa: E741

every_choice = pytest.mark.parametrize("made_so", ["x", "states", "all"])


def _from_inference_mode(tensor: Tensor) -> Tensor:
    with torch.inference_mode():
        return tensor.clone()


def _assert_gradients_agree(rnn: nn.Module, call: Callable[[Callable[[Tensor], Tensor]], Tensor]) -> None:
    """What ``call`` gives, and the parameters' gradients, are to the bit those of ordinary tensors.

    Args:
        call: is given a function to apply to each tensor of the call, and returns the output.
    """
    expected = call(Tensor.clone)
    expected.float().square().sum().backward()
    gradients = [p.grad for p in rnn.parameters()]
    rnn.zero_grad()
    actual = call(_from_inference_mode)
    actual.float().square().sum().backward()
    assert torch.equal(actual, expected)
    for parameter, gradient in zip(rnn.parameters(), gradients, strict=True):
        assert gradient is not None
        assert torch.equal(parameter.grad, gradient), gradient


def _chosen(made_so: str, change: Callable[[Tensor], Tensor]) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """What is done to x, and what to the states."""
    return (Tensor.clone if made_so == "states" else change), (Tensor.clone if made_so == "x" else change)


@every_kind
@every_choice
@pytest.mark.parametrize("batch_first", [False, True], ids=["time first", "batch first"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("how", ["whole", "lengths", "reset", "dropout", "recompute", "trace"])
def test_a_layer_is_trained_on_them(kind: Kind, made_so: str, batch_first: bool, dtype: torch.dtype, how: str) -> None:
    options = {"dropout": 0.5} if how == "dropout" else {"recompute": True} if how == "recompute" else {}
    rnn = kind.build(elman, I, H, 2, batch_first=batch_first, dtype=dtype, **options)
    axes = (B, T) if batch_first else (T, B)
    x = torch.randn(*axes, I).to(dtype)
    states = [torch.randn(2, B, width).to(dtype) for width in kind.widths(H)]

    def call(change: Callable[[Tensor], Tensor]) -> Tensor:
        torch.manual_seed(0)
        of_x, of_states = _chosen(made_so, change)
        hx = as_hx(tuple(map(of_states, states)))
        if how == "lengths":
            return rnn(of_x(x), hx, lengths=of_x(torch.tensor([4, 1, 2])))[0]
        if how == "reset":
            return rnn(of_x(x), hx, reset=of_x(torch.rand(axes) < 0.5))[0]
        return rnn.trace(of_x(x), hx).output if how == "trace" else rnn(of_x(x), hx)[0]

    _assert_gradients_agree(rnn, call)


@every_cell
@every_choice
def test_so_is_a_cell(kind: Kind, made_so: str) -> None:
    cell = kind.build_cell(elman, I, H)
    x, states = torch.randn(B, I), [torch.randn(B, width) for width in kind.widths(H)]

    def call(change: Callable[[Tensor], Tensor]) -> Tensor:
        of_x, of_states = _chosen(made_so, change)
        result = cell(of_x(x), as_hx(tuple(map(of_states, states))))
        return result if isinstance(result, Tensor) else result[0]

    _assert_gradients_agree(cell, call)


@pytest.mark.parametrize("layer", [elman.GRU, elman.LSTM, partial(elman.Recurrent, zoo.MGU())], ids=["GRU", "LSTM", "own"])
@pytest.mark.parametrize("given", [False, True], ids=["from zeros", "from states"])
def test_so_is_a_layer_on_a_packed_sequence(layer: Callable[..., nn.Module], given: bool) -> None:
    rnn, x = layer(I, H), torch.randn(T, B, I)
    states = [torch.randn(1, B, H) for _ in rnn.stack.cell.states] if given else []

    def call(change: Callable[[Tensor], Tensor]) -> Tensor:
        packed = pack_padded_sequence(x, torch.tensor([2, 4, 1]), enforce_sorted=False)
        hx = as_hx(tuple(map(change, states))) if given else None
        output, h_n = rnn(PackedSequence(*map(change, packed)), hx)
        return output.data.sum() + sum(h.square().sum() for h in as_states(h_n))

    _assert_gradients_agree(rnn, call)


@pytest.mark.parametrize("how", ["whole", "lengths", "trace"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_so_is_a_cell_of_ones_own_with_a_step_input(how: str, dtype: torch.dtype) -> None:
    rnn = elman.Recurrent(zoo.CfC(), I, H, learn_initial_state=True, dtype=dtype)
    x, dt = torch.randn(T, B, I).to(dtype), torch.rand(T, B).to(dtype)

    def call(change: Callable[[Tensor], Tensor]) -> Tensor:
        if how == "trace":
            return rnn.trace(change(x), dt=change(dt)).output
        return rnn(change(x), dt=change(dt), **({"lengths": torch.tensor([4, 1, 2])} if how == "lengths" else {}))[0]

    _assert_gradients_agree(rnn, call)


@pytest.mark.parametrize("name", ["RNNCell", "GRUCell", "LSTMCell"])
def test_a_cell_in_a_transform_takes_them(name: str) -> None:
    cell, x = getattr(elman, name)(I, H), torch.randn(B, I)
    params = dict(cell.named_parameters())

    def loss(params: dict[str, Tensor], x: Tensor) -> Tensor:
        return as_states(torch.func.functional_call(cell, params, (x,)))[0].square().sum()

    found, expected = (torch.func.grad(loss)(params, each) for each in (_from_inference_mode(x), x))
    assert all(torch.equal(found[each], expected[each]) for each in params)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("lengths", [None, [4, 2, 0]])
def test_a_mapped_layer_takes_them(lengths: list[int] | None, batch_first: bool) -> None:
    gru, x = elman.GRU(I, H, batch_first=batch_first), torch.randn(2, *((B, T) if batch_first else (T, B)), I)
    params = dict(gru.named_parameters())

    def loss(params: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(gru, params, (x,), {"lengths": lengths})[0].square().sum()

    mapped = torch.func.vmap(torch.func.grad(loss), (None, 0))
    found, expected = (mapped(params, each) for each in (_from_inference_mode(x), x))
    assert all(torch.equal(found[each], expected[each]) for each in params)


@pytest.mark.parametrize("lengths", [None, [4, 2, 0]])
def test_so_may_resets_be(lengths: list[int] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the reference backend, whose operators save them."""
    monkeypatch.setattr(registry, "BACKENDS", registry.BACKENDS[-1:])
    rnn, x = elman.RNN(I, H), torch.randn(T, B, I)
    reset = torch.rand(T, B) < 0.4
    _assert_gradients_agree(
        rnn, lambda change: rnn(x, reset=change(reset), lengths=None if lengths is None else change(torch.tensor(lengths)))[0]
    )


CALLS: dict[str, Callable[[Tensor, torch.dtype], list[Tensor]]] = {
    "layer": lambda x, dtype: [*elman.GRU(I, H, dtype=dtype)(x)],
    "layers": lambda x, dtype: [elman.LSTM(I, H, 2, bidirectional=True, dropout=0.5, dtype=dtype)(x.mT.contiguous().mT)[0]],
    "projection": lambda x, dtype: [elman.LSTM(I, H, proj_size=2, recompute=True, dtype=dtype)(x)[0]],
    "lengths": lambda x, dtype: [*elman.GRU(I, H, dtype=dtype)(x, lengths=[4, 0, 2])],
    "packed": lambda x, dtype: [elman.GRU(I, H, dtype=dtype)(pack_padded_sequence(x, torch.tensor([4, 3, 1])))[0].data],
    "trace": lambda x, dtype: [(traced := elman.GRU(I, H, 2, dtype=dtype).trace(x)).output, *traced.final, *traced.gates.values()],
    "cell": lambda x, dtype: [*elman.LSTMCell(I, H, dtype=dtype)(x[0])],
    "own": lambda x, dtype: [*elman.Recurrent(zoo.CfC(), I, H, learn_initial_state=True, dtype=dtype)(x, dt=x[..., 0])],
    "own trace": lambda x, dtype: [elman.Recurrent(zoo.MGU(), I, H, dtype=dtype).trace(x).output],
    "own cell": lambda x, dtype: [elman.RecurrentCell(zoo.MGU(), I, H, dtype=dtype)(x[0])],
    "stream": lambda x, dtype: [(stream := elman.stream(elman.GRU(I, H, dtype=dtype), batch_size=B)).step(x[0]), stream.step(x[1])],
    "vmap": lambda x, dtype: [*torch.vmap(elman.GRU(I, H, dtype=dtype))(x.unsqueeze(0))],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_inference_mode_has_no_graph_even_where_gradients_are_enabled(name: str, dtype: torch.dtype) -> None:
    with torch.inference_mode(), torch.enable_grad():
        results = CALLS[name](torch.rand(T, B, I).to(dtype), dtype)
    for result in results:
        assert result.is_inference()
        assert not result.requires_grad


@pytest.mark.parametrize("made_so", ["x", "parameters"])
def test_nor_where_the_other_tensors_are_ordinary(made_so: str) -> None:
    rnn, x = elman.GRU(I, H), torch.randn(T, B, I, requires_grad=made_so == "parameters")
    with torch.inference_mode(), torch.enable_grad():
        if made_so == "parameters":
            rnn = elman.GRU(I, H)
        else:
            x = torch.randn(T, B, I)
        output, _ = rnn(x)
    assert output.is_inference()
    assert not output.requires_grad


def _differentiates_there() -> bool:
    """Whether torch.func does in inference mode: in torch 2.10 and earlier it finds zeros, or cannot save what a node keeps."""
    with torch.inference_mode():
        return bool(torch.func.grad(torch.square)(torch.ones(())))


@pytest.mark.parametrize("there", [False, True], ids=["outside", "there"])
@pytest.mark.parametrize("make", [lambda: elman.GRU(I, H), lambda: elman.Recurrent(zoo.MGU(), I, H)], ids=["GRU", "own"])
def test_a_transform_takes_parameters_that_were_made_there(make: Callable[[], elman.Recurrent], there: bool) -> None:
    if there and not _differentiates_there():
        pytest.skip("torch.func does not differentiate in inference mode here")

    def slope(rnn: elman.Recurrent, x: Tensor) -> Tensor:
        return torch.func.grad(lambda x: rnn(x)[0].square().sum())(x)

    x = torch.randn(T, B, I)
    with torch.inference_mode(), torch.enable_grad():
        rnn = make()
    with torch.inference_mode(there), torch.enable_grad():
        found = slope(rnn, x)
    ordinary = make()
    ordinary.load_state_dict(rnn.state_dict())
    torch.testing.assert_close(found, slope(ordinary, x))
