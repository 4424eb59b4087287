"""elman.Recurrent is its cell's equation, over layers, directions, lengths, resets and initial states: values and gradients."""

from __future__ import annotations

import copy
import itertools
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import elman
import loops
import own_cells
from kinds import GRU, LSTM, RELU, TANH, Kind, as_hx, as_states
from own_cells import OWN

if TYPE_CHECKING:
    from own_cells import Own

T, B, I, H = 5, 3, 3, 4  # noqa: E741
LENGTHS = [5, 0, 3]
TOLERANCE = {"rtol": 0, "atol": 1e-12}

every_own = pytest.mark.parametrize("own", OWN.values(), ids=OWN)


def built(own: Own, **options: Any) -> elman.Recurrent:
    torch.manual_seed(0)
    rnn = elman.Recurrent(own.cell, I, H, dtype=torch.float64, **options)
    with torch.no_grad():
        for name, parameter in rnn.named_parameters():
            if name in rnn._learned:
                parameter.normal_()
    return rnn


def step_inputs(cell: elman.Cell, steps: int = T, batch: int = B) -> dict[str, Tensor]:
    shapes = {name: (steps, batch, *([H] if size else [])) for name, size in cell.step_inputs.items()}
    return {name: torch.rand(shape, dtype=torch.float64, requires_grad=True) for name, shape in shapes.items()}


def gradients(results: list[Tensor], leaves: list[Tensor]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(result.shape, generator=generator, dtype=torch.float64) for result in results]
    loss = sum((result * weight).sum() for result, weight in zip(results, weights, strict=True))
    return list(torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True))


def assert_close(got: Any, expected: Any) -> None:
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, **TOLERANCE)


# --- The equation -----------------------------------------------------------------------------------------------------


OPTIONS = [
    *itertools.product((1, 2), (False, True), (None, LENGTHS), (False, True), (False, True)),
]


@every_own
@pytest.mark.parametrize(("layers", "both", "lengths", "resets", "given_states"), OPTIONS)
def test_a_network_is_the_loop_over_its_equation(
    own: Own, layers: int, both: bool, lengths: list[int] | None, resets: bool, given_states: bool
) -> None:
    rnn = built(own, num_layers=layers, bidirectional=both, learn_initial_state=resets, bias=layers == 2)
    torch.manual_seed(1)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    beside = step_inputs(own.cell)
    count = layers * (1 + both)
    states = tuple(torch.randn(count, B, H, dtype=torch.float64, requires_grad=True) for _ in own.cell.states) if given_states else None
    reset = torch.rand(T, B) < 0.4 if resets else None
    padded = x
    if lengths is not None:
        over = torch.arange(T).unsqueeze(1) >= torch.tensor(lengths)
        padded = x.masked_fill(over.unsqueeze(-1), float("nan"))
    output, hx = rnn(padded, None if states is None else as_hx(states), lengths=lengths, reset=reset, **beside)
    expected, finals = loops.run(own.step, rnn, x, states, lengths, reset, **beside)
    assert_close([output, *as_states(hx)], [expected, *finals])
    leaves = [x, *beside.values(), *(states or ()), *rnn.parameters()]
    assert_close(gradients([output, *as_states(hx)], leaves), gradients([expected, *finals], leaves))


@pytest.mark.parametrize("kind", [TANH, RELU, GRU, LSTM], ids=str)
@pytest.mark.parametrize(("layers", "both", "lengths", "resets", "given_states"), OPTIONS)
def test_the_built_in_cells_written_as_ones_own_are_the_same_network(
    kind: Kind, layers: int, both: bool, lengths: list[int] | None, resets: bool, given_states: bool
) -> None:
    options = {"num_layers": layers, "bidirectional": both, "learn_initial_state": resets, "dtype": torch.float64}
    theirs = kind.build(elman, I, H, **options)
    ours = elman.Recurrent(getattr(own_cells, kind.label.capitalize())(), I, H, **options)
    ours.load_state_dict(theirs.state_dict())
    torch.manual_seed(1)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    count = layers * (1 + both)
    states = as_hx(tuple(torch.randn(count, B, H, dtype=torch.float64) for _ in kind.states)) if given_states else None
    reset = torch.rand(T, B) < 0.4 if resets else None
    results = []
    for rnn in (theirs, ours):
        output, hx = rnn(x, states, lengths=lengths, reset=reset)
        found = [output, *as_states(hx)]
        results.append([*found, *gradients(found, [x, *rnn.parameters()])])
    assert_close(*results)


