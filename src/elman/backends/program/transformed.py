"""A program's run and its gradient under torch.func's transforms: what ``elman.backends.transforms`` is for the built-in cells.

What the kernels keep of a run lies in an order of their own, and cannot be divided among vmap's examples. So nothing is saved, and the
gradient runs forward again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch

from elman.backends.call import NOTHING_SAVED
from elman.backends.program import call

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from elman.backends.call import Saved
    from elman.backends.operands import Operands
    from elman.backends.program.call import Kernel
    from elman.backends.stack import Stack

T = TypeVar("T")


class TransformedRun(NamedTuple):
    """Runs a program, which stays that of the cell as it was."""

    kernel: Kernel

    def forward(
        self, stack: Stack, operands: Operands, batch_first: bool, save: bool, pad_saved: bool
    ) -> tuple[Tensor, tuple[Tensor, ...], Saved]:
        """The output, the final states, and nothing that is saved."""
        output, finals, _ = call.forward(self.kernel, stack.numbers, operands, batch_first, save=False)
        return output, finals, NOTHING_SAVED

    def backward(
        self,
        stack: Stack,
        operands: Operands,
        batch_first: bool,
        output: None,
        saved: Saved,
        grad_output: Tensor | None,
        grad_finals: tuple[Tensor | None, ...],
        needs_grad: tuple[bool, ...],
        pad_saved: bool,
    ) -> list[Tensor | None]:
        """The gradients of x, the initial states, the step inputs, the fresh states and the parameters, None where not needed."""
        spans = operands.spans
        if stack.members and spans.lengths is not None:  # what is kept of members must be as much, which theirs may not be
            of_each = [
                self.backward(
                    stack.of(0),
                    operands.member(member),
                    batch_first,
                    None,
                    saved,
                    None if grad_output is None else grad_output[member],
                    tuple([None if grad is None else grad[member] for grad in grad_finals]),
                    needs_grad,
                    pad_saved,
                )
                for member in range(stack.members)
            ]
            return [None if each[0] is None else torch.stack(each) for each in zip(*of_each, strict=True)]
        run = self.kernel, stack.numbers, operands, batch_first
        made, _, kept = call.forward(*run, save=True)
        first = 1 + len(operands.states or ())
        steps, freshes = len(spans.step_inputs or ()), len(spans.fresh or ())
        found = call.backward(*run, made, kept, grad_output, grad_finals, _exchanged(needs_grad, first, steps, freshes))
        return _exchanged(found, first, freshes, steps)


def _exchanged(each: Sequence[T], begin: int, first: int, second: int) -> list[T]:
    """With ``first`` of them, from the one at ``begin`` on, behind the ``second`` that follow: as fresh states and step inputs lie."""
    middle, end = begin + first, begin + first + second
    return [*each[:begin], *each[middle:end], *each[begin:middle], *each[end:]]
