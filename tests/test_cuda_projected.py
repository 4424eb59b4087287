"""LSTMs with a projection on the CUDA backend, which runs them as ones without: in float64 and on emulated kernels."""

from __future__ import annotations

from itertools import product
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import cublaslt_model
import cuda_emulator
import cuda_model
import elman
from cases import assert_same
from cuda_runs import FORMS
from elman.backends import Operands, registry
from elman.backends.cuda import backend, batch, run
from elman.backends.cuda.backend import CudaBackend
from elman.backends.cuda.plan import number_of
from elman.backends.reference import ReferenceBackend
from elman.backends.spans import Spans
from elman.backends.stack import Stack
from elman.cells import BY_NAME
from slow import slow
from test_cuda_emulated import ROUNDING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from elman.backends import Backend

T, B, I, H, P = 5, 10, 3, 20, 6  # noqa: E741
TOLERANCE = 1e-12
reference = ReferenceBackend()


class Given:
    """Numbers for a call of a backend, in float64."""

    def __init__(self, form: str, bidirectional: bool, **options: bool) -> None:
        is_packed = "packed" in form
        self.batch_first = options["batch_first"] and not is_packed
        self.stack = Stack(BY_NAME["lstm"](), I, H, 2, bidirectional, options["bias"], P, options["recompute"])
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        lengths = torch.tensor([3, 0, 5, 1, 4, 4, 0, 2, 1, 3])
        batch_sizes = (lengths.clamp_min(1) > torch.arange(T).unsqueeze(1)).sum(1) if is_packed else None
        reset = draw(T, B) > 0.3 if "reset" in form else None
        self.x = draw(T, B, I) if batch_sizes is None else draw(int(batch_sizes.sum()), I)
        if self.batch_first:
            self.x = self.x.transpose(0, 1).contiguous().transpose(0, 1)
        count = self.stack.num_layers * self.stack.num_directions
        self.states = tuple(draw(count, B, size) for size in self.stack.state_sizes) if options["given_state"] else None
        fresh = tuple(draw(count, size) for size in self.stack.state_sizes) if options["learned"] and reset is not None else None
        self.spans = Spans(batch_sizes, lengths if "lengths" in form else None, reset, fresh)
        self.params = [0.5 * draw(*shape) for shape in self.stack.shapes]
        self.inputs = [self.x, *(self.states or ()), *(self.spans.fresh or ()), *self.params]
        self.grads = [draw(*self.x.shape[:-1], self.stack.output_size), *(draw(count, B, size) for size in self.stack.state_sizes)]

    def run(self, chosen: Backend, dtype: torch.dtype = torch.float64, needed: Sequence[bool] | None = None) -> list[Tensor | None]:
        """The outputs, the final states, and the gradients."""
        used = [t.detach().to(dtype).requires_grad_(needed is None or needed[k]) for k, t in enumerate(self.inputs)]
        rest = iter(used)
        x = next(rest)
        states = None if self.states is None else tuple(next(rest) for _ in self.states)
        fresh = None if self.spans.fresh is None else tuple(next(rest) for _ in self.spans.fresh)
        output, finals = chosen.run(self.stack, Operands(x, states, tuple(rest), self.spans.replaced(fresh=fresh)), self.batch_first)
        results = [output, *finals]
        leaves = [t for t in used if t.requires_grad]
        found = iter(torch.autograd.grad(results, leaves, [g.to(dtype) for g in self.grads], allow_unused=True) if leaves else ())
        return [*(result.detach() for result in results), *(next(found) if t.requires_grad else None for t in used)]


def options() -> list[Any]:
    """Forms and directions in every way; the rest is drawn, the same each time."""
    random = Random(0)
    names = ("bias", "batch_first", "given_state", "learned", "recompute")
    return [
        pytest.param(
            form, bidirectional, drawn, id="-".join([form, "bidirectional" * bidirectional, *(name * drawn[name] for name in names)])
        )
        for form, bidirectional, _ in product(FORMS, (False, True), range(3))
        for drawn in [{name: random.random() < 0.5 for name in names}]
    ]


def compare(found: Sequence[Tensor | None], expected: Sequence[Tensor | None], tolerance: float) -> None:
    assert len(found) == len(expected)
    for place, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert_same({f"{place}": one}, {f"{place}": other}, tolerance)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("with_library", [False, True], ids=["torch", "cublaslt"])
