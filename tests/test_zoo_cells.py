"""Each cell of elman.zoo is its paper's equation, over layers, directions, lengths, resets and initial states: values and gradients."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from torch import Tensor

import elman
import loops
import zoo_oracle
from elman import zoo
from elman.backends.program.lookup import program_of
from kinds import as_hx, as_states

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T, B, I, H = 3, 3, 3, 4  # noqa: E741
LENGTHS = [3, 0, 2]
TOLERANCE = {"rtol": 0, "atol": 1e-12}


class Known(NamedTuple):
    """A cell, its step from the paper, and the gates' letters in the order of the rows of weight_ih and weight_hh."""

    cell: elman.Cell
    step: Callable[..., Any]
    inputs: str
    recurrent: str


KNOWN = {
    "PeepholeLSTM": Known(zoo.PeepholeLSTM(), zoo_oracle.peephole_lstm, "ifgo", "ifgo"),
    "CoupledLSTM": Known(zoo.CoupledLSTM(), zoo_oracle.coupled_lstm, "igo", "igo"),
    "LayerNormLSTM": Known(zoo.LayerNormLSTM(), zoo_oracle.layer_norm_lstm, "ifgo", "ifgo"),
    "LayerNormGRU": Known(zoo.LayerNormGRU(), zoo_oracle.layer_norm_gru, "zrn", "zrn"),
    "GRU2014": Known(zoo.GRU2014(), zoo_oracle.gru2014, "rzn", "rzn"),
    "MGU": Known(zoo.MGU(), zoo_oracle.mgu, "fn", "fn"),
    "MinGRU": Known(zoo.MinGRU(), zoo_oracle.min_gru, "zn", ""),
    "MinGRU-positive": Known(zoo.MinGRU(positive=True), zoo_oracle.min_gru_positive, "zn", ""),
    "MinLSTM": Known(zoo.MinLSTM(), zoo_oracle.min_lstm, "fin", ""),
    "IndRNN": Known(zoo.IndRNN(), zoo_oracle.indrnn, "h", ""),
    "LeakyRNN": Known(zoo.LeakyRNN(), zoo_oracle.leaky_rnn, "v", "v"),
    "UGRNN": Known(zoo.UGRNN(), zoo_oracle.ugrnn, "ng", "ng"),
    "SRU": Known(zoo.SRU(), zoo_oracle.sru, "fnrk", ""),
    "LiGRU": Known(zoo.LiGRU(), zoo_oracle.ligru, "zn", "zn"),
    "JANET": Known(zoo.JANET(), zoo_oracle.janet, "fn", "fn"),
    "STAR": Known(zoo.STAR(), zoo_oracle.star, "zk", "k"),
    "FastGRNN": Known(zoo.FastGRNN(), zoo_oracle.fast_grnn, "z", "z"),
    "AntisymmetricRNN": Known(zoo.AntisymmetricRNN(), zoo_oracle.antisymmetric_rnn, "h", "h"),
    "AntisymmetricRNN-gated": Known(zoo.AntisymmetricRNN(0.5, 0.02, gated=True), zoo_oracle.gated_antisymmetric_rnn, "hz", "h"),
    "CoRNN": Known(zoo.CoRNN(), zoo_oracle.cornn, "y", "yz"),
    "SLSTM": Known(zoo.SLSTM(), zoo_oracle.slstm, "ifgo", "ifgo"),
    "SLSTM-exp": Known(zoo.SLSTM(forget="exp"), zoo_oracle.slstm_exp, "ifgo", "ifgo"),
    "CfC": Known(zoo.CfC(), zoo_oracle.cfc, "fgk", "fgk"),
    "GRUD": Known(zoo.GRUD(), zoo_oracle.grud, "rzn", "rzn"),
    "PhasedLSTM": Known(zoo.PhasedLSTM(), zoo_oracle.phased_lstm, "ifgo", "ifgo"),
}

every_cell = pytest.mark.parametrize("known", KNOWN.values(), ids=KNOWN)


def built(cell: elman.Cell, **options: Any) -> elman.Recurrent[Any]:
    """A network whose parameters are anything, so that none is hidden behind an initial 0 or 1."""
    torch.manual_seed(0)
    rnn = elman.Recurrent(cell, I, H, dtype=torch.float64, **options)
    with torch.no_grad():
        for name, parameter in rnn.named_parameters():
            positive = name.startswith(("tau", "on_", "n_0"))
            parameter.uniform_(0.2, 0.9) if positive else parameter.uniform_(-0.9, 0.9)
    return rnn


def step_inputs(cell: elman.Cell, steps: int = T, batch: int = B) -> dict[str, Tensor]:
    return {name: torch.rand(steps, batch, dtype=torch.float64, requires_grad=True) for name in cell.step_inputs}


