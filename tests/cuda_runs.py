"""Runs of the CUDA backend on stand-ins for a GPU, in float64: a network, a form of sequences, and what the reference makes of them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import product
from random import Random
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cases import assert_same
from elman.backends import Operands
from elman.backends.cuda import run
from elman.backends.reference import ReferenceBackend
from elman.backends.spans import Spans
from elman.backends.stack import Stack
from elman.cells import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Sequence

B, I, H = 10, 3, 20  # noqa: E741 - more sequences than a tile has, and units that fill no tile
FORMS = ("whole", "lengths", "reset", "lengths and reset", "packed", "packed and reset")
KEPT = {"rnn_tanh": (), "rnn_relu": (), "gru": ("r", "z", "n"), "lstm": ("i", "f", "g", "o", "c")}
reference = ReferenceBackend()


@dataclass(frozen=True)
class Run:
    """A network, the form of its sequences, and how it is called."""

    cell: str = "rnn_tanh"
    num_layers: int = 1
    bidirectional: bool = False
    form: str = "whole"
    bias: bool = True
    batch_first: bool = False
    given_state: bool = False
    learned: bool = False
    recompute: bool = False
    hidden: int = H
    steps: int = 5
    sequences: int = B

    def __str__(self) -> str:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return "-".join(str(value) if not isinstance(value, bool) else name * value for name, value in values.items())

    @property
    def stack(self) -> Stack:
        return Stack(BY_NAME[self.cell](), I, self.hidden, self.num_layers, self.bidirectional, self.bias, 0, self.recompute)


class Given:
    """Numbers for a run: x as the backend takes it, states, spans, parameters."""

    def __init__(self, case: Run) -> None:
        stack = self.stack = case.stack
        generator = torch.Generator().manual_seed(0)
        self.batch_first = case.batch_first and "packed" not in case.form

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        T, B = case.steps, case.sequences
        lengths = torch.tensor([3, 0, 5, 1, 4, 4, 0, 2, 1, 3])[:B].clamp_max(T)
        batch_sizes = (lengths.clamp_min(1) > torch.arange(T).unsqueeze(1)).sum(1) if "packed" in case.form else None
        # As one with batch_first lies: a reset's strides are anybody's.
        reset = (draw(B, 2 * T) > 0.3)[:, ::2].t() if "reset" in case.form else None
        self.x = draw(T, B, I) if batch_sizes is None else draw(int(batch_sizes.sum()), I)
        if self.batch_first:
            self.x = self.x.transpose(0, 1).contiguous()
        count = stack.num_layers * stack.num_directions
        self.states = tuple(draw(count, B, stack.hidden_size) for _ in stack.cell.states) if case.given_state else None
        self.params = [0.5 * draw(*shape) for shape in stack.shapes]
        fresh = tuple(draw(count, stack.hidden_size) for _ in stack.cell.states) if case.learned and reset is not None else None
        self.spans = Spans(batch_sizes, lengths if "lengths" in case.form else None, reset, fresh)
        self.grad_output = draw(*self.x.shape[:-1], stack.output_size)
        self.grad_finals = tuple(draw(count, B, stack.hidden_size) for _ in stack.cell.states)
        self.grad_hidden = draw(stack.num_layers, T, B, stack.output_size)
        self.grad_steps = {name: draw(count, T, B, stack.hidden_size) for name in KEPT[case.cell]}

    @property
    def inputs(self) -> list[Tensor]:
        return [self.x, *(self.states or ()), *(self.spans.fresh or ()), *self.params]

    def names(self) -> list[str]:
        of_states = [f"initial {i}" for i, _ in enumerate(self.states or ())] + [f"fresh {i}" for i, _ in enumerate(self.spans.fresh or ())]
        return ["x", *of_states, *(f"parameter {i}" for i, _ in enumerate(self.params))]

    def call(self) -> tuple[Stack, Operands]:
        return self.stack, Operands(self.x, self.states, self.params, self.spans)

    def expected(self, grad_output: Tensor | None, grad_finals: Sequence[Tensor | None]) -> tuple[list[Tensor], list[Tensor | None]]:
        """Outputs and final states, and the gradients of all inputs, by the reference."""
        for t in self.inputs:
            t.requires_grad_()
        results = reference.run_as_laid_out(*self.call(), self.batch_first)
        return self._gradients(results, (grad_output, *grad_finals))

    def expected_trace(self) -> tuple[list[Tensor], list[Tensor | None]]:
        for t in self.inputs:
            t.requires_grad_()
        traced = reference.trace(*self.call())
        names = list(self.grad_steps)
        return self._gradients(
            [traced.hidden, *traced.finals, *({**traced.states, **traced.gates}[name] for name in names)],
            (self.grad_hidden, *self.grad_finals, *(self.grad_steps[name] for name in names)),
        )

    def _gradients(self, results: list[Tensor], grad_outputs: Sequence[Tensor | None]) -> tuple[list[Tensor], list[Tensor | None]]:
        pairs = [(result, grad) for result, grad in zip(results, grad_outputs, strict=True) if grad is not None]
        outputs, grads = zip(*pairs, strict=True)
        gradients = torch.autograd.grad(outputs, self.inputs, grads, allow_unused=True, materialize_grads=True)
        for t in self.inputs:
            t.requires_grad_(False)
        return [result.detach() for result in results], list(gradients)

    def compare(self, got: Sequence[Tensor | None], expected: Sequence[Tensor | None]) -> None:
        """Raise unless the gradients are the same."""
        for name, one, other in zip(self.names(), got, expected, strict=True):
            assert one is not None, name
            assert_same({name: one}, {name: other}, 1e-12)


def runs() -> list[Run]:
    """Cells, layers, directions and forms in every way; the rest is drawn, the same each time."""
    random = Random(0)
    found = []
    for cell, layers, bidirectional, form in product(KEPT, (1, 2), (False, True), FORMS):
        bias, batch_first, given_state, learned, recompute = (random.random() < 0.5 for _ in range(5))
        found.append(Run(cell, layers, bidirectional, form, bias, batch_first, given_state, learned, recompute))
    return found


def check_run(case: Run) -> None:
    """Raise unless a run's results and gradients are the reference's."""
    given = Given(case)
    expected, gradients = given.expected(given.grad_output, given.grad_finals)
    output, finals, saved = run.forward(*given.call(), given.batch_first, save=True)
    assert_same({"output": output}, {"output": expected[0]}, 1e-12)
    for final, each in zip(finals, expected[1:], strict=True):
        assert_same({"final": final}, {"final": each}, 1e-12)
    needs = [True] * len(given.inputs)
    got = run.backward(*given.call(), given.batch_first, output, saved, given.grad_output, given.grad_finals, needs)
    given.compare(got, gradients)


def moved(numbers: Tensor, at: int) -> Tensor:
    """The same numbers, so many of them behind where an allocator puts them."""
    room = torch.full((at + numbers.numel(),), torch.nan, dtype=numbers.dtype)
    return room[at:].view(numbers.shape).copy_(numbers)
