"""A run of a cell by a backend, and its gradients, with all that a call can have: drawn at random, or as a test says."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from elman.backends import Operands, Spans, Stack, kernels
from elman.backends.native import NativeBackend
from elman.backends.program.call import kernel_of
from elman.backends.reference import REFERENCE

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from torch import Tensor

    from elman import Cell
    from elman.backends import Backend
    from elman.backends.program.program import Program

NATIVE = NativeBackend()


@dataclass(frozen=True)
class Options:
    """What of a call does not depend on the cell."""

    steps: int = 6
    batch: int = 5
    inputs: int = 4
    hidden: int = 20
    layers: int = 2
    bidirectional: bool = True
    bias: bool = True
    lengths: tuple[int, ...] | None = None
    reset: bool = False
    fresh: bool = False
    given_state: bool = True
    recompute: bool = False
    batch_first: bool = False
    draws: bool = True
    traced: bool = False

    @staticmethod
    def drawn(rng: random.Random) -> Options:
        """Any."""
        steps, batch = rng.choice([1, 3, 7]), rng.choice([1, 2, 5, 9])
        half = [rng.random() < 0.5 for _ in range(9)]
        return Options(
            steps,
            batch,
            rng.choice([1, 4, 17]),
            rng.choice([1, 3, 16, 20, 33, 130]),
            rng.choice([1, 2, 3]),
            *half[:2],
            tuple(rng.randint(0, steps) for _ in range(batch)) if rng.random() < 0.5 else None,
            *half[2:],
        )


@dataclass
class Call:
    """A stack's operands."""

    stack: Stack
    x: Tensor
    states: tuple[Tensor, ...] | None
    params: list[Tensor]
    spans: Spans
    options: Options
    results: tuple[Tensor, ...] = field(default=())

    @staticmethod
    def of(cell: Cell, options: Options, dtype: torch.dtype = torch.float64, seed: int = 0) -> Call:
        generator = torch.Generator().manual_seed(seed)
        o = options
        stack = Stack(cell, o.inputs, o.hidden, o.layers, o.bidirectional, o.bias, recompute=o.recompute)
        directions = o.layers * (2 if o.bidirectional else 1)

        def normal(*shape: int) -> Tensor:  # the same numbers in every dtype
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)

        x = normal(o.steps, o.batch, o.inputs)
        if o.batch_first:
            x = x.transpose(0, 1).contiguous().transpose(0, 1)
        params = [0.5 * normal(*shape) * (o.hidden**-0.5 if len(shape) > 1 else 1) for shape in stack.shapes]
        states = tuple(0.5 * normal(directions, o.batch, o.hidden) for _ in cell.states)
        fresh = tuple(0.5 * normal(directions, o.hidden) for _ in cell.states)
        beside = [uniform(o.steps, o.batch, *((o.hidden,) if kind == "H" else ())) for kind in cell.step_inputs.values()]
        sizes = {"step": (o.steps,), "sequence": ()}
        draws = [uniform(directions, *sizes[kind], o.batch, o.hidden) for kind in cell.draws.values()]
        reset = uniform(o.steps, o.batch) < 0.3
        spans = Spans(
            None,
            None if o.lengths is None else torch.tensor(o.lengths),
            reset if o.reset else None,
            fresh if o.reset and o.fresh else None,
            tuple(beside) if cell.step_inputs else None,
            tuple(draws) if cell.draws and o.draws else None,
        )
        return Call(stack, x, states if o.given_state else None, params, spans, options)

    @property
    def operands(self) -> Operands:
        return Operands(self.x, self.states, self.params, self.spans)

    def with_gradients(self) -> tuple[Call, list[Tensor]]:
        """The same call, with leaves that ask for a gradient."""
        leaves = [each.clone().requires_grad_() for each in self.operands.differentiable()]
        rest = iter(leaves)

        def like(old: tuple[Tensor, ...] | list[Tensor] | None) -> tuple[Tensor, ...] | None:
            return None if old is None else tuple(next(rest) for _ in old)

        x, states = next(rest), like(self.states)
        fresh, step_inputs = like(self.spans.fresh), like(self.spans.step_inputs)
        return replace(self, x=x, states=states, spans=self.spans._replace(fresh=fresh, step_inputs=step_inputs), params=list(rest)), leaves

    def run(self, backend: Backend) -> tuple[Tensor, ...]:
        """All results."""
        if self.options.traced:
            traced = backend.trace(self.stack, self.operands)
            return traced.hidden, *traced.finals, *traced.states.values(), *traced.gates.values()
        output, finals = backend.run(self.stack, self.operands, self.options.batch_first)
        return output, *finals

    def differentiate(
        self, backend: Backend, arriving: list[Tensor] | None = None, between: Callable[[], object] = lambda: None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """All results, and the gradients of all that has one, for gradients that arrive at the results. ``between``: done after forward."""
        call, leaves = self.with_gradients()
        results = call.run(backend)
        between()
        pairs = [(result, grad) for result, grad in zip(results, arriving or self.arriving(results), strict=True) if result.requires_grad]
        found = torch.autograd.grad([each for each, _ in pairs], leaves, [grad for _, grad in pairs], allow_unused=True) if pairs else ()
        grads = found or (None,) * len(leaves)
        return [each.detach() for each in results], [torch.zeros_like(t) if g is None else g for t, g in zip(leaves, grads, strict=True)]

    @staticmethod
    def arriving(results: tuple[Tensor, ...]) -> list[Tensor]:
        generator = torch.Generator().manual_seed(1)
        return [torch.randn(each.shape, generator=generator, dtype=torch.float64).to(each.dtype) for each in results]


def states_after(program: Program, *numbers: Tensor) -> list[Tensor]:
    """The states after one step without gates, of states before it, arrays of (rows, H): a sequence for each row."""
    rows, hidden = numbers[0].shape
    states = [each.unsqueeze(0).contiguous() for each in numbers]
    what = ("", 1, hidden, 0, 1, 1, False, False, 0, 0)
    _, finals, *_ = kernels._native.program_forward(
        kernel_of(program).handle, what, (), numbers[0].new_zeros(1, rows, 1), states, None, None, None, (), (), False, 1, False, False
    )
    return [each.squeeze(0) for each in finals]


def distance(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference, relative to the largest number of a tensor, or to 1."""
    assert [each.shape for each in found] == [each.shape for each in expected]
    pairs = [(a.double(), b.double()) for a, b in zip(found, expected, strict=True) if a.numel()]
    return max(float((a - b).abs().max() / (1 + b.abs().max())) for a, b in pairs)


def assert_is_the_references(call: Call, **tolerance: float) -> None:
    """Raise unless the kernels run the call, and its results and gradients are the reference's, as near as ``assert_close`` is told."""
    assert NATIVE.refuses(call.stack, call.operands) is None
    for found, expected in zip(*(call.differentiate(backend) for backend in (NATIVE, REFERENCE)), strict=True):
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, equal_nan=True, **tolerance)