@pytest.mark.parametrize("kind", [TANH, GRU, LSTM], ids=str)
def test_the_same_seed_gives_an_own_cell_the_parameters_of_torchs(kind: Kind) -> None:
    torch.manual_seed(0)
    theirs = kind.build(torch.nn, I, H, num_layers=2, bidirectional=True)
    torch.manual_seed(0)
    ours = elman.Recurrent(getattr(own_cells, kind.label.capitalize())(), I, H, num_layers=2, bidirectional=True)
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in theirs.state_dict().items())
    assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.slow
@every_own
def test_gradients_pass_gradcheck_and_may_be_differentiated_again(own: Own) -> None:
    rnn = built(own, bidirectional=True)
    beside = step_inputs(own.cell, 3, 2)
    x = torch.randn(3, 2, I, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*rnn.named_parameters(), strict=True)

    def run(x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(beside, others, strict=False))
        own_parameters = dict(zip(names, others[len(beside) :], strict=True))
        output, hx = torch.func.functional_call(rnn, own_parameters, (x,), {"lengths": [3, 2], **named})
        return output, *as_states(hx)

    inputs = (x, *beside.values(), *parameters)
    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_sizes_have_the_loops_results(data: st.DataObject) -> None:
    own = data.draw(st.sampled_from(list(OWN.values())))
    steps, batch, inputs, units, layers = (data.draw(st.integers(1, most)) for most in (4, 3, 4, 5, 3))
    both, bias, learned = (data.draw(st.booleans()) for _ in range(3))
    lengths = data.draw(st.none() | st.lists(st.integers(0, steps), min_size=batch, max_size=batch))
    options = {"num_layers": layers, "bidirectional": both, "bias": bias, "learn_initial_state": learned}
    rnn = elman.Recurrent(own.cell, inputs, units, dtype=torch.float64, **options)
    x = torch.randn(steps, batch, inputs, dtype=torch.float64)
    shapes = {name: (steps, batch, *([units] if size else [])) for name, size in own.cell.step_inputs.items()}
    beside = {name: torch.rand(shape, dtype=torch.float64) for name, shape in shapes.items()}
    reset = torch.rand(steps, batch) < 0.3 if data.draw(st.booleans()) else None
    output, hx = rnn(x, lengths=lengths, reset=reset, **beside)
    expected, finals = loops.run(own.step, rnn, x, None, lengths, reset, **beside)
    assert_close([output, *as_states(hx)], [expected, *finals])


# --- The forms of a call ----------------------------------------------------------------------------------------------


@every_own
def test_batch_first_and_unbatched_input_lie_otherwise_and_are_the_same(own: Own) -> None:
    rnn = built(own, bidirectional=True)
    x, beside = torch.randn(T, B, I, dtype=torch.float64), step_inputs(own.cell)
    reset = torch.rand(T, B) < 0.3
    output, hx = rnn(x, lengths=LENGTHS, reset=reset, **beside)
    rnn.batch_first = True
    turned = {name: value.transpose(0, 1) for name, value in beside.items()}
    again, last = rnn(x.transpose(0, 1), lengths=LENGTHS, reset=reset.t(), **turned)
    assert_close([again.transpose(0, 1), *as_states(last)], [output, *as_states(hx)])
    alone, last = rnn(x[:, 0], reset=reset[:, 0], **{name: value[:, 0] for name, value in beside.items()})
    assert_close([alone, *as_states(last)], [output[:, 0], *[state[:, 0] for state in as_states(hx)]])


