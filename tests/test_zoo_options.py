"""Options of elman.zoo's cells: what is refused, what networks begin with, and that a cell is its class and options."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils import parametrize

import elman
from elman import zoo

every_cell = pytest.mark.parametrize("kind", zoo.CELLS, ids=lambda kind: kind.__name__)


@every_cell
def test_a_cell_is_its_class_and_options(kind: type[elman.Cell]) -> None:
    cell = kind()
    assert cell == kind() == copy.deepcopy(cell) == pickle.loads(pickle.dumps(cell))  # noqa: S301
    assert hash(cell) == hash(kind())
    assert all(cell != other() for other in zoo.CELLS if other is not kind)
    assert eval(repr(cell), vars(zoo)) == cell


@every_cell
def test_a_network_is_pickled_and_copied(kind: type[elman.Cell]) -> None:
    rnn = elman.Recurrent(kind(), 3, 4, num_layers=2)
    x = torch.randn(2, 3, 3)
    beside = {name: torch.rand(2, 3) for name in rnn.cell.step_inputs}
    for again in (copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn))):  # noqa: S301
        assert again.cell == rnn.cell
        assert torch.equal(again(x, **beside)[0], rnn(x, **beside)[0])


CHANGED: list[tuple[type[elman.Cell], dict[str, Any], str]] = [
    (zoo.LeakyRNN, {"alpha": 0.1, "nonlinearity": "tanh"}, "LeakyRNN(alpha=0.1, noise=0.0, nonlinearity='tanh')"),
    (zoo.IndRNN, {"max_steps": 10}, "IndRNN(nonlinearity='relu', max_steps=10, gamma=2.0)"),
    (zoo.JANET, {"beta": 0}, "JANET(beta=0.0, max_steps=None)"),
    (zoo.AntisymmetricRNN, {"gated": True}, "AntisymmetricRNN(epsilon=0.01, gamma=0.01, gated=True)"),
    (zoo.SLSTM, {"forget": "exp"}, "SLSTM(forget='exp')"),
    (zoo.MinGRU, {"positive": True}, "MinGRU(positive=True)"),
]


@pytest.mark.parametrize(("kind", "options", "shown"), CHANGED)
def test_options_are_shown_and_make_another_cell(kind: type[Any], options: dict[str, Any], shown: str) -> None:
    assert repr(kind(**options)) == shown
    assert kind(**options) != kind()
    assert kind(**options) == kind(**options)


WRONG: list[tuple[type[Any], dict[str, Any], type[Exception], str]] = [
    (zoo.LeakyRNN, {"alpha": 0}, ValueError, "expected alpha to be above 0 and at most 1, got 0"),
    (zoo.LeakyRNN, {"alpha": 1.5}, ValueError, "expected alpha to be above 0 and at most 1, got 1.5"),
    (zoo.LeakyRNN, {"noise": -0.1}, ValueError, "expected noise to be at least 0, got -0.1"),
    (zoo.LeakyRNN, {"nonlinearity": "gelu"}, ValueError, "expected nonlinearity to be one of 'relu', 'tanh', got 'gelu'"),
    (zoo.LayerNormLSTM, {"eps": 0}, ValueError, "expected eps to be above 0, got 0"),
    (zoo.LayerNormGRU, {"eps": "small"}, TypeError, "expected eps to be a finite number, got 'small'"),
    (zoo.LiGRU, {"eps": math.nan}, TypeError, "expected eps to be a finite number, got nan"),
    (zoo.MinGRU, {"positive": 1}, TypeError, "expected positive to be True or False, got 1"),
    (zoo.MinLSTM, {"positive": None}, TypeError, "expected positive to be True or False, got None"),
    (zoo.IndRNN, {"max_steps": 2}, ValueError, "expected max_steps to be at least 3, got 2"),
    (zoo.IndRNN, {"gamma": 0}, ValueError, "expected gamma to be above 0, got 0"),
    (zoo.JANET, {"max_steps": 9.5}, TypeError, "expected max_steps to be an int, got 9.5 of type float"),
    (zoo.JANET, {"beta": True}, TypeError, "expected beta to be a finite number, got True"),
    (zoo.STAR, {"max_steps": 0}, ValueError, "expected max_steps to be at least 3, got 0"),
    (zoo.UGRNN, {"keep_bias": math.inf}, TypeError, "expected keep_bias to be a finite number, got inf"),
    (zoo.SRU, {"highway_bias": None}, TypeError, "expected highway_bias to be a finite number, got None"),
    (zoo.FastGRNN, {"zeta": "1"}, TypeError, "expected zeta to be a finite number, got '1'"),
    (zoo.AntisymmetricRNN, {"epsilon": 0}, ValueError, "expected epsilon to be above 0, got 0"),
    (zoo.AntisymmetricRNN, {"gamma": -1}, ValueError, "expected gamma to be at least 0, got -1"),
    (zoo.CoRNN, {"dt": 0}, ValueError, "expected dt to be above 0, got 0"),
    (zoo.SLSTM, {"forget": "tanh"}, ValueError, "expected forget to be one of 'sigmoid', 'exp', got 'tanh'"),
    (zoo.PhasedLSTM, {"on": 2}, ValueError, "expected on to be above 0 and at most 1, got 2"),
    (zoo.PhasedLSTM, {"leak": -1}, ValueError, "expected leak to be from 0 to 1, got -1"),
    (zoo.PhasedLSTM, {"longest": 0.5}, ValueError, "expected longest to be at least 1, got 0.5"),
]


@pytest.mark.parametrize(("kind", "options", "error", "said"), WRONG)
def test_a_wrong_option_is_refused_in_a_sentence(kind: type[Any], options: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error) as caught:
        kind(**options)
    assert str(caught.value).startswith(said)


# --- What networks begin with -----------------------------------------------------------------------------------------


def test_gains_begin_with_1_and_shifts_with_0() -> None:
    for cell in (zoo.LayerNormLSTM(), zoo.LayerNormGRU(), zoo.LiGRU()):
        for name, parameter in elman.Recurrent(cell, 3, 4).named_parameters():
            if name.startswith(("gain", "shift")):
                assert (parameter == name.startswith("gain")).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recurrent_matrices_begin_orthogonal(dtype: torch.dtype) -> None:
    for cell in (zoo.LiGRU(), zoo.STAR()):
        weight = elman.Recurrent(cell, 3, 16, dtype=dtype).weight_hh_l0.detach().float()
        for gate in weight.chunk(len(cell.recurrent_gates)):
            torch.testing.assert_close(gate @ gate.T, torch.eye(16), rtol=0, atol=1e-5 if dtype is torch.float32 else 0.05)


def test_janet_and_star_remember_for_up_to_max_steps() -> None:
    for cell, keep, sign in ((zoo.JANET(max_steps=100), slice(0, 500), 1), (zoo.STAR(max_steps=100), slice(500, 1000), -1)):
        rnn = elman.Recurrent(cell, 3, 500)
        bias, other = rnn.bias_ih_l0.detach(), rnn.bias_hh_l0.detach()
        steps = (sign * bias[keep]).exp()
        assert 1 <= steps.min() < 5
        assert 90 < steps.max() <= 99.001
        bias[keep] = 0
        assert not bias.any()
        assert not other.any()
    assert elman.Recurrent(zoo.JANET(), 3, 4).bias_hh_l0.any()


def test_indrnns_weights_begin_within_their_bound() -> None:
    cell = zoo.IndRNN(max_steps=10)
    assert cell.bound == pytest.approx(2 ** (1 / 10))
    assert zoo.IndRNN().bound == 1
    u = elman.Recurrent(cell, 3, 500).u_l0
    assert 0 <= u.min() < 0.05
    assert 0.95 * cell.bound < u.max() <= cell.bound


def test_sru_and_fastgrnn_begin_as_their_papers_say() -> None:
    rnn = elman.Recurrent(zoo.SRU(highway_bias=-2.0), 12, 50)
    assert 0.45 < rnn.weight_ih_l0.abs().max() <= 0.5
    assert rnn.bias_ih_l0.tolist() == [0.0] * 100 + [-2.0] * 50 + [0.0] * 50
    rnn = elman.Recurrent(zoo.FastGRNN(), 12, 50)
    assert (rnn.zeta_l0.item(), rnn.nu_l0.item()) == (1.0, -4.0)
    assert rnn.weight_hh_l0.std().item() == pytest.approx(0.1, rel=0.1)
    assert (rnn.b_z_l0 == 1).all()


def test_cornns_matrices_begin_within_the_root_of_their_columns() -> None:
    rnn = elman.Recurrent(zoo.CoRNN(), 4, 100)
    assert 0.45 < rnn.weight_ih_l0.abs().max() <= 0.5
    assert 0.095 < rnn.weight_hh_l0.abs().max() <= 0.1


def test_periods_begin_between_1_and_the_longest() -> None:
    rnn = elman.Recurrent(zoo.PhasedLSTM(on=0.1, longest=100.0), 3, 2000)
    assert 1 <= rnn.tau_l0.min() < 1.1
    assert 90 < rnn.tau_l0.max() <= 100.001
    assert rnn.tau_l0.log10().mean().item() == pytest.approx(1.0, abs=0.05)
    assert (rnn.on_l0 == 0.1).all()


def test_grud_decays_at_first() -> None:
    rnn = elman.Recurrent(zoo.GRUD(), 3, 50)
    assert (rnn.w_d_l0 >= 0).all()
    assert (rnn.b_d_l0 >= 0).all()


# --- Antisymmetric matrices -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [elman.Recurrent, elman.RecurrentCell])
def test_antisymmetric_matrices_stay_so_in_training(build: Any) -> None:
    net = build(zoo.AntisymmetricRNN(epsilon=0.5), 3, 4)
    (name,) = (name for name, _ in net.named_parameters() if name.startswith("weight_hh"))
    before = getattr(net, name).clone()
    assert torch.equal(before, -before.T)
    assert before.any()
    assert zoo.antisymmetric(net) is net
    assert torch.equal(getattr(net, name), before)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    output = net(torch.randn(5, 3), torch.randn(5, 4)) if build is elman.RecurrentCell else net(torch.randn(5, 2, 3))[0]
    output.sum().backward()
    optimizer.step()
    after = getattr(net, name)
    assert not torch.equal(after, before)
    assert torch.equal(after, -after.T)
    assert parametrize.is_parametrized(net, name)


@pytest.mark.parametrize("wrong", [elman.Recurrent(zoo.MGU(), 3, 4), elman.RNN(3, 4), torch.nn.RNN(3, 4), 5])
def test_only_a_network_of_antisymmetric_rnns_is_made_so(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^expected "):
        zoo.antisymmetric(wrong)


# --- Noise ------------------------------------------------------------------------------------------------------------


def test_a_leaky_rnn_has_normal_noise_in_training_only() -> None:
    quiet = elman.Recurrent(zoo.LeakyRNN(alpha=0.5), 3, 4, dtype=torch.float64)
    noisy = elman.Recurrent(zoo.LeakyRNN(alpha=0.5, noise=0.3), 3, 4, dtype=torch.float64)
    noisy.load_state_dict(quiet.state_dict())
    x = torch.randn(1, 2, 3, dtype=torch.float64)
    assert torch.equal(noisy.eval()(x)[1][1], quiet(x)[1][1])
    torch.manual_seed(3)
    given = noisy.train()(x)[1][1] - quiet(x)[1][1]
    torch.manual_seed(3)
    radius, angle = (torch.rand(1, 1, 2, 4, dtype=torch.float64).numpy()[0] for _ in range(2))
    xi = np.sqrt(-2 * np.log(1 - radius)) * np.cos(2 * np.pi * angle)
    torch.testing.assert_close(given, torch.from_numpy(0.3 * xi), rtol=0, atol=1e-12)
    many = noisy(torch.zeros(1, 20_000, 3, dtype=torch.float64))[1][1] - quiet(torch.zeros(1, 1, 3, dtype=torch.float64))[1][1]
    assert abs(many.mean().item()) < 0.005
    assert many.std().item() == pytest.approx(0.3, rel=0.02)
    assert (many.abs() < 0.3).double().mean().item() == pytest.approx(0.6827, abs=0.01)


# --- Numbers at their limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("forget", ["sigmoid", "exp"])
def test_slstm_gates_neither_overflow_nor_vanish(forget: str) -> None:
    rnn = elman.Recurrent(zoo.SLSTM(forget=forget), 1, 4)
    with torch.no_grad():
        rnn.weight_ih_l0.fill_(1.0)
    for size in (-300.0, 300.0):
        x = torch.full((5, 2, 1), size, requires_grad=True)
        output, states = rnn(x)
        assert output.isfinite().all()
        assert all(state.isfinite().all() for state in states)
        output.sum().backward()
        assert x.grad.isfinite().all()


@pytest.mark.parametrize("closed", [-80.0, -120.0, -1000.0])  # e to this: a float, none, not even a double
def test_min_lstms_share_is_right_where_both_gates_are_nearly_closed(closed: float) -> None:
    rnn = elman.Recurrent(zoo.MinLSTM(), 1, 1, bias=False)
    with torch.no_grad():
        rnn.weight_ih_l0.copy_(torch.tensor([[closed], [closed - 1], [2.0]]))
    x = torch.ones(1, 1, 1, requires_grad=True)
    output, _ = rnn(x, torch.full((1, 1, 1), 5.0))
    share = 1 / (1 + math.exp(-1))
    assert output.item() == pytest.approx(share * 5 + (1 - share) * 2, rel=1e-4)
    output.backward()
    assert x.grad.isfinite().all()
    assert torch.equal(rnn.trace(torch.zeros(1, 1, 1)).gates["f"], torch.full((1, 1, 1, 1, 1), 0.5))


@pytest.mark.parametrize("dt", [0.0, 0.25, 1.0, 7.75, 1023.5, 8191.0, -0.25, -3.75])
def test_a_phase_is_what_is_left_of_whole_periods(dt: float) -> None:
    rnn = elman.Recurrent(zoo.PhasedLSTM(), 1, 2)
    with torch.no_grad():
        rnn.tau_l0.copy_(torch.tensor([1.0, 0.5]) if abs(dt) < 4000 else torch.tensor([1.0, 2.0]))
    _, (_, _, phase) = rnn(torch.zeros(1, 1, 1), dt=torch.full((1, 1), dt))
    assert phase.flatten().tolist() == [dt / tau % 1 for tau in rnn.tau_l0.tolist()]


def test_a_number_that_no_float_holds_is_refused() -> None:
    with pytest.raises(TypeError, match="expected beta to be a finite number, got "):
        zoo.JANET(beta=10**400)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (elman.RNN(3, 4), "expected a network of AntisymmetricRNN, got RNN, which means another matrix"),
        (elman.Recurrent(zoo.MGU(), 3, 4), "expected a network of AntisymmetricRNN, got one of MGU, which means another matrix"),
        (None, "expected net to be one of Elman's networks, got NoneType"),
    ],
    ids=["layer", "cell", "nothing"],
)
def test_what_is_not_antisymmetric_is_named(net: Any, message: str) -> None:
    with pytest.raises(TypeError) as caught:
        zoo.antisymmetric(net)
    assert str(caught.value) == message
