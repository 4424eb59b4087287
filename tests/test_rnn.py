"""elman.RNN as a module: everything about torch.nn.RNN but the arithmetic, which test_agreement holds."""

from __future__ import annotations

import copy
import inspect
import io
import itertools
import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

import elman
import oracle

if TYPE_CHECKING:
    from elman.backends import Backend

OPTIONS = [
    {"num_layers": layers, "nonlinearity": nonlinearity, "bias": bias, "bidirectional": bidirectional}
    for layers, nonlinearity, bias, bidirectional in itertools.product((1, 3), ("tanh", "relu"), (True, False), (False, True))
]
with_options = pytest.mark.parametrize("options", OPTIONS, ids=str)


def _seeded(kind: type[nn.Module], *arguments: object, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return kind(*arguments, **options)


@with_options
def test_the_same_seed_gives_torchs_parameters_in_torchs_order(options: dict[str, object]) -> None:
    theirs, ours = _seeded(nn.RNN, 10, 20, **options), _seeded(elman.RNN, 10, 20, **options)
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    for got, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(got, expected)
    assert torch.equal(torch.rand(3), (_seeded(nn.RNN, 10, 20, **options), torch.rand(3))[1]), "as many draws as torch's"


def test_the_notebooks_three_networks_are_torchs() -> None:
    for arguments, options, shape in [
        ((10, 20), {"num_layers": 1, "batch_first": False}, (5, 3, 10)),
        ((10, 20), {"num_layers": 1, "batch_first": False, "bidirectional": True}, (5, 3, 10)),
        ((5, 10, 2), {}, (4, 3, 5)),
    ]:
        theirs, ours = _seeded(nn.RNN, *arguments, **options), _seeded(elman.RNN, *arguments, **options)
        x = torch.randn(shape)
        for got, expected in zip(ours(x), theirs(x), strict=True):
            torch.testing.assert_close(got, expected)


@with_options
def test_state_dicts_load_strictly_both_ways(options: dict[str, object]) -> None:
    theirs, ours = nn.RNN(10, 20, **options), elman.RNN(10, 20, **options)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize(
    "options",
    [*OPTIONS, {"batch_first": True}, {"num_layers": 2, "dropout": 0.5}, {"num_layers": 2, "dropout": 1, "bidirectional": True}],
    ids=str,
)
def test_it_prints_as_torchs(options: dict[str, object]) -> None:
    assert repr(elman.RNN(10, 20, **options)) == repr(nn.RNN(10, 20, **options))
    assert elman.RNN(10, 20, **options).mode == nn.RNN(10, 20, **options).mode


def test_positional_arguments_come_in_torchs_order() -> None:
    rnn = elman.RNN(10, 20, 2, "relu", False, True, 0.25, True, "cpu", torch.float64)
    assert repr(rnn) == "RNN(10, 20, num_layers=2, bias=False, batch_first=True, dropout=0.25, bidirectional=True)"
    assert rnn.nonlinearity == "relu"
    assert rnn.weight_ih_l0.dtype is torch.float64


def test_the_calls_arguments_have_torchs_names() -> None:
    for ours, theirs in ((elman.RNN, nn.RNN), (elman.RNNCell, nn.RNNCell)):
        assert list(inspect.signature(ours.forward).parameters) == list(inspect.signature(theirs.forward).parameters)


def test_it_inherits_nothing_from_torchs_networks() -> None:
    for ours in (elman.RNN, elman.RNNCell):
        assert not issubclass(ours, (nn.RNNBase, nn.RNNCellBase))
        assert issubclass(ours, nn.Module)


def test_all_weights_are_the_parameters_for_each_layer_and_direction() -> None:
    theirs, ours = (_seeded(kind, 3, 4, 2, bidirectional=True) for kind in (nn.RNN, elman.RNN))
    assert [[w.shape for w in weights] for weights in ours.all_weights] == [[w.shape for w in weights] for weights in theirs.all_weights]
    assert ours.all_weights[3][1] is ours.weight_hh_l1_reverse


def test_flatten_parameters_changes_nothing() -> None:
    rnn = elman.RNN(3, 4)
    before = [parameter.data_ptr() for parameter in rnn.parameters()]
    assert rnn.flatten_parameters() is None
    assert [parameter.data_ptr() for parameter in rnn.parameters()] == before


def test_reset_parameters_draws_what_torch_draws() -> None:
    theirs, ours = nn.RNN(3, 4), elman.RNN(3, 4)
    for module in (theirs, ours):
        torch.manual_seed(1)
        module.reset_parameters()
    assert all(torch.equal(got, expected) for got, expected in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("kind", [elman.RNN, elman.RNNCell])
def test_copies_and_pickles_are_independent_and_alike(kind: type[nn.Module]) -> None:
    module, x = kind(3, 4), torch.randn(2, 3)
    for clone in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):  # noqa: S301 - our own, just made
        torch.testing.assert_close(clone(x), module(x), rtol=0, atol=0)
        with torch.no_grad():
            next(clone.parameters()).add_(1.0)
        assert not torch.equal(next(clone.parameters()), next(module.parameters()))


def test_a_saved_state_dict_comes_back() -> None:
    rnn, again, file = elman.RNN(3, 4), elman.RNN(3, 4), io.BytesIO()
    torch.save(rnn.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(again(x), rnn(x), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.complex64], ids=str)
def test_other_dtypes_run(dtype: torch.dtype) -> None:
    theirs, ours = (_seeded(kind, 3, 4, 2, bidirectional=True, dtype=dtype) for kind in (nn.RNN, elman.RNN))
    x = torch.randn(5, 2, 3).to(dtype)
    for got, expected in zip(ours(x), theirs(x), strict=True):
        assert got.dtype is dtype
        torch.testing.assert_close(got, expected)


def test_the_meta_device_knows_the_shapes() -> None:
    output, h_n = elman.RNN(3, 4, 2, bidirectional=True, device="meta")(torch.empty(5, 2, 3, device="meta"))
    assert (output.shape, h_n.shape, output.device.type) == ((5, 2, 8), (4, 2, 4), "meta")


def test_autocast_gives_what_it_gives_in_torch() -> None:
    theirs, ours = (_seeded(kind, 3, 4, 2, bidirectional=True) for kind in (nn.RNN, elman.RNN))
    x, hx = torch.randn(5, 2, 3), torch.randn(4, 2, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for arguments in ((x,), (x.bfloat16(),), (x, hx), (x[:, 0],)):
            for got, expected in zip(ours(*arguments), theirs(*arguments), strict=True):
                assert got.dtype is torch.bfloat16
                torch.testing.assert_close(got, expected, rtol=0, atol=0)
    assert ours(x)[0].dtype is torch.float32


@pytest.mark.parametrize("bidirectional", [False, True])
def test_an_empty_batch_gives_empty_results(bidirectional: bool) -> None:
    theirs, ours = (kind(3, 4, 2, bidirectional=bidirectional) for kind in (nn.RNN, elman.RNN))
    x = torch.randn(5, 0, 3, requires_grad=True)
    for got, expected in zip(ours(x), theirs(x), strict=True):
        assert got.shape == expected.shape
    ours(x)[0].sum().backward()
    assert x.grad is not None
    assert x.grad.shape == x.shape
    assert not ours.weight_hh_l0.grad.any()


def test_one_step_is_the_cell(backend: Backend) -> None:
    rnn, cell = elman.RNN(3, 4).double(), elman.RNNCell(3, 4).double()
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in rnn.state_dict().items()})
    x, hx = torch.randn(1, 2, 3, dtype=torch.float64), torch.randn(1, 2, 4, dtype=torch.float64)
    torch.testing.assert_close(rnn(x, hx)[0][0], cell(x[0], hx[0]), rtol=0, atol=1e-15)