@pytest.mark.parametrize(("form", "bidirectional", "drawn"), options())
def test_a_run_and_its_gradients_are_the_references(
    form: str, bidirectional: bool, drawn: dict[str, bool], with_library: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    modelled = cuda_model.install(monkeypatch)
    if with_library:
        cublaslt_model.install(monkeypatch, torch.float64)
    given = Given(form, bidirectional, **drawn)
    compare(given.run(modelled), given.run(reference), TOLERANCE)


PLAIN = {"bias": True, "batch_first": False, "given_state": True, "learned": True, "recompute": False}


@pytest.mark.parametrize("place", range(13))
def test_gradients_are_made_of_what_needs_them(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = Given("lengths and reset", False, **PLAIN)
    needed = [place in (index, 12) for index in range(len(given.inputs))]
    compare(given.run(cuda_model.install(monkeypatch), needed=needed), given.run(reference, needed=needed), TOLERANCE)


def test_a_gradient_is_differentiated_again(monkeypatch: pytest.MonkeyPatch) -> None:
    lstm, x = elman.LSTM(I, H, 2, bidirectional=True, proj_size=P, dtype=torch.float64), torch.randn(T, B, I, dtype=torch.float64)
    found = []
    for chosen in (cuda_model.install(monkeypatch), reference):
        monkeypatch.setattr(registry, "BACKENDS", (chosen,))
        leaves = [x.requires_grad_(), *lstm.parameters()]
        gradients = torch.autograd.grad(lstm(x)[0].sin().sum(), leaves, create_graph=True)
        found.append(torch.autograd.grad(sum(gradient.square().sum() for gradient in gradients), leaves))
    compare(*found, TOLERANCE)


def test_so_is_that_of_a_network_frozen_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BACKENDS", (cuda_model.install(monkeypatch),))
    lstm = elman.LSTM(I, H, 2, bidirectional=True, proj_size=P, dtype=torch.float64)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    found = []
    for frozen in (False, True):
        output, _ = lstm(x)
        lstm.requires_grad_(not frozen)
        (gradient,) = torch.autograd.grad(output.sin().sum(), x, create_graph=True)
        found.append([gradient, *torch.autograd.grad(gradient.square().sum(), x)])
    compare(*found, TOLERANCE)


def test_inference_mode_has_no_graph_even_where_gradients_are_enabled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BACKENDS", (cuda_model.install(monkeypatch),))
    lstm, x = elman.LSTM(I, H, proj_size=P, dtype=torch.float64), torch.randn(T, B, I, dtype=torch.float64)
    with torch.inference_mode(), torch.enable_grad():
        output, _ = lstm(x)
    assert output.is_inference()
    assert not output.requires_grad


def test_a_trace_is_the_references(monkeypatch: pytest.MonkeyPatch) -> None:
    modelled, x = cuda_model.install(monkeypatch), torch.randn(T, B, I, dtype=torch.float64)
    lstm = elman.LSTM(I, H, 2, bidirectional=True, proj_size=P, dtype=torch.float64)
    monkeypatch.delattr(run, "trace")  # which knows no projection, and would write elsewhere
    found = []
    for chosen in (modelled, reference):
        monkeypatch.setattr(registry, "BACKENDS", (chosen,))
        traced = lstm.trace(x)
        every = [traced.output, *traced.final, *traced.states.values(), *traced.gates.values()]
        found.append([*every, *torch.autograd.grad(sum(each.sin().sum() for each in every), list(lstm.parameters()))])
    compare(*found, TOLERANCE)


@pytest.mark.parametrize("starts", [False, True], ids=["zeros", "given"])
@pytest.mark.parametrize("form", FORMS)
def test_so_it_is_with_weights_that_lie_anyhow(form: str, starts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    modelled, found = cuda_model.install(monkeypatch), []
    for chosen in (modelled, reference):
        given = Given(form, True, **PLAIN | {"given_state": starts})
        used = [t.clone().requires_grad_() for t in given.inputs]
        strided = [t.t().contiguous().t() if t.dim() == 2 else t for t in used]
        rest = iter(strided)
        x = next(rest)
        states = None if given.states is None else tuple(next(rest) for _ in given.states)
        fresh = None if given.spans.fresh is None else tuple(next(rest) for _ in given.spans.fresh)
        output, finals = chosen.run(given.stack, Operands(x, states, tuple(rest), given.spans.replaced(fresh=fresh)), False)
        gradients = torch.autograd.grad([output, *finals], used, given.grads, create_graph=True, allow_unused=True)
        total = sum(gradient.square().sum() for gradient in gradients if gradient is not None)
        found.append([*gradients, *torch.autograd.grad(total, used, allow_unused=True)])
    compare(*found, TOLERANCE)


def test_a_gradient_of_nan_in_the_padding_goes_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    lstm, x = elman.LSTM(I, H, 2, bidirectional=True, proj_size=P, dtype=torch.float64), torch.randn(T, 3, I, dtype=torch.float64)
    grad = torch.randn(T, 3, 2 * P, dtype=torch.float64)
    found = []
    for chosen, padding in ((cuda_model.install(monkeypatch), torch.nan), (reference, 0.0)):
        monkeypatch.setattr(registry, "BACKENDS", (chosen,))
        output, _ = lstm(x, lengths=[4, 0, 2])
        beyond = torch.arange(T).unsqueeze(1) >= torch.tensor([4, 0, 2])
        found.append(torch.autograd.grad(output, list(lstm.parameters()), grad.masked_fill(beyond.unsqueeze(-1), padding)))
    compare(*found, TOLERANCE)


def test_the_last_outputs_are_the_final_states_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BACKENDS", (cuda_model.install(monkeypatch),))
    lstm = elman.LSTM(I, H, bidirectional=True, proj_size=P, dtype=torch.float64)
    output, (h_n, _) = lstm(torch.randn(T, B, I, dtype=torch.float64))
    assert torch.equal(h_n, torch.stack((output[-1, :, :P], output[0, :, P:])))


@pytest.mark.parametrize("starts", [False, True], ids=["zeros", "given"])
@pytest.mark.parametrize("batch_first", [False, *slow(True)])
def test_a_compiled_network_is_the_references(batch_first: bool, starts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BACKENDS", (cuda_model.install(monkeypatch),))
    lstm = elman.LSTM(I, H, 2, bidirectional=True, batch_first=batch_first, proj_size=P, dtype=torch.float64)
    x = torch.randn((B, T, I) if batch_first else (T, B, I), dtype=torch.float64)
    hx = (torch.randn(4, B, P, dtype=torch.float64), torch.randn(4, B, H, dtype=torch.float64)) if starts else None
    torch.compiler.reset()
    seen = []

    def keep(graph: torch.fx.GraphModule, _: Any) -> Any:
        seen.append(graph.graph)
        return graph.forward

    torch.compile(lstm, fullgraph=True, backend=keep)(x, hx)
    assert [node.target for node in seen[0].nodes if "elman" in str(node.target)] == [torch.ops.elman.scan] * 2
    compiled = torch.compile(lstm, fullgraph=True, backend="aot_eager")
    found = []
    for call in (compiled, lstm):
        output, finals = call(x, hx)
        loss = output.sin().sum() + sum(final.sum() for final in finals)
        found.append([output, *finals, *torch.autograd.grad(loss, list(lstm.parameters()))])
    compare(*found, TOLERANCE)
    torch.compiler.reset()


def test_so_it_is_with_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a CUDA graph is captured cannot be asked in a trace."""
    monkeypatch.setattr(registry, "BACKENDS", (cuda_model.install(monkeypatch),))
    monkeypatch.setattr(batch, "_is_captured", torch._dynamo.disable(lambda x: False))
    lstm, x = elman.LSTM(I, H, 2, bidirectional=True, proj_size=P, dtype=torch.float64), torch.randn(T, 3, I, dtype=torch.float64)
    lengths = torch.tensor([T, 0, 2])
    torch.compiler.reset()
    compiled = torch.compile(lstm, fullgraph=True, backend="eager")
    found = []
    for call in (compiled, lstm):
        output, finals = call(x, lengths=lengths)
        found.append([output, *finals, *torch.autograd.grad(output.sin().sum(), list(lstm.parameters()))])
    compare(*found, TOLERANCE)
    torch.compiler.reset()


@cuda_emulator.required
@pytest.mark.parametrize("form", ["packed and reset", *slow(*FORMS[:3])])
@pytest.mark.parametrize("dtype", [torch.float32, *slow(torch.float16, torch.bfloat16)], ids=str)
def test_the_kernels_errors_are_a_few_roundings(dtype: torch.dtype, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # As many as without a projection (test_cuda_emulated.py), and those of one more product and one more vector a step. In bfloat16 a
    # tanh has an error of a quarter of one, too: two in each of two layers, forward and backward.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    bound = ROUNDING[number_of(dtype)] * {torch.float32: 30, torch.float16: 8, torch.bfloat16: 10}[dtype]
    cuda_emulator.install(monkeypatch)
    given = Given(form, True, **PLAIN)
    given.inputs = [t.to(dtype).double() for t in given.inputs]  # so that rounding them costs nothing
    given.grads = [t.to(dtype).double() for t in given.grads]
    for one, other in zip(given.run(CudaBackend(), dtype), given.run(reference), strict=True):
        assert one is not None
        assert other is not None
        assert float((one.double() - other).norm()) <= bound * float(other.norm())


def test_a_projection_is_refused_where_calls_are_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_get_tracing_state", lambda: object())
    with FakeTensorMode():
        x = torch.empty(T, B, I, device="cuda")
    reason = CudaBackend().refuses(Stack(BY_NAME["lstm"](), I, H, proj_size=P), Operands(x, None, ()))
    assert reason == "does not run projections under torch.jit.trace"