@every_own
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("lengths", [[2, 5, 3], [5, 3, 2]])
def test_a_packed_sequence_comes_out_packed(own: Own, batch_first: bool, lengths: list[int]) -> None:
    rnn = built(own, num_layers=2, bidirectional=True, batch_first=batch_first)
    x, beside = torch.randn(T, B, I, dtype=torch.float64), step_inputs(own.cell)
    reset = torch.rand(T, B) < 0.3
    if batch_first:
        x, reset, beside = x.transpose(0, 1), reset.t(), {name: value.transpose(0, 1) for name, value in beside.items()}
    expected, finals = rnn(x, lengths=lengths, reset=reset, **beside)
    packed = pack_padded_sequence(x, lengths, batch_first, enforce_sorted=False)
    output, hx = rnn(packed, reset=reset, **beside)
    assert_close([pad_packed_sequence(output, batch_first)[0], *as_states(hx)], [expected, *as_states(finals)])
    assert torch.equal(output.batch_sizes, packed.batch_sizes)
    assert torch.equal(output.sorted_indices, packed.sorted_indices)
    traced = rnn.trace(packed, reset=reset, **beside)
    assert_close([pad_packed_sequence(traced.output, batch_first)[0]], [expected])


def test_dropout_acts_between_layers_in_training_only() -> None:
    rnn = built(OWN["decay"], num_layers=3, dropout=0.5)
    x, beside = torch.randn(T, B, I, dtype=torch.float64), step_inputs(OWN["decay"].cell)
    assert not torch.equal(rnn(x, **beside)[0], rnn(x, **beside)[0])
    rnn.eval()
    assert torch.equal(rnn(x, **beside)[0], rnn(x, **beside)[0])
    rnn.train().dropout = 1.0
    alone = elman.Recurrent(OWN["decay"].cell, H, H, dtype=torch.float64)
    alone.load_state_dict({f"{name[:-1]}0": value for name, value in rnn.state_dict().items() if name.endswith("_l2")})
    assert_close([rnn(x, **beside)[0]], [alone(torch.zeros(T, B, H, dtype=torch.float64), **beside)[0]])


# --- trace ------------------------------------------------------------------------------------------------------------


def test_trace_has_gates_and_states_by_name() -> None:
    rnn = built(OWN["peephole"], num_layers=2, bidirectional=True)
    x = torch.randn(T, B, I, dtype=torch.float64)
    traced = rnn.trace(x, lengths=LENGTHS)
    output, hx = rnn(x, lengths=LENGTHS)
    assert_close([traced.output, *traced.final], [output, *hx])
    assert list(traced.gates) == ["i", "f", "g", "o"]
    assert list(traced.states) == ["h", "c"]
    assert traced.c is traced.states["c"]
    w = dict(rnn.named_parameters())
    first_h, first_c = torch.zeros(H, dtype=torch.float64), torch.zeros(H, dtype=torch.float64)
    for t in range(3):
        a = w["weight_ih_l0"] @ x[t, 2] + w["bias_ih_l0"] + w["weight_hh_l0"] @ first_h + w["bias_hh_l0"]
        i, f, g, o = a.chunk(4)
        i, f, g = torch.sigmoid(i + w["p_i_l0"] * first_c), torch.sigmoid(f + w["p_f_l0"] * first_c), torch.tanh(g)
        first_c = f * first_c + i * g
        o = torch.sigmoid(o + w["p_o_l0"] * first_c)
        first_h = o * torch.tanh(first_c)
        got = [traced.gates[name][0, 0, t, 2] for name in "ifgo"] + [traced.states[name][0, 0, t, 2] for name in "hc"]
        assert_close(got, [i, f, g, o, first_h, first_c])
    assert not traced.gates["f"][:, :, 3:, 2].any()