STRIDES = {
    "transposed": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "features outermost": lambda x: x.permute(2, 0, 1).contiguous().permute(1, 2, 0),
    "every other step": lambda x: x.repeat_interleave(2, 0)[::2],
    "every other feature": lambda x: x.repeat_interleave(2, 2)[..., ::2],
    "from the middle": lambda x: torch.cat((x, x), 1)[:, x.shape[1] :],
    "one row for all": lambda x: x[:, :1].expand_as(x),
    "one step for all": lambda x: x[:1].expand_as(x),
    "one number for all": lambda x: x[:1, :1, :1].expand_as(x),
}


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.usefixtures("poisoned")
def test_strides_of_any_kind_give_the_same_bits(backend: Backend, stride: str, batch_first: bool) -> None:
    rnn = elman.RNN(3, 4, 2, bidirectional=True, batch_first=batch_first)
    strided, state = STRIDES[stride](torch.randn(5, 2, 3)), STRIDES[stride](torch.randn(4, 5 if batch_first else 2, 4))
    results = []
    for x, hx in ((strided.detach(), state.detach()), (strided.clone(memory_format=torch.contiguous_format), state.clone())):
        x.requires_grad_()
        output, h_n = rnn(x, hx)
        results.append((output, h_n, *torch.autograd.grad((output.square().sum() + h_n.sum()), (x, *rnn.parameters()))))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_nan_and_infinity_go_where_torchs_go(backend: Backend) -> None:
    for nonlinearity in ("tanh", "relu"):
        theirs, ours = (_seeded(kind, 3, 4, 2, nonlinearity) for kind in (nn.RNN, elman.RNN))
        x = torch.randn(5, 3, 3)
        x[2, 0, 1], x[1, 1, 0], x[3, 2, 2] = float("nan"), float("inf"), float("-inf")
        for got, expected in zip(ours(x), theirs(x), strict=True):
            torch.testing.assert_close(got, expected, equal_nan=True)


