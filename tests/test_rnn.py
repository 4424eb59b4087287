"""elman's layers as modules: everything about torch.nn's but the arithmetic, which test_agreement holds."""

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
from elman.backends import registry
from elman.backends.reference import ReferenceBackend
from kinds import RELU, Kind, as_hx, as_states, every_cell, every_kind

if TYPE_CHECKING:
    from elman.backends import Backend

OPTIONS = [
    {"num_layers": layers, "bias": bias, "bidirectional": bidirectional}
    for layers, bias, bidirectional in itertools.product((1, 3), (True, False), (False, True))
]
with_options = pytest.mark.parametrize("options", OPTIONS, ids=str)
every_layer = pytest.mark.parametrize("layer", ["RNN", "GRU", "LSTM"])


def _seeded(kind: type[nn.Module], *arguments: object, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return kind(*arguments, **options)


def _pair(kind: Kind, *sizes: int, **options: object) -> tuple[nn.Module, nn.Module]:
    """torch.nn's network and ours, from the same seed."""
    torch.manual_seed(0)
    theirs = kind.build(nn, *sizes, **options)
    torch.manual_seed(0)
    return theirs, kind.build(elman, *sizes, **options)


def _flat(result: tuple[torch.Tensor, torch.Tensor | tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
    """The output and the final states."""
    return result[0], *as_states(result[1])


def _states(kind: Kind, count: int, batch_size: int, hidden_size: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    return tuple(torch.randn(count, batch_size, width, dtype=dtype) for width in kind.widths(hidden_size))


@every_kind
@with_options
def test_the_same_seed_gives_torchs_parameters_in_torchs_order(kind: Kind, options: dict[str, object]) -> None:
    theirs, ours = _pair(kind, 10, 20, **options)
    drawn = torch.rand(3)
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    for got, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(got, expected)
    torch.manual_seed(0)
    kind.build(nn, 10, 20, **options)
    assert torch.equal(drawn, torch.rand(3)), "as many draws as torch's"


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


@every_kind
@with_options
def test_state_dicts_load_strictly_both_ways(kind: Kind, options: dict[str, object]) -> None:
    theirs, ours = kind.build(nn, 10, 20, **options), kind.build(elman, 10, 20, **options)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())


@every_kind
@pytest.mark.parametrize(
    "options",
    [*OPTIONS, {"batch_first": True}, {"num_layers": 2, "dropout": 0.5}, {"num_layers": 2, "dropout": 1, "bidirectional": True}],
    ids=str,
)
def test_it_prints_as_torchs(kind: Kind, options: dict[str, object]) -> None:
    theirs, ours = kind.build(nn, 10, 20, **options), kind.build(elman, 10, 20, **options)
    assert repr(ours) == repr(theirs)
    assert ours.mode == theirs.mode


@every_kind
def test_it_has_torchs_attributes(kind: Kind) -> None:
    theirs, ours = kind.build(nn, 10, 20, 2, dropout=0.5), kind.build(elman, 10, 20, 2, dropout=0.5)
    for name in nn.RNNBase.__constants__:
        assert getattr(ours, name) == getattr(theirs, name)


def test_positional_arguments_come_in_torchs_order() -> None:
    rnn = elman.RNN(10, 20, 2, "relu", False, True, 0.25, True, "cpu", torch.float64)
    assert repr(rnn) == "RNN(10, 20, num_layers=2, bias=False, batch_first=True, dropout=0.25, bidirectional=True)"
    assert rnn.nonlinearity == "relu"
    assert rnn.weight_ih_l0.dtype is torch.float64
    gru = elman.GRU(10, 20, 2, False, True, 0.25, True, "cpu", torch.float64)
    assert repr(gru) == "GRU(10, 20, num_layers=2, bias=False, batch_first=True, dropout=0.25, bidirectional=True)"
    assert gru.weight_ih_l0.dtype is torch.float64
    lstm = elman.LSTM(10, 20, 2, False, True, 0.25, True, 5, "cpu", torch.float64)
    assert repr(lstm) == repr(nn.LSTM(10, 20, 2, False, True, 0.25, True, 5, "cpu", torch.float64))
    assert lstm.weight_hr_l1.dtype is torch.float64


@every_layer
def test_the_calls_arguments_have_torchs_names(layer: str) -> None:
    for name in (layer, f"{layer}Cell"):
        ours, theirs = getattr(elman, name), getattr(nn, name)
        by_place = [p.name for p in inspect.signature(ours.forward).parameters.values() if p.kind is not p.KEYWORD_ONLY]
        assert by_place == list(inspect.signature(theirs.forward).parameters)


@every_layer
def test_it_is_one_of_torchs(layer: str) -> None:
    for name, base in ((layer, nn.RNNBase), (f"{layer}Cell", nn.RNNCellBase)):
        module = getattr(elman, name)(3, 4)
        assert isinstance(module, getattr(nn, name))
        assert isinstance(module, base)


@every_kind
def test_all_weights_are_the_parameters_for_each_layer_and_direction(kind: Kind) -> None:
    theirs, ours = _pair(kind, 3, 4, 2, bidirectional=True)
    assert [[w.shape for w in weights] for weights in ours.all_weights] == [[w.shape for w in weights] for weights in theirs.all_weights]
    assert ours.all_weights[3][1] is ours.weight_hh_l1_reverse


def test_flatten_parameters_changes_nothing() -> None:
    rnn = elman.RNN(3, 4)
    before = [parameter.data_ptr() for parameter in rnn.parameters()]
    assert rnn.flatten_parameters() is None
    assert [parameter.data_ptr() for parameter in rnn.parameters()] == before


@every_kind
def test_reset_parameters_draws_what_torch_draws(kind: Kind) -> None:
    theirs, ours = kind.build(nn, 3, 4), kind.build(elman, 3, 4)
    for module in (theirs, ours):
        torch.manual_seed(1)
        module.reset_parameters()
    assert all(torch.equal(got, expected) for got, expected in zip(ours.parameters(), theirs.parameters(), strict=True))


@every_layer
@pytest.mark.parametrize("suffix", ["", "Cell"])
def test_copies_and_pickles_are_independent_and_alike(layer: str, suffix: str) -> None:
    module, x = getattr(elman, layer + suffix)(3, 4), torch.randn(2, 3)
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


@every_kind
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.complex64], ids=str)
@pytest.mark.usefixtures("unfused")
def test_other_dtypes_run_on_the_reference(kind: Kind, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BACKENDS", (ReferenceBackend(),))
    theirs, ours = _pair(kind, 3, 4, 2, bidirectional=True, dtype=dtype)
    x = torch.randn(5, 2, 3).to(dtype)
    if kind is RELU and dtype.is_complex:
        for module in (theirs, ours):
            with pytest.raises(NotImplementedError):
                module(x)
        return
    for got, expected in zip(_flat(ours(x)), _flat(theirs(x)), strict=True):
        assert got.dtype is dtype
        torch.testing.assert_close(got, expected)


@every_kind
def test_the_meta_device_knows_the_shapes(kind: Kind) -> None:
    output, *finals = _flat(kind.build(elman, 3, 4, 2, bidirectional=True, device="meta")(torch.empty(5, 2, 3, device="meta")))
    widths = kind.widths(4)
    assert (output.shape, output.device.type) == ((5, 2, 2 * widths[0]), "meta")
    assert [final.shape for final in finals] == [(4, 2, width) for width in widths]


@every_kind
@pytest.mark.usefixtures("unfused")
def test_autocast_on_the_reference_gives_what_it_gives_in_torch(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BACKENDS", (ReferenceBackend(),))
    theirs, ours = _pair(kind, 3, 4, 2, bidirectional=True)
    x, hx = torch.randn(5, 2, 3), as_hx(_states(kind, 4, 2, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for arguments in ((x,), (x.bfloat16(),), (x, hx), (x[:, 0],)):
            for got, expected in zip(_flat(ours(*arguments)), _flat(theirs(*arguments)), strict=True):
                torch.testing.assert_close(got, expected, rtol=0, atol=0)
    assert ours(x)[0].dtype is torch.float32


@every_kind
@pytest.mark.parametrize("bidirectional", [False, True])
def test_an_empty_batch_gives_empty_results(kind: Kind, bidirectional: bool) -> None:
    theirs, ours = _pair(kind, 3, 4, 2, bidirectional=bidirectional)
    x = torch.randn(5, 0, 3, requires_grad=True)
    for got, expected in zip(_flat(ours(x)), _flat(theirs(x)), strict=True):
        assert got.shape == expected.shape
    ours(x)[0].sum().backward()
    assert x.grad is not None
    assert x.grad.shape == x.shape
    assert not ours.weight_hh_l0.grad.any()


@every_cell
def test_one_step_is_the_cell(backend: Backend, kind: Kind) -> None:
    rnn, cell = kind.build(elman, 3, 4).double(), kind.build_cell(elman, 3, 4).double()
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in rnn.state_dict().items()})
    x, states = torch.randn(1, 2, 3, dtype=torch.float64), _states(kind, 1, 2, 4, torch.float64)
    _, *finals = _flat(rnn(x, as_hx(states)))
    stepped = as_states(cell(x[0], as_hx(tuple(state[0] for state in states))))
    for got, expected in zip(stepped, finals, strict=True):
        torch.testing.assert_close(got, expected[0], rtol=0, atol=1e-15)


STRIDES = {
    "transposed": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "features outermost": lambda x: x.permute(2, 0, 1).contiguous().permute(1, 2, 0),
    "every other step": lambda x: x.repeat_interleave(2, 0)[::2],
    "every other feature": lambda x: x.repeat_interleave(2, 2)[..., ::2],
    "from the middle": lambda x: torch.cat((x, x), 1)[:, x.shape[1] :],
    "one sequence for all": lambda x: x[:, :1].expand_as(x),
    "one step for all": lambda x: x[:1].expand_as(x),
    "one number for all": lambda x: x[:1, :1, :1].expand_as(x),
}


@every_kind
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.usefixtures("poisoned")
def test_strides_of_any_kind_give_the_same_bits(backend: Backend, kind: Kind, stride: str, batch_first: bool) -> None:
    """On the kernels. torch's products, which other backends run, may add in another order where memory lies otherwise: those are compared
    in float64, where the sums here, of at most 50 products below 50, differ by less than 50 * 50 * 50 * 2**-53.
    """
    dtype, tolerance = (torch.float32, 0.0) if backend.name == "native" else (torch.float64, 50**3 * 2.0**-53)
    rnn = kind.build(elman, 3, 4, 2, bidirectional=True, batch_first=batch_first).to(dtype)
    strided = STRIDES[stride](torch.randn(5, 2, 3, dtype=dtype))
    states = tuple(STRIDES[stride](state) for state in _states(kind, 4, 5 if batch_first else 2, 4, dtype))
    results = []
    for x, *initial in (
        [tensor.detach() for tensor in (strided, *states)],
        [strided.clone(memory_format=torch.contiguous_format), *(state.clone() for state in states)],
    ):
        x.requires_grad_()
        output, *finals = _flat(rnn(x, as_hx(tuple(initial))))
        loss = output.square().sum() + sum(final.sum() for final in finals)
        results.append((output, *finals, *torch.autograd.grad(loss, (x, *rnn.parameters()))))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)


@every_kind
def test_nan_and_infinity_go_where_torchs_go(backend: Backend, kind: Kind) -> None:
    theirs, ours = _pair(kind, 3, 4, 2)
    x = torch.randn(5, 3, 3)
    x[2, 0, 1], x[1, 1, 0], x[3, 2, 2] = float("nan"), float("inf"), float("-inf")
    for got, expected in zip(_flat(ours(x)), _flat(theirs(x)), strict=True):
        torch.testing.assert_close(got, expected, equal_nan=True)


@every_kind
def test_a_frozen_parameter_gets_no_gradient_and_the_others_theirs(backend: Backend, kind: Kind) -> None:
    pair = [module.double() for module in _pair(kind, 3, 4)]
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    for module in pair:
        module.weight_hh_l0.requires_grad_(False)
        module(x)[0].square().sum().backward()
    theirs, ours = (dict(module.named_parameters()) for module in pair)
    assert ours.pop("weight_hh_l0").grad is None
    for name, parameter in ours.items():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=0, atol=1e-12)


@every_kind
def test_without_gradients_nothing_is_recorded(backend: Backend, kind: Kind) -> None:
    rnn, x = kind.build(elman, 3, 4), torch.randn(5, 2, 3)
    with torch.no_grad():
        assert not any(result.requires_grad for result in _flat(rnn(x)))
    assert not any(result.requires_grad for result in _flat(rnn.requires_grad_(False)(x)))
    with torch.inference_mode():
        assert all(result.is_inference() for result in _flat(rnn(x)))


@every_cell
def test_hooks_are_called(kind: Kind) -> None:
    rnn, seen = kind.build(elman, 3, 4), []
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