def in_torch(known: Known) -> loops.Step:
    """The paper's step for ``loops.run``."""

    def step(x: Tensor, states: tuple[Tensor, ...], w: Mapping[str, Tensor], beside: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        weights = zoo_oracle.Weights({name: each.numpy() for name, each in w.items()}, known.inputs, known.recurrent)
        numbers = {name: each.numpy() for name, each in beside.items()}
        return tuple(torch.as_tensor(state) for state in known.step(x.numpy(), *[state.numpy() for state in states], weights, **numbers))

    return step


def comparable(known: Known, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The states as the paper has them: those of an sLSTM are kept divided by exp(m). They grow as exp does: brought to a scale of 1."""
    if not isinstance(known.cell, zoo.SLSTM):
        return states
    h, c, n, m = states
    return h, torch.asinh(c * m.exp()), torch.asinh(n * m.exp())


OPTIONS = [*itertools.product((1, 2), (False, True), (None, LENGTHS), (False, True), (False, True))]


@every_cell
@torch.no_grad()
@pytest.mark.slow
def test_a_network_is_the_papers_loop(known: Known) -> None:
    for layers, both, lengths, resets, given in OPTIONS:
        rnn = built(known.cell, num_layers=layers, bidirectional=both, learn_initial_state=resets, bias=layers == 2)
        torch.manual_seed(1)
        x, beside = torch.randn(T, B, I, dtype=torch.float64), step_inputs(known.cell)
        beside = {name: 5 * value.detach() for name, value in beside.items()}
        states = None
        if given:
            shape = layers * (1 + both), B, H
            states = tuple(torch.rand(shape, dtype=torch.float64) - 0.5 * (name not in ("n", "phase")) for name in known.cell.states)
        reset = torch.rand(T, B) < 0.4 if resets else None
        output, hx = rnn(x, None if states is None else as_hx(states), lengths=lengths, reset=reset, **beside)
        expected, finals = loops.run(in_torch(known), rnn, x, states, lengths, reset, **beside)
        torch.testing.assert_close(output, expected, **TOLERANCE)
        for got, wanted in zip(comparable(known, as_states(hx)), comparable(known, finals), strict=True):
            torch.testing.assert_close(got, wanted, **TOLERANCE)


@every_cell
def test_gradients_pass_gradcheck(known: Known) -> None:
    rnn = built(known.cell, bidirectional=True)
    beside = step_inputs(known.cell, 3, 2)
    x = torch.randn(3, 2, I, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*rnn.named_parameters(), strict=True)

    def run(x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(beside, others, strict=False))
        values = dict(zip(names, others[len(beside) :], strict=True))
        output, hx = torch.func.functional_call(rnn, values, (x,), {"lengths": [3, 2], **named})
        return output, *as_states(hx)

    assert torch.autograd.gradcheck(run, (x, *beside.values(), *parameters), fast_mode=True)


@every_cell
@torch.no_grad()
def test_single_steps_are_the_networks(known: Known) -> None:
    rnn = built(known.cell)
    cell = elman.RecurrentCell(known.cell, I, H, dtype=torch.float64)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in rnn.state_dict().items()})
    x, beside, hx = torch.randn(T, B, I, dtype=torch.float64), step_inputs(known.cell), None
    for t in range(T):
        hx = cell(x[t], hx, **{name: value[t] for name, value in beside.items()})
    for got, wanted in zip(as_states(hx), as_states(rnn(x, **beside)[1]), strict=True):
        torch.testing.assert_close(got, wanted[0], **TOLERANCE)


@every_cell
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_the_kernels_can_have_its_step(known: Known, training: bool) -> None:
    program_of(known.cell, torch.float32, draws=training, traced=False)
    program_of(known.cell, torch.float32, draws=training, traced=True)


@every_cell
@torch.no_grad()
def test_trace_has_each_gate(known: Known) -> None:
    rnn = built(known.cell, bidirectional=True)
    traced = rnn.trace(torch.randn(T, B, I, dtype=torch.float64), lengths=LENGTHS, **step_inputs(known.cell))
    assert list(traced.gates) == list(known.cell.gates)
    assert list(traced.states) == list(known.cell.states)
    assert all(gate.shape == (1, 2, T, B, H) and gate.isfinite().all() for gate in traced.gates.values())


def test_the_table_has_every_cell() -> None:
    assert {name.split("-")[0] for name in KNOWN} == {cell.__name__ for cell in zoo.CELLS}


def test_a_wrong_step_is_seen() -> None:
    wrong = KNOWN["MGU"]._replace(step=lambda x, h, w: (0.9 * zoo_oracle.mgu(x, h, w)[0],))
    with pytest.raises(AssertionError):
        test_a_network_is_the_papers_loop(wrong)


def test_an_slstm_that_begins_with_a_negative_normalizer_begins_with_none() -> None:
    """A learned n_0 may become negative: the quotient would change its sign there, and at -1 be infinite."""
    net = built(zoo.SLSTM(), learn_initial_state=True)
    x, results = torch.randn(T, B, I, dtype=torch.float64), []
    for n in (0.0, -1.0, -0.3, -5.0):
        with torch.no_grad():
            net.n_0.fill_(n), net.c_0.fill_(0.5), net.m_0.fill_(n)  # type: ignore[operator]
        output = net(x)[0]
        gradients = torch.autograd.grad(output.square().sum(), list(net.parameters()))
        found = dict(zip([name for name, _ in net.named_parameters()], gradients, strict=True))
        assert found["c_0"].abs().min() > 0
        assert (found.pop("n_0").abs().min() > 0) == (n == 0)  # from where it begins it can be learned
        results.append([output, *found.values()])
    for other in results[1:]:
        assert all(map(torch.equal, other, results[0]))
