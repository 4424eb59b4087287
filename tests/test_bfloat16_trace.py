"""trace in bfloat16 on the kernels: each step one rounding from float32, and gradients nearer to float64 than torch's operators'."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import bounds
import elman
import narrow
from approx import Approx
from cases import as_layers
from elman.backends import Operands
from elman.backends.native import NativeBackend
from elman.backends.reference import ReferenceBackend
from elman.backends.spans import Spans
from kinds import KINDS, RELU, TANH, Kind, as_hx, as_states, every_kind
from narrow import every_isa, seeded_and_on_one_thread
from native import native_alone, on_every_isa, required
from slow import slow

pytestmark = [required, pytest.mark.usefixtures("poisoned", "native_alone", "seeded_and_on_one_thread")]
__all__ = ["every_isa", "native_alone", "seeded_and_on_one_thread"]

_by_operators = ReferenceBackend().trace


@pytest.fixture
def without_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace that the kernels leave to the reference is an error."""
    monkeypatch.delattr(ReferenceBackend, "trace")


@on_every_isa
@every_kind
@pytest.mark.usefixtures("without_the_reference")
@torch.no_grad()
def test_a_trace_shows_each_step_one_rounding_from_float32(kind: Kind) -> None:
    I, H, B, T = 15, 33, 5, 6  # noqa: E741
    module, x, states = narrow.build(kind, I, H), narrow.randn(T, B, I), narrow.states_of(kind, 1, B, H)
    traced = module.trace(x, as_hx(states))
    narrow.assert_same_bits((traced.output, *as_states(traced.final)), narrow.results(module, x, states))
    assert torch.equal(traced.h[0, 0], traced.output)
    cell, ((direction,),) = module.stack.cell, as_layers([narrow.array(p) for p in module.parameters()], 1, 1, True)
    weights = bounds.Weights(bounds.CELLS[kind.cell], direction)
    shown = {**traced.gates} if traced.c is None else {**traced.gates, "c": traced.c}
    before = tuple(Approx.exact(narrow.array(state[0])) for state in states)
    for t in range(T):
        (_, *others), saved = weights.forward(Approx.exact(narrow.array(x[t])), before)
        for name, value in zip(cell.saved, saved, strict=True):
            if name:
                allowed = value.error + narrow.LEAST * (I + H)
                allowed = allowed + narrow.U * (np.abs(value.value) + allowed)
                assert shown[name].dtype is torch.bfloat16
                error = np.abs(narrow.array(shown[name][0, 0, t]) - value.value)
                assert (error <= allowed).all(), f"step {t}: {name} is off by {error.max():.3g}"
        before = Approx.exact(narrow.array(traced.h[0, 0, t])), *others
    for state, final in zip(("h", "c"), as_states(traced.final), strict=False):
        assert torch.equal(traced.states[state][0, 0, -1], final[0])


@on_every_isa
@every_kind
@pytest.mark.usefixtures("without_the_reference")
def test_gradients_of_a_traces_output_have_the_bits_of_those_of_a_call(kind: Kind) -> None:
    """So gates are kept in float32, though they are shown in bfloat16."""
    module, x = narrow.build(kind, 5, 33, 2, bidirectional=True), narrow.randn(9, 4, 5).requires_grad_()
    found = []
    for run in (lambda: module(x)[0], lambda: module.trace(x).output):
        torch.manual_seed(0)
        output = run()
        found.append((output.detach(), *torch.autograd.grad(output, [x, *module.parameters()], narrow.randn(*output.shape))))
    narrow.assert_same_bits(*found)


@on_every_isa
@pytest.mark.parametrize("kind", [TANH, *slow(*(kind for kind in KINDS if kind not in (TANH, RELU)))], ids=str)
@pytest.mark.usefixtures("without_the_reference")
def test_a_traces_gradients_are_nearer_to_float64_than_those_of_torchs_operators(kind: Kind) -> None:
    """Where every part of the trace gets a gradient, sequences end and resets cut them.

    Not relu's: where its derivative jumps, one rounding decides a whole gradient, and few of them the sum.
    """
    spans = Spans(lengths=torch.tensor([12, 0, 5, 8]), reset=torch.rand(12, 4) < 0.2)

    def gradients(seed: int) -> tuple[list[str], list[Tensor], list[Tensor], list[Tensor]]:
        torch.manual_seed(seed)
        module, x = narrow.build(kind, 6, 9, 2, bidirectional=True), narrow.randn(12, 4, 6)
        exact = kind.build(elman, 6, 9, 2, bidirectional=True).double()
        exact.load_state_dict(module.state_dict())
        given: list[Tensor] = []
        results = []
        for rnn, run in ((exact, _by_operators), (module, NativeBackend().trace), (module, _by_operators)):
            dtype = rnn.weight_ih_l0.dtype
            data = x.to(dtype).requires_grad_()
            traced = run(rnn.stack, Operands(data, None, list(rnn.parameters()), spans))
            parts = [traced.hidden, *traced.finals, *traced.states.values(), *traced.gates.values()]
            given = given or [narrow.randn(*part.shape) for part in parts]
            results.append(torch.autograd.grad(parts, [data, *rnn.parameters()], [g.to(dtype) for g in given]))
            assert all(gradient.dtype is dtype for gradient in results[-1])
        return ["x", *dict(module.named_parameters())], *results

    narrow.assert_nearer(map(gradients, range(20)))


@every_kind
def test_a_traces_gradient_can_be_differentiated_again(kind: Kind) -> None:
    """By the reference, in the operands' dtype."""
    module, x = narrow.build(kind, 3, 4), narrow.randn(5, 2, 3).requires_grad_()
    given: list[Tensor] = []
    found = []
    for run in (NativeBackend().trace, _by_operators):
        traced = run(module.stack, Operands(x, None, list(module.parameters())))
        parts = [traced.hidden, *traced.finals, *traced.states.values(), *traced.gates.values()]
        given = given or [narrow.randn(*part.shape) for part in parts]
        (first,) = torch.autograd.grad(parts, x, given, create_graph=True)
        found.append((first.detach(), *torch.autograd.grad(first.sum(), [x, module.weight_hh_l0])))
    narrow.assert_same_bits(*found)
