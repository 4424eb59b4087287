"""Higher derivatives, forward mode and vmap give what torch.nn gives where it can do it, else what the definition says: one example at a
time, or finite differences. Weights may be swapped.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vmap
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import elman
from kinds import GRU, LSTM, PROJECTED, TANH, as_states

# torch's own forward mode still builds its decompositions with it.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


ALL_AT_ONCE: dict[str, object] = {"num_layers": 2, "bidirectional": True, "batch_first": True}


@pytest.fixture(
    params=[(TANH, {}), *((kind, ALL_AT_ONCE) for kind in (TANH, GRU, LSTM, PROJECTED))],
    ids=lambda param: f"{param[0]}, {'all at once' if param[1] else 'plain'}",
)
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    kind, options = request.param
    theirs, ours = kind.pair(2, 3, **options, dtype=torch.float64)
    return theirs, ours


@pytest.fixture
def rnn(pair: tuple[nn.Module, nn.Module]) -> nn.Module:
    return pair[1]


def _x(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def _flat(result: tuple[Tensor, Tensor | tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return result[0], *as_states(result[1])


def _detached(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


@pytest.mark.parametrize("spans", [{}, {"lengths": [3, 1]}, {"lengths": [2, 3], "reset": [[0, 1], [1, 0], [0, 1]]}], ids=str)
@pytest.mark.slow
def test_first_and_second_derivatives_are_those_of_finite_differences(rnn: nn.Module, spans: dict[str, list[Any]]) -> None:
    parameters = list(_detached(rnn).items())
    rnn.batch_first = False
    spans = {name: torch.tensor(value, dtype=torch.bool) if name == "reset" else value for name, value in spans.items()}

    def run(x: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        return _flat(functional_call(rnn, {name: value for (name, _), value in zip(parameters, values, strict=True)}, (x,), spans))

    arguments = [tensor.clone().requires_grad_() for tensor in (_x(3, 2, 2), *(value for _, value in parameters))]
    assert torch.autograd.gradcheck(run, arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, arguments, fast_mode=True)


def test_a_gradient_penalty_is_torchs(pair: tuple[nn.Module, nn.Module]) -> None:
    x, results = _x(3, 2, 2).requires_grad_(), []
    for module in pair:
        (slope,) = torch.autograd.grad(module(x)[0].square().sum(), x, create_graph=True)
        results.append(torch.autograd.grad(slope.square().sum(), [x, *module.parameters()], allow_unused=True))
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_vmap_is_a_loop_over_the_samples(rnn: nn.Module) -> None:
    samples = _x(4, 3, 2, 2)
    for got, expected in zip(_flat(vmap(rnn)(samples)), zip(*(_flat(rnn(sample)) for sample in samples), strict=True), strict=True):
        torch.testing.assert_close(got, torch.stack(expected), rtol=0, atol=1e-14)


def test_gradients_of_each_sample_are_those_of_a_loop(rnn: nn.Module) -> None:
    samples, parameters = _x(4, 3, 2), _detached(rnn)

    def loss(values: dict[str, Tensor], sample: Tensor) -> Tensor:
        return functional_call(rnn, values, (sample,))[0].square().sum()

    got = vmap(grad(loss), in_dims=(None, 0))(parameters, samples)
    for index, sample in enumerate(samples):
        expected = torch.autograd.grad(rnn(sample)[0].square().sum(), list(rnn.parameters()))
        for name, value in zip(parameters, expected, strict=True):
            torch.testing.assert_close(got[name][index], value, rtol=0, atol=1e-13)


def test_an_ensemble_is_a_vmap_over_the_weights(rnn: nn.Module) -> None:
    x, first = _x(3, 2, 2), _detached(rnn)
    stacked = {name: torch.stack([value, 2 * value]) for name, value in first.items()}
    output, _ = vmap(lambda values: functional_call(rnn, values, (x,)))(stacked)
    torch.testing.assert_close(output[0], rnn(x)[0], rtol=0, atol=1e-14)
    torch.testing.assert_close(output[1], functional_call(rnn, {n: 2 * v for n, v in first.items()}, (x,))[0], rtol=0, atol=1e-14)


def test_forward_mode_is_the_jacobian_of_reverse_mode_times_the_tangent(rnn: nn.Module) -> None:
    x, tangent = _x(3, 2, 2), _x(3, 2, 2)
    output, pushed = jvp(lambda x: rnn(x)[0], (x,), (tangent,))
    torch.testing.assert_close(output, rnn(x)[0], rtol=0, atol=1e-14)
    jacobian = jacrev(lambda x: rnn(x)[0])(x)
    torch.testing.assert_close(pushed, torch.tensordot(jacobian, tangent, 3), rtol=0, atol=1e-13)
    torch.testing.assert_close(jacfwd(lambda x: rnn(x)[0])(x), jacobian, rtol=0, atol=1e-13)


def test_dual_tensors_carry_tangents(rnn: nn.Module) -> None:
    x, tangent = _x(3, 2, 2), _x(3, 2, 2)
    with torch.autograd.forward_ad.dual_level():
        dual = rnn(torch.autograd.forward_ad.make_dual(x, tangent))[0]
        pushed = torch.autograd.forward_ad.unpack_dual(dual).tangent
    torch.testing.assert_close(pushed, jvp(lambda x: rnn(x)[0], (x,), (tangent,))[1], rtol=0, atol=1e-14)


def test_transforms_pass_through_packed_sequences(rnn: nn.Module) -> None:
    packed = pack_sequence([_x(3, 2), _x(1, 2)])

    def run(data: Tensor) -> Tensor:
        return rnn(PackedSequence(data, packed.batch_sizes))[0].data

    samples = _x(5, 4, 2)
    torch.testing.assert_close(vmap(run)(samples), torch.stack([run(sample) for sample in samples]), rtol=0, atol=1e-14)
    assert torch.autograd.gradgradcheck(run, samples[0].requires_grad_(), fast_mode=True)


def test_swapped_weights_are_the_ones_that_are_used_and_get_the_gradients(rnn: nn.Module) -> None:
    x = _x(3, 2, 2)
    other = {name: (2 * value).requires_grad_() for name, value in _detached(rnn).items()}
    before = rnn(x)[0].detach()
    got = torch.autograd.grad(functional_call(rnn, other, (x,))[0].square().sum(), list(other.values()))
    torch.testing.assert_close(rnn(x)[0], before, rtol=0, atol=0)
    with torch.no_grad():
        for parameter in rnn.parameters():
            parameter.mul_(2)
    expected = torch.autograd.grad(rnn(x)[0].square().sum(), list(rnn.parameters()))
    for one, two in zip(got, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-13)


class _Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def test_a_parametrised_weight_trains() -> None:
    """In torch.nn.RNN the parametrisation is computed once and then never again."""
    rnn, plain, x = elman.RNN(2, 3).double(), elman.RNN(2, 3).double(), _x(4, 2, 2)
    plain.load_state_dict(rnn.state_dict())
    parametrize.register_parametrization(rnn, "weight_hh_l0", _Doubled())
    original = rnn.parametrizations.weight_hh_l0.original
    for _ in range(2):
        with torch.no_grad():
            plain.weight_hh_l0.copy_(2 * original)
        (got,) = torch.autograd.grad(rnn(x)[0].square().sum(), original)
        (expected,) = torch.autograd.grad(plain(x)[0].square().sum(), plain.weight_hh_l0)
        torch.testing.assert_close(got, 2 * expected, rtol=0, atol=1e-13)
        with torch.no_grad():
            original.sub_(got)
    expected = _with_recurrent(plain, 2 * original, x)
    parametrize.remove_parametrizations(rnn, "weight_hh_l0")
    torch.testing.assert_close(rnn(x)[0], expected, rtol=0, atol=1e-14)


def _with_recurrent(rnn: elman.RNN, w_hh: Tensor, x: Tensor) -> Tensor:
    output: Tensor = functional_call(rnn, {"weight_hh_l0": w_hh}, (x,))[0]
    return output


def test_weight_norm_trains() -> None:
    rnn, x = elman.RNN(2, 3).double(), _x(4, 2, 2)
    expected = rnn(x)[0].detach()
    parametrizations.weight_norm(rnn, "weight_hh_l0")
    output, _ = rnn(x)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-14)
    output.sum().backward()
    magnitude = rnn.parametrizations.weight_hh_l0.original0
    assert magnitude.grad.any()
    with torch.no_grad():
        magnitude.mul_(2)
    assert not torch.equal(rnn(x)[0], output)


def test_a_pruned_weight_is_the_masked_one() -> None:
    rnn, x = elman.RNN(2, 3).double(), _x(4, 2, 2)
    mask = torch.tensor([[1, 0, 1], [0, 1, 1], [1, 1, 0]])
    expected = _with_recurrent(rnn, rnn.weight_hh_l0 * mask, x)
    prune.custom_from_mask(rnn, "weight_hh_l0", mask)
    torch.testing.assert_close(rnn(x)[0], expected, rtol=0, atol=1e-14)


def test_a_replaced_parameter_is_used(rnn: nn.Module) -> None:
    x, zeros = _x(3, 2, 2), torch.zeros_like(rnn.weight_hh_l0)
    expected = functional_call(rnn, {"weight_hh_l0": zeros}, (x,))[0]
    rnn.weight_hh_l0 = nn.Parameter(zeros)
    torch.testing.assert_close(rnn(x)[0], expected, rtol=0, atol=0)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_saved_tensors_may_come_back_in_another_layout(num_layers: int) -> None:
    """What hooks (save_on_cpu, compression) hand back holds the same numbers, not always the same strides."""

    def columns_first(tensor: Tensor) -> Tensor:
        if tensor.dim() < 2:
            return tensor.clone()
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)

    rnn = elman.RNN(3, 4, num_layers, bidirectional=True).double()
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    leaves = list(rnn.parameters())
    expected = torch.autograd.grad(rnn(x)[0].square().sum(), leaves)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, columns_first):
        got = torch.autograd.grad(rnn(x)[0].square().sum(), leaves)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)