@pytest.mark.parametrize("kind", [GRU, LSTM], ids=str)
def test_trace_of_a_cell_written_as_ones_own_is_that_of_the_built_in_one(kind: Kind) -> None:
    theirs = kind.build(elman, I, H, num_layers=2, dtype=torch.float64)
    ours = elman.Recurrent(getattr(own_cells, kind.label.capitalize())(), I, H, num_layers=2, dtype=torch.float64)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(T, B, I, dtype=torch.float64)
    one, other = ours.trace(x), theirs.trace(x)
    assert list(one.gates) == list(other.gates)
    assert_close([*one.gates.values(), *one.states.values()], [*other.gates.values(), *other.states.values()])


# --- A module ---------------------------------------------------------------------------------------------------------


def test_parameters_are_called_as_torch_calls_them() -> None:
    rnn = elman.Recurrent(own_cells.Peephole(), 10, 20, num_layers=2, bidirectional=True)
    names = [name for name, _ in rnn.named_parameters()]
    assert names[:8] == ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0", "p_i_l0", "p_f_l0", "p_o_l0", "weight_ih_l0_reverse"]
    assert "p_i_l1_reverse" in names
    assert rnn.weight_ih_l1.shape == (80, 40)
    assert rnn.p_i_l0.shape == (20,)
    assert [name for name, _ in elman.Recurrent(own_cells.Independent(), 3, 4, bias=False).named_parameters()] == ["weight_ih_l0", "u_l0"]
    assert elman.Recurrent(own_cells.Decay(), 3, 4).scale_l0.shape == ()


def test_a_cell_may_fill_its_parameters() -> None:
    rnn = elman.Recurrent(own_cells.Independent(), 3, 4)
    assert rnn.u_l0.tolist() == [0.5] * 4
    assert rnn.weight_ih_l0.abs().max() <= 0.5
    with torch.no_grad():
        rnn.u_l0.zero_()
    rnn.reset_parameters()
    assert rnn.u_l0.tolist() == [0.5] * 4


def test_a_network_shows_its_cell_and_is_copied_and_pickled_with_it() -> None:
    rnn = built(OWN["decay"], num_layers=2, learn_initial_state=True)
    assert repr(rnn) == "Recurrent(Decay(floor=0.1), 3, 4, num_layers=2, learn_initial_state=True)"
    x, beside = torch.randn(T, B, I, dtype=torch.float64), step_inputs(OWN["decay"].cell)
    for again in (copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn))):  # noqa: S301
        assert again.cell == rnn.cell
        assert again.stack == rnn.stack
        assert torch.equal(again(x, **beside)[0], rnn(x, **beside)[0])
        again.load_state_dict(rnn.state_dict())
    assert own_cells.Decay(0.2) != own_cells.Decay()
    assert own_cells.Gru() != own_cells.Gru2014()
    for values in (torch.ones(3), np.ones(3), [1.0]):
        assert own_cells.Decay(values) == own_cells.Decay(copy.copy(values))
        assert own_cells.Decay(values) != own_cells.Decay(values * 2)
        assert own_cells.Decay(values) != own_cells.Decay(values[:0])
    assert hash(own_cells.Gru()) == hash(own_cells.Gru())


def test_the_cell_stays() -> None:
    rnn = built(OWN["peephole"])
    with pytest.raises(AttributeError, match="expected cell to stay Peephole"):
        rnn.cell = own_cells.Gru()


def test_the_built_in_layers_are_networks_of_this_kind() -> None:
    for rnn in (elman.RNN(3, 4), elman.GRU(3, 4), elman.LSTM(3, 4)):
        assert isinstance(rnn, elman.Recurrent)
        assert isinstance(elman.Recurrent(rnn.stack.cell, 3, 4), elman.Recurrent)
    assert not isinstance(elman.Recurrent(elman.LSTM(3, 4).stack.cell, 3, 4), torch.nn.LSTM)
    assert elman.why(elman.Recurrent(elman.LSTM(3, 4).stack.cell, 3, 4), torch.zeros(5, 3, 3)) == elman.why(
        elman.LSTM(3, 4), torch.zeros(5, 3, 3)
    )


