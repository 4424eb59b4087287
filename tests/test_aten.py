"""The aten backend's run on the CPU, where torch's functions are the same: against the reference, in float64."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from cases import assert_same
from elman.backends import BACKENDS, Operands
from elman.backends.aten import AtenBackend
from elman.backends.reference import ReferenceBackend
from elman.backends.spans import WHOLE, Spans
from elman.backends.stack import Stack
from elman.cells import BY_NAME

T, B, I, H = 5, 4, 3, 6  # noqa: E741
CELLS = ("rnn_tanh", "rnn_relu", "gru", "lstm")
PACKED = Spans(torch.tensor([4, 3, 3, 1, 1]))
RAGGED = Spans(lengths=torch.tensor([3, 0, 4, 1]))  # no sequence has all steps, and one has none
aten, reference = AtenBackend(), ReferenceBackend()


class Given:
    """A stack and numbers for it, all of which want gradients."""

    def __init__(self, stack: Stack, spans: Spans = WHOLE, given_state: bool = True) -> None:
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

        self.stack, self.spans = stack, spans
        self.x = draw(T, B, I) if spans.batch_sizes is None else draw(int(spans.batch_sizes.sum()), I)
        count = stack.num_layers * stack.num_directions
        self.states = tuple(draw(count, B, width) for width in stack.state_sizes) if given_state else None
        self.params = [draw(*shape) for shape in stack.shapes]
        self.grad_outputs = [draw(*self.x.shape[:-1], stack.output_size), *(draw(count, B, width) for width in stack.state_sizes)]

    @property
    def inputs(self) -> list[Tensor]:
        return [self.x, *(self.states or ()), *self.params]

    def run(self, backend: AtenBackend | ReferenceBackend) -> list[Tensor]:
        output, finals = backend.run(self.stack, Operands(self.x, self.states, self.params, self.spans))
        return [output, *finals]

    def gradients(self, backend: AtenBackend | ReferenceBackend, create_graph: bool = False) -> list[Tensor]:
        return list(torch.autograd.grad(self.run(backend), self.inputs, self.grad_outputs, create_graph=create_graph))


def assert_all_same(got: list[Tensor], expected: list[Tensor]) -> None:
    assert len(got) == len(expected)
    for i, (one, other) in enumerate(zip(got, expected, strict=True)):
        assert_same({f"{i}": one.detach()}, {f"{i}": other.detach()}, 1e-12)


def stacks() -> list[object]:
    found = []
    for cell, (layers, bidirectional), bias, proj in product(CELLS, ((1, False), (2, True)), (False, True), (0, 2)):
        if not proj or cell == "lstm":
            stack = Stack(BY_NAME[cell](), I, H, layers, bidirectional, bias, proj)
            found.append(
                pytest.param(stack, id=f"{cell}-{layers}{'-bidirectional' * bidirectional}{'-bias' * bias}{'-projected' * bool(proj)}")
            )
    return found


@pytest.mark.parametrize("given_state", [False, True])
@pytest.mark.parametrize("spans", [WHOLE, PACKED, RAGGED], ids=["padded", "packed", "lengths"])
@pytest.mark.parametrize("stack", stacks())
def test_values_and_gradients_are_the_references(stack: Stack, spans: Spans, given_state: bool) -> None:
    given = Given(stack, spans, given_state)
    with torch.no_grad():
        assert_all_same(given.run(aten), given.run(reference))
    assert_all_same(given.gradients(aten), given.gradients(reference))


@pytest.mark.parametrize("spans", [WHOLE, PACKED, RAGGED], ids=["padded", "packed", "lengths"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_gradient_can_be_differentiated_again(cell: str, spans: Spans) -> None:
    second = []
    for backend in (aten, reference):
        given = Given(Stack(BY_NAME[cell](), I, H, 2, True), spans)
        first = given.gradients(backend, create_graph=True)
        second.append(list(torch.autograd.grad([grad.square().sum() for grad in first], [*given.inputs, *given.grad_outputs])))
    assert_all_same(*second)


@pytest.mark.parametrize("lengths", [[3, 0, 4, 1], [0, 0, 0, 0], [5, 5, 5, 5]], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_padding_is_not_read(cell: str, lengths: list[int]) -> None:
    given = Given(Stack(BY_NAME[cell](), I, H, 2, True), Spans(lengths=torch.tensor(lengths)))
    beyond, none = torch.arange(T).unsqueeze(1) >= torch.tensor(lengths), torch.tensor(lengths) == 0
    results = []
    given.grad_outputs[1:] = [grad.detach().masked_fill(none.unsqueeze(1), 0) for grad in given.grad_outputs[1:]]
    for padding in (0.0, torch.nan):
        given.x = given.x.detach().masked_fill(beyond.unsqueeze(-1), padding).requires_grad_()
        assert given.states is not None
        given.states = tuple(state.detach().masked_fill(none.unsqueeze(1), padding).requires_grad_() for state in given.states)
        given.grad_outputs[0] = given.grad_outputs[0].detach().masked_fill(beyond.unsqueeze(-1), padding)
        results.append([*[result.masked_fill(none.unsqueeze(1), 0) for result in given.run(aten)[1:]], *given.gradients(aten)])
    assert_all_same(*results)
    assert_all_same(results[1][len(given.states) :], given.gradients(reference))


@pytest.mark.parametrize("spans", [WHOLE, PACKED, RAGGED], ids=["padded", "packed", "lengths"])
@pytest.mark.parametrize("cell", CELLS)
def test_under_autocast_all_is_of_its_dtype(cell: str, spans: Spans) -> None:
    given = Given(Stack(BY_NAME[cell](), I, H, 2, True), spans)
    with torch.autocast("cpu", torch.bfloat16):
        found = given.run(aten)
    given.x, given.states = given.x.bfloat16(), tuple(state.bfloat16() for state in given.states or ())
    given.params = [param.bfloat16() for param in given.params]
    for one, other in zip(found, given.run(aten), strict=True):
        assert one.dtype is torch.bfloat16
        assert torch.equal(one, other)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_gradient_that_does_not_arrive_is_zeros(index: int) -> None:
    found = []
    for backend in (aten, reference):
        given = Given(Stack(BY_NAME["lstm"](), I, H))
        found.append(list(torch.autograd.grad(given.run(backend)[index], given.inputs, given.grad_outputs[index])))
    assert_all_same(*found)


def test_only_what_is_needed_is_differentiated() -> None:
    given = Given(Stack(BY_NAME["gru"](), I, H))
    expected = torch.autograd.grad(given.run(reference), given.params[1], given.grad_outputs)
    for t in given.inputs:
        t.requires_grad_(t is given.params[1])
    results = given.run(aten)
    for result, grad in zip(results, given.grad_outputs, strict=True):
        grad.requires_grad_(False)
        assert result.requires_grad
    torch.autograd.backward(results, given.grad_outputs)
    assert given.x.grad is None
    assert_all_same([given.params[1].grad], list(expected))


def test_a_graph_can_be_used_twice() -> None:
    given = Given(Stack(BY_NAME["lstm"](), I, H))
    results = given.run(aten)
    once = torch.autograd.grad(results, given.inputs, given.grad_outputs, retain_graph=True)
    assert_all_same(list(once), list(torch.autograd.grad(results, given.inputs, given.grad_outputs)))


def test_it_comes_between_our_kernels_and_the_reference() -> None:
    assert [backend.name for backend in BACKENDS] == ["native", "cuda", "aten", "reference"]


class OnGpu:
    """What ``refuses`` asks of a tensor on a GPU, for machines without one."""

    is_cuda = True
    dtype = torch.float64
    layout = torch.strided

    def numel(self) -> int:
        return 1


def test_it_refuses_what_torchs_functions_do_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from elman.backends import kernels

    monkeypatch.setattr(kernels, "PLAIN", kernels.PLAIN | {OnGpu})
    x, stack = OnGpu(), Stack(BY_NAME["gru"](), I, H)

    def refusal(stack: Stack = stack, x: object = x, spans: Spans = WHOLE) -> str | None:
        return aten.refuses(stack, Operands(x, None, [], spans))  # type: ignore[arg-type]

    assert refusal() is None
    assert refusal(spans=PACKED) is None
    assert refusal(x=torch.zeros(T, B, I)) == "does not run on cpu (CUDA only)"
    assert refusal(spans=RAGGED) is None
    assert refusal(spans=Spans(reset=torch.zeros(T, B, dtype=torch.bool))) == "does not run resets"
    with monkeypatch.context() as changed:
        changed.setattr(torch, "is_autocast_enabled", lambda kind: kind == "cuda")
        assert refusal() == "does not run torch.jit.trace or float64 under autocast"
    assert refusal(Stack(BY_NAME["gru"](), I, 0)) == "does not run empty tensors"
    with torch.autograd.forward_ad.dual_level():
        assert "transform" in str(refusal())
