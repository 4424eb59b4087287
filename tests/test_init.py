"""Initial values gate by gate: what is named is set, in all layers and directions, and nothing else."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import elman
import own_cells

LAYERS = [
    lambda library, kind, **options: getattr(library, kind)(3, 4, num_layers=2, bidirectional=True, **options),
    lambda library, kind, **options: getattr(library, f"{kind}Cell")(3, 4, **options),
]
H = 4

every_module = pytest.mark.parametrize("build", LAYERS, ids=["layer", "cell"])


def gates(module: nn.Module, kind: str) -> list[torch.Tensor]:
    """A kind of parameter of every layer and direction, as (G, H, ...)."""
    return [p.detach().unflatten(0, (-1, H)) for name, p in module.named_parameters() if name.startswith(kind)]


def changed(before: dict[str, torch.Tensor], module: nn.Module) -> set[tuple[str, int]]:
    """The kinds of parameters that differ, each with the gate in which it does."""
    found = set()
    for name, parameter in module.named_parameters():
        for gate, (old, new) in enumerate(zip(before[name].split(H), parameter.detach().split(H), strict=True)):
            if not torch.equal(old, new):
                found.add(("_".join(name.split("_")[:2]), gate))
    return found


def copy(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


@every_module
@pytest.mark.parametrize("library", [elman, nn], ids=["elman", "torch"])
def test_the_forget_gates_biases_add_up_to_the_value(build, library) -> None:
    module = build(library, "LSTM")
    before = copy(module)
    assert elman.init.forget_bias(module, 1.5) is module
    sums = [ih[1] + hh[1] for ih, hh in zip(gates(module, "bias_ih"), gates(module, "bias_hh"), strict=True)]
    assert len(sums) == (4 if isinstance(module, nn.LSTM) else 1)
    assert all((each == 1.5).all() for each in sums)
    assert changed(before, module) == {("bias_ih", 1), ("bias_hh", 1)}


def test_the_forget_gate_is_the_one_that_keeps_c() -> None:
    """With a large bias c stays what it was, but for what i and g write."""
    cell = elman.init.forget_bias(elman.LSTMCell(3, 4, dtype=torch.float64), 50.0)
    with torch.no_grad():
        cell.bias_ih[:H] = -50.0  # i writes nothing
    c = torch.randn(2, H, dtype=torch.float64)
    torch.testing.assert_close(cell(torch.randn(2, 3, dtype=torch.float64), (torch.zeros_like(c), c))[1], c, rtol=0, atol=1e-12)


@every_module
def test_chrono_spreads_an_lstms_memories_over_the_steps(build) -> None:
    module = build(elman, "LSTM")
    before = copy(module)
    assert elman.init.chrono(module, 100) is module
    for ih, hh in zip(gates(module, "bias_ih"), gates(module, "bias_hh"), strict=True):
        assert ((ih[1] >= 0) & (ih[1] <= math.log(99))).all()
        assert len(ih[1].unique()) == H
        assert torch.equal(ih[0], -ih[1])
        assert not hh[:2].any()
    assert changed(before, module) == {("bias_ih", 0), ("bias_ih", 1), ("bias_hh", 0), ("bias_hh", 1)}


@every_module
def test_chrono_sets_a_grus_update_gate(build) -> None:
    module = build(elman, "GRU")
    before = copy(module)
    elman.init.chrono(module, 3)
    assert all(
        ((ih[1] + hh[1] >= 0) & (ih[1] <= math.log(2))).all()
        for ih, hh in zip(gates(module, "bias_ih"), gates(module, "bias_hh"), strict=True)
    )
    assert changed(before, module) == {("bias_ih", 1), ("bias_hh", 1)}


@every_module
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_each_gates_recurrent_matrix_is_orthogonal(build, kind: str, dtype: torch.dtype) -> None:
    module = build(elman, kind, dtype=dtype)
    before = copy(module)
    assert elman.init.orthogonal(module, gain=2.0) is module
    for matrices in gates(module, "weight_hh"):
        for matrix in matrices.double():
            torch.testing.assert_close(matrix @ matrix.T, 4 * torch.eye(H).double(), rtol=0, atol=1e-12 if dtype is torch.float64 else 0.1)
    assert {name for name, _ in changed(before, module)} == {"weight_hh"}


def test_with_a_projection_the_recurrent_matrices_have_orthogonal_columns() -> None:
    lstm = elman.init.orthogonal(elman.LSTM(3, 4, proj_size=2, dtype=torch.float64))
    for matrix in lstm.weight_hh_l0.detach().split(4):
        torch.testing.assert_close(matrix.T @ matrix, torch.eye(2).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_each_gates_input_matrix_is_drawn_for_its_own_shape(kind: str) -> None:
    module = getattr(elman, kind)(30, 50, num_layers=2)
    before = module.weight_hh_l0.detach().clone()
    assert elman.init.xavier(module, gain=0.5) is module
    for weight, inputs in ((module.weight_ih_l0, 30), (module.weight_ih_l1, 50)):
        bound = 0.5 * math.sqrt(6 / (inputs + 50))
        assert 0.99 * bound < weight.abs().max() <= bound
    assert torch.equal(module.weight_hh_l0, before)


def test_the_kernels_run_with_the_new_values() -> None:
    lstm, x = elman.LSTM(3, 4), torch.randn(5, 2, 3)
    before = lstm(x)[0]
    elman.init.xavier(elman.init.orthogonal(elman.init.forget_bias(lstm)))
    theirs = nn.LSTM(3, 4)
    theirs.load_state_dict(lstm.state_dict())
    torch.testing.assert_close(lstm(x)[0], theirs(x)[0])
    assert not torch.equal(lstm(x)[0], before)


def test_gradients_do_not_see_it() -> None:
    lstm = elman.init.forget_bias(elman.LSTM(3, 4))
    assert all(parameter.is_leaf and parameter.requires_grad and parameter.grad is None for parameter in lstm.parameters())


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: elman.init.forget_bias(elman.GRU(3, 4)), TypeError, "expected an LSTM or an LSTMCell, which have a forget gate, got GRU"),
        (lambda: elman.init.forget_bias("lstm"), TypeError, "got str"),
        (lambda: elman.init.forget_bias(elman.LSTM(3, 4), "1"), TypeError, "expected value to be a finite number, got '1'"),
        (lambda: elman.init.forget_bias(elman.LSTM(3, 4), math.nan), TypeError, "got nan"),
        (lambda: elman.init.forget_bias(elman.LSTM(3, 4), 10**400), TypeError, "expected value to be a finite number"),
        (lambda: elman.init.forget_bias(elman.LSTM(3, 4, bias=False)), ValueError, "in which it is built with bias=False"),
        (lambda: elman.init.forget_bias(elman.LSTMCell(3, 4, bias=False)), ValueError, "in which it is built with bias=False"),
        (lambda: elman.init.chrono(elman.RNN(3, 4), 10), TypeError, "which have gates that keep the state, got RNN"),
        (lambda: elman.init.chrono(elman.LSTM(3, 4), 2), ValueError, "expected max_steps to be at least 3, got 2"),
        (lambda: elman.init.chrono(elman.LSTM(3, 4), 10.5), TypeError, "expected max_steps to be an int"),
        (lambda: elman.init.orthogonal(nn.Linear(3, 4)), TypeError, "expected an RNN, a GRU, an LSTM or a cell of these, got Linear"),
        (lambda: elman.init.orthogonal(elman.RNN(3, 4), gain=True), TypeError, "expected gain to be a finite number, got True"),
        (lambda: elman.init.xavier(torch.zeros(3)), TypeError, "got Tensor"),
    ],
)
def test_what_is_wrong_is_said(call, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        call()


def test_a_parametrized_weight_is_not_overwritten() -> None:
    rnn = elman.RNN(3, 4, num_layers=2)
    nn.utils.parametrizations.orthogonal(rnn, "weight_hh_l1")
    with pytest.raises(ValueError, match="in which it is computed: remove the parametrization first"):
        elman.init.orthogonal(rnn)


# --- Cells of one's own -----------------------------------------------------------------------------------------------


def test_an_own_cells_gates_are_found_by_name() -> None:
    rnn = elman.Recurrent(own_cells.Peephole(), 3, 4, num_layers=2, bidirectional=True)
    before = {name: value.clone() for name, value in rnn.state_dict().items()}
    elman.init.forget_bias(rnn, 1.5)
    for tail in ("l0", "l0_reverse", "l1", "l1_reverse"):
        total = getattr(rnn, f"bias_ih_{tail}") + getattr(rnn, f"bias_hh_{tail}")
        assert (total[4:8] == 1.5).all()
        assert torch.equal(getattr(rnn, f"bias_ih_{tail}")[8:], before[f"bias_ih_{tail}"][8:])
    elman.init.chrono(rnn, 100)
    total = rnn.bias_ih_l1 + rnn.bias_hh_l1
    assert torch.equal(total[:4], -total[4:8])
    assert (total[4:8] >= 0).all()
    elman.init.orthogonal(elman.init.xavier(rnn))
    for gate in rnn.weight_hh_l1_reverse.detach().chunk(4):
        torch.testing.assert_close(gate @ gate.T, torch.eye(4), rtol=0, atol=1e-5)
    assert torch.equal(rnn.p_i_l0, before["p_i_l0"])


def test_a_gate_with_one_bias_is_set_in_it() -> None:
    class Apart(elman.Cell):
        gates = ("i", "f")
        input_gates = ("i",)
        recurrent_gates = ("f",)

        def step(self, x, r, s, p):
            return torch.sigmoid(r.f) * s.h + torch.tanh(x.i)

    cell = elman.init.forget_bias(elman.RecurrentCell(Apart(), 3, 4), 2.0)
    assert (cell.bias_hh == 2).all()
    assert not (cell.bias_ih == 0).any()
    elman.init.chrono(cell, 10)
    assert torch.equal(cell.bias_ih, -cell.bias_hh)


@pytest.mark.parametrize("build", [elman.Recurrent, elman.RecurrentCell])
@pytest.mark.parametrize("own", ["bias_ih_gain", "bias_hh_gain", "weight_hh_gain", "weight_ih_low", "bias_ih_reverse"])
def test_a_parameter_of_the_cells_own_is_none_of_the_weights_whatever_its_name(build, own: str) -> None:
    class Scaled(elman.Cell):
        gates = ("f",)
        parameters = {own: "H"}  # noqa: RUF012

        def init(self, name, tensor) -> bool:
            if name == own:
                tensor.fill_(3.0)
            return name == own

        def step(self, x, r, s, p):
            return torch.sigmoid(x.f + r.f) * s.h * getattr(p, own)

    net = elman.init.xavier(elman.init.orthogonal(elman.init.forget_bias(build(Scaled(), 3, 4), 7.0)))
    for name, parameter in net.named_parameters():
        if name.startswith(own):
            assert (parameter == 3).all()
        if name.startswith("bias_ih") and not name.startswith(own):
            assert (parameter == 7).all()


def test_a_cell_without_the_gate_is_refused() -> None:
    with pytest.raises(TypeError, match="expected a cell with a gate f, got Gru2014 with r, z, n: set the biases yourself"):
        elman.init.chrono(elman.Recurrent(own_cells.Gru2014(), 3, 4), 10)
    with pytest.raises(TypeError, match="expected a cell with weight_hh, got Independent, which has none"):
        elman.init.orthogonal(elman.Recurrent(own_cells.Independent(), 3, 4))


@pytest.mark.parametrize("build", [elman.Recurrent, elman.RecurrentCell])
@pytest.mark.parametrize("kind", [kind for kind in elman.zoo.CELLS if "f" in kind().gates])
def test_a_zoo_cell_remembers_with_it_or_is_refused(build, kind: type[elman.Cell]) -> None:
    net, name = build(kind(), 3, 4), kind.__name__
    for call in (lambda: elman.init.forget_bias(net, 20.0), lambda: elman.init.chrono(net, 10)):
        if name == "MGU":  # whose f weighs the new state
            with pytest.raises(TypeError, match=f"expected a cell whose gate f keeps the state, got {name}, which keeps less of it"):
                call()
        else:
            assert call() is net


def test_a_cell_without_memory_is_not_tried() -> None:
    with torch.device("meta"):
        net = elman.Recurrent(own_cells.Peephole(), 3, 4)
    assert elman.init.forget_bias(net) is net


@pytest.mark.parametrize("seed", range(5))
def test_a_leaky_gate_is_one_in_any_dtype(seed: int) -> None:
    torch.manual_seed(seed)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        elman.init.forget_bias(elman.Recurrent(elman.zoo.PhasedLSTM(), 3, 16, dtype=dtype))  # which changes by a thousandth a step


class Crossed(elman.Cell):
    gates = ("f", "g")
    states = ("h", "c")
    parameters = {"a": "H"}  # noqa: RUF012
    step_inputs = {"padding": ""}  # noqa: RUF012

    def step(self, x, r, s, p):
        f, new = torch.sigmoid(x.f + r.f), p.a * torch.tanh(x.g + r.g)
        return torch.where(x.padding > 0, s.h, f * s.c + new), torch.where(x.padding > 0, s.c, -f * s.h)


@pytest.mark.parametrize("build", [elman.Recurrent, elman.RecurrentCell])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_cell_whose_states_cross_and_whose_parameter_is_computed_is_taken(build, mode) -> None:
    net = build(Crossed(), 3, 4)
    name = "a" if build is elman.RecurrentCell else "a_l0"
    nn.utils.parametrize.register_parametrization(net, name, nn.Softplus())
    with mode():
        assert elman.init.forget_bias(net) is net


def test_a_bias_that_was_set_to_none_is_named() -> None:
    cell = elman.LSTMCell(3, 4)
    cell.bias_hh = None
    with pytest.raises(ValueError, match="expected a module with bias_hh among its parameters, got LSTMCell, in which it is None"):
        elman.init.forget_bias(cell)
