"""A stream's network may change: what is written to its parameters acts from the next step on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import elman
from native import required, tensors_asked
from streams import VIEWS, every_view, follow, tensor

if TYPE_CHECKING:
    from torch import Tensor


def _replace(rnn: nn.Module) -> None:
    rnn.weight_hh_l0 = nn.Parameter(torch.randn_like(rnn.weight_hh_l0))


def _optimize(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def _unpickle(rnn: nn.Module) -> None:
    other = elman.GRU(3, 5)
    rnn.__setstate__(other.__dict__.copy())


CHANGES = {
    "SGD": lambda rnn: _optimize(torch.optim.SGD(rnn.parameters(), lr=0.1)),
    "Adam": lambda rnn: _optimize(torch.optim.Adam(rnn.parameters(), lr=0.1)),
    "Adam, fused": lambda rnn: _optimize(torch.optim.Adam(rnn.parameters(), lr=0.1, fused=True)),
    "load_state_dict": lambda rnn: rnn.load_state_dict({k: v + 1 for k, v in rnn.state_dict().items()}),
    "load_state_dict, assigned": lambda rnn: rnn.load_state_dict({k: v + 1 for k, v in rnn.state_dict().items()}, assign=True),
    "reset_parameters": lambda rnn: rnn.reset_parameters(),
    "another parameter": _replace,
    "other parameters at once": _unpickle,
    "numbers that torch does not count": lambda rnn: rnn.weight_hh_l0.data.mul_(1.1),
    "other memory": lambda rnn: setattr(rnn.bias_ih_l0, "data", torch.randn_like(rnn.bias_ih_l0)),
}


@every_view
def test_another_nonlinearity_acts_from_the_next_step_on(view: Any) -> None:
    torch.manual_seed(0)
    rnn, x = elman.RNN(3, 5), torch.randn(4, 1, 3)
    stream = elman.stream(rnn)
    with torch.no_grad():
        follow(stream, x[:2], [0, 0], view)
        for step, mode in ((2, "RNN_RELU"), (3, "RNN_TANH")):
            state = stream.state
            rnn.mode = mode
            expected, final = rnn(x[step : step + 1], state)
            assert torch.equal(tensor(stream.step(view(x[step]))), expected[0])
            assert torch.equal(stream.state, final)


@every_view
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_parameters_acts_from_the_next_step_on(change: str, view: Any) -> None:
    torch.manual_seed(0)
    rnn, x = elman.GRU(3, 5), torch.randn(3, 1, 3)
    stream = elman.stream(rnn)
    with torch.no_grad():
        follow(stream, x[:2], [0, 0], view)
        state = stream.state
        stale = rnn(x[2:], state)[0][0]
    CHANGES[change](rnn)
    with torch.no_grad():
        y = tensor(stream.step(view(x[2])))
        assert torch.equal(y, rnn(x[2:], state)[0][0])
        assert not torch.equal(y, stale)


@required
@every_view
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@torch.no_grad()
def test_sixteen_numbers_of_each_parameter_are_watched(dtype: torch.dtype, view: Any) -> None:
    rnn, x = elman.RNN(3, 8).to(dtype), torch.randn(1, 3, dtype=dtype)
    stream = elman.stream(rnn)
    for name, parameter in rnn.named_parameters():
        numbers = parameter.data.view(-1)
        places = {(len(numbers) - 1) * i // 15 for i in range(16)}
        assert len(places) == min(16, len(numbers))
        for place in places:
            stream.reset()
            stream.step(view(x))
            numbers[place] += 1
            stream.reset(True)
            assert torch.equal(tensor(stream.step(view(x))), rnn(x[None])[0][0]), (name, place)


@every_view
@torch.no_grad()
def test_a_reset_without_an_argument_reads_all_weights_again(view: Any) -> None:
    rnn, x = elman.GRU(10, 20), torch.randn(1, 10)
    stream = elman.stream(rnn)
    stale = tensor(stream.step(view(x)))
    rnn.weight_ih_l0.data[7, 5] += 5  # none of the sixteen numbers watched
    stream.reset()
    y = tensor(stream.step(view(x)))
    assert torch.equal(y, rnn(x[None])[0][0])
    assert not torch.equal(y, stale)


@pytest.mark.parametrize("asked", [False, True], ids=["tensors are shown", "tensors are asked"])
@torch.no_grad()
def test_a_parameter_that_is_turned_where_it_lies_is_seen(asked: bool) -> None:
    for view in VIEWS.values():
        with tensors_asked(asked):
            rnn, x = elman.RNN(3, 5), torch.randn(3, 1, 3)
            stream = elman.stream(rnn)
            follow(stream, x[:2], [0, 0], view)
            state = stream.state
            rnn.weight_hh_l0.data = rnn.weight_hh_l0.data.t()
            assert torch.equal(tensor(stream.step(view(x[2]))), rnn(x[2:], state)[0][0])


@torch.no_grad()
def test_a_parameter_of_another_dtype_at_the_same_place_is_seen() -> None:
    for view in VIEWS.values():
        rnn, x = elman.RNN(3, 5), torch.randn(1, 3)
        stream = elman.stream(rnn)
        stream.step(view(x))
        for parameter in rnn.parameters():
            halves = parameter.data.view(-1).view(torch.float16)[: parameter.numel()]
            parameter.data = halves.view(parameter.shape)
        with pytest.raises(ValueError, match=r"expected x of (torch.)?float16"):
            stream.step(view(x))


@every_view
@torch.no_grad()
def test_a_network_that_changes_its_dtype_takes_the_state_along(view: Any) -> None:
    rnn, x = elman.LSTM(3, 5), torch.randn(4, 1, 3)
    stream = elman.stream(rnn)
    follow(stream, x[:2], [0, 0], view)
    state = stream.state
    rnn.double()
    with pytest.raises(ValueError, match=r"expected x of (torch.)?float64, the parameters' dtype, got (torch.)?float32: convert"):
        stream.step(view(x[2]))
    wide = tuple(s.double() for s in state)
    assert torch.equal(follow(stream, x[2:].double(), [0, 0], view), rnn(x[2:].double(), wide)[0])


@torch.no_grad()
def test_a_weight_that_is_computed_is_computed_at_each_step() -> None:
    rnn, x = weight_norm(elman.RNN(3, 5), "weight_hh_l0"), torch.randn(4, 1, 3)
    for view in VIEWS.values():
        stream = elman.stream(rnn)
        assert torch.equal(follow(stream, x, [0, 0, 2], view), rnn(x)[0])
        rnn.parametrizations.weight_hh_l0.original0.mul_(1.5)


@torch.no_grad()
def test_other_parameters_for_one_call_are_seen() -> None:
    rnn, x = elman.RNN(3, 5), torch.randn(1, 1, 3)
    other = {name: torch.randn_like(p) for name, p in rnn.named_parameters()}
    stream = elman.stream(rnn)
    stream.step(x[0])

    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = rnn

        def forward(self, x: Tensor) -> Tensor:
            stream.reset()
            return stream.step(x).clone()

    y = torch.func.functional_call(Step(), {f"rnn.{name}": p for name, p in other.items()}, (x[0],))
    assert torch.equal(y, torch.func.functional_call(rnn, other, (x,))[0][0])
    stream.reset()
    assert torch.equal(stream.step(x[0]), rnn(x)[0][0])


def test_dropout_acts_as_in_the_layer() -> None:
    rnn, x = elman.RNN(3, 50, 2, dropout=0.5), torch.randn(4, 1, 3)
    for view in VIEWS.values():
        stream = elman.stream(rnn)
        with torch.no_grad():
            first = tensor(stream.step(view(x[0])))
            stream.reset()
            assert not torch.equal(tensor(stream.step(view(x[0]))), first)
            rnn.eval()
            stream.reset()
            assert torch.equal(follow(stream, x, [0, 0, 2], view), rnn(x)[0])
            rnn.train()