# --- One step ---------------------------------------------------------------------------------------------------------


@every_own
def test_a_cell_takes_one_step_of_the_network(own: Own) -> None:
    rnn = built(own)
    cell = elman.RecurrentCell(own.cell, I, H, dtype=torch.float64)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in rnn.state_dict().items()})
    x, beside = torch.randn(T, B, I, dtype=torch.float64), step_inputs(own.cell)
    hx = None
    for t in range(T):
        hx = cell(x[t], hx, **{name: value[t] for name, value in beside.items()})
    assert_close(as_states(hx), [state[0] for state in as_states(rnn(x, **beside)[1])])
    alone = cell(x[0, 0], **{name: value[0, 0] for name, value in beside.items()})
    _, first = rnn(x[:1], **{name: value[:1] for name, value in beside.items()})
    assert_close(as_states(alone), [state[0, 0] for state in as_states(first)])


def test_a_cell_shows_itself() -> None:
    assert repr(elman.RecurrentCell(own_cells.Decay(0.5), 3, 4, bias=False)) == "RecurrentCell(Decay(floor=0.5), 3, 4, bias=False)"


# --- What is around it ------------------------------------------------------------------------------------------------


class Signs(torch.nn.Module):
    """Dale's law: the first units excite, the last inhibits."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.abs() * torch.tensor([1.0, 1.0, 1.0, -1.0], dtype=weight.dtype)


def test_a_parametrized_weight_is_computed_at_each_call() -> None:
    plain, own = built(OWN["independent"]), built(OWN["gru2014"])
    torch.nn.utils.parametrize.register_parametrization(own, "weight_hh_l0", Signs())
    assert (own.weight_hh_l0[:, 3] <= 0).all()
    x = torch.randn(T, B, I, dtype=torch.float64)
    expected = built(OWN["gru2014"])
    with torch.no_grad():
        expected.weight_hh_l0.copy_(own.weight_hh_l0)
    assert_close([own(x)[0]], [expected(x)[0]])
    own(x)[0].sum().backward()
    assert own.parametrizations.weight_hh_l0.original.grad is not None
    normed = torch.nn.utils.parametrizations.weight_norm(plain, "weight_ih_l0")
    assert_close([normed(x)[0]], [built(OWN["independent"])(x)[0]])


def test_conversion_leaves_the_network_as_it_is_and_names_it() -> None:
    model = torch.nn.ModuleDict({"own": built(OWN["peephole"]), "lstm": torch.nn.LSTM(3, 4)})
    elman.convert(model)
    assert type(model["own"]) is elman.Recurrent
    with pytest.warns(UserWarning, match=r"to_torch leaves these modules as they are: own \(Recurrent is a class of its own"):
        elman.to_torch(model)
    assert type(model["own"]) is elman.Recurrent


def test_a_class_may_derive_from_it() -> None:
    class Tagger(elman.Recurrent):
        def __init__(self, units: int) -> None:
            super().__init__(own_cells.Gru(), I, units, dropout=0.5, num_layers=2)
            self.head = torch.nn.Linear(units, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(super().forward(x)[0])

    assert Tagger(4)(torch.randn(T, B, I)).shape == (T, B, 2)
    with pytest.warns(UserWarning, match="dropout option adds dropout .* dropout=0.5 and num_layers=1") as caught:
        elman.Recurrent(own_cells.Gru(), I, H, dropout=0.5)
    assert caught[0].filename == __file__


def test_no_compiler_is_loaded_to_build_and_train_a_network() -> None:
    code = """if True:
        import sys, torch, elman
        for cell in (elman.zoo.MGU(), elman.Zoneout(elman.zoo.MGU(), h=0.1)):
            net = elman.Recurrent(cell, 3, 4)
            net(torch.randn(5, 2, 3))[0].sum().backward()
        print("torch._dynamo" in sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert (done.stdout, done.stderr) == ("False\n", "")