def test_a_frozen_parameter_gets_no_gradient_and_the_others_theirs(backend: Backend) -> None:
    theirs, ours = (_seeded(kind, 3, 4).double() for kind in (nn.RNN, elman.RNN))
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    for module in (theirs, ours):
        module.weight_hh_l0.requires_grad_(False)
        module(x)[0].square().sum().backward()
    assert ours.weight_hh_l0.grad is None
    for name in ("weight_ih_l0", "bias_ih_l0", "bias_hh_l0"):
        torch.testing.assert_close(getattr(ours, name).grad, getattr(theirs, name).grad, rtol=0, atol=1e-12)


def test_without_gradients_nothing_is_recorded(backend: Backend) -> None:
    rnn, x = elman.RNN(3, 4), torch.randn(5, 2, 3)
    with torch.no_grad():
        assert not rnn(x)[0].requires_grad
    assert not rnn.requires_grad_(False)(x)[0].requires_grad
    with torch.inference_mode():
        assert rnn(x)[0].is_inference()


def test_hooks_are_called() -> None:
    rnn, seen = elman.RNN(3, 4), []
    rnn.register_forward_pre_hook(lambda module, arguments: seen.append("before"))
    rnn.register_forward_hook(lambda module, arguments, result: seen.append("after"))
    rnn(torch.randn(5, 2, 3))
    assert seen == ["before", "after"]


def test_it_can_be_subclassed() -> None:
    class Doubled(elman.RNN):
        def forward(self, input: torch.Tensor, hx: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
            output, h_n = super().forward(input, hx)
            return 2 * output, h_n

    rnn, x = Doubled(3, 4), torch.randn(5, 2, 3)
    output, h_n = rnn(x)
    torch.testing.assert_close(output[-1], 2 * h_n[0])


def test_five_thousand_units_are_right(backend: Backend) -> None:
    rnn = elman.RNN(1, 5000, bias=False)
    with torch.no_grad():
        rnn.weight_hh_l0.fill_(1 / 5000)
        rnn.weight_ih_l0.copy_(torch.linspace(-1, 1, 5000).unsqueeze(1))
        output, _ = rnn(torch.tensor([0.5, -2.0]).view(2, 1, 1))
    first = np.tanh(np.linspace(-1, 1, 5000) * 0.5)
    second = np.tanh(np.linspace(-1, 1, 5000) * -2 + first.mean())
    np.testing.assert_allclose(output[:, 0].numpy(), [first, second], rtol=0, atol=2e-6)


def test_a_hundred_thousand_steps_are_right() -> None:
    rnn = elman.RNN(1, 1).double()
    x = torch.randn(100_000, 1, 1, dtype=torch.float64)
    with torch.no_grad():
        output, h_n = rnn(x)
    weights = oracle.Direction(*(parameter.detach().numpy() for parameter in rnn.parameters()))
    h, expected = np.zeros(1), []
    for step in x.numpy()[:, 0]:
        h = np.tanh(weights.w_ih @ step + weights.b_ih + weights.w_hh @ h + weights.b_hh)
        expected.append(h)
    np.testing.assert_allclose(output[:, 0].numpy(), expected, rtol=0, atol=1e-12)
    assert h_n.item() == output[-1].item()
