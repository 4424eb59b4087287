"""A program's run and its gradient under torch.func's transforms: what ``elman.backends.call`` is there for the built-in cells.

What the kernels keep of a run lies in an order of their own, and cannot be divided among vmap's examples. So nothing is saved, and the
gradient runs forward again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from elman.backends.call import NOTHING_SAVED
from elman.backends.program import call
from elman.backends.program.lookup import program_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from elman.backends.call import Saved, States
    from elman.backends.program.call import Kept
    from elman.backends.spans import Spans
    from elman.backends.stack import Stack

T = TypeVar("T")


def forward(
    stack: Stack, x: Tensor, states: States, params: Sequence[Tensor], spans: Spans, batch_first: bool, save: bool, pad_saved: bool
) -> tuple[Tensor, tuple[Tensor, ...], Saved]:
    """The output, the final states, and nothing that is saved."""
    output, finals, _ = _run(stack, x, states, params, spans, batch_first, save=False)
    return output, finals, NOTHING_SAVED


def backward(
    stack: Stack,
    x: Tensor,
    states: States,
    params: tuple[Tensor, ...],
    spans: Spans,
    batch_first: bool,
    output: None,
    saved: Saved,
    grad_output: Tensor | None,
    grad_finals: tuple[Tensor | None, ...],
    needs_grad: tuple[bool, ...],
    pad_saved: bool,
) -> list[Tensor | None]:
    """The gradients of x, the initial states, the step inputs, the fresh states and the parameters, None where not needed."""
    made, _, kept = _run(stack, x, states, params, spans, batch_first, save=True)
    kernel = call.kernel_of(program_of(stack.cell, x.dtype))
    operands = kernel, stack.numbers, x, states, params, spans, batch_first
    first = 1 + len(states or ())
    steps, freshes = len(spans.step_inputs or ()), len(spans.fresh or ())
    found = call.backward(*operands, made, kept, grad_output, grad_finals, _exchanged(needs_grad, first, steps, freshes))
    return _exchanged(found, first, freshes, steps)


def _exchanged(each: Sequence[T], begin: int, first: int, second: int) -> list[T]:
    """With ``first`` of them, from the one at ``begin`` on, behind the ``second`` that follow: as fresh states and step inputs lie."""
    middle, end = begin + first, begin + first + second
    return [*each[:begin], *each[middle:end], *each[begin:middle], *each[end:]]


def _run(
    stack: Stack, x: Tensor, states: States, params: Sequence[Tensor], spans: Spans, batch_first: bool, save: bool
) -> tuple[Tensor, tuple[Tensor, ...], Kept]:
    kernel = call.kernel_of(program_of(stack.cell, x.dtype))
    return call.forward(kernel, stack.numbers, x, states, params, spans, batch_first, save)
