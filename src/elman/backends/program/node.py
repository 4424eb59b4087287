"""A program's run as a node of torch's graph, with its gradient: what ``elman.backends.autograd`` is for the built-in cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from elman.backends.autograd import differentiable_gradients, is_differentiated, joined
from elman.backends.node import Node, may_keep
from elman.backends.program import call
from elman.backends.reference import REFERENCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from elman.backends.operands import Operands
    from elman.backends.program.call import Kept, Kernel
    from elman.backends.spans import Spans
    from elman.backends.stack import Stack


class Run(NamedTuple):
    """What is run, beside the tensors that can be differentiated."""

    kernel: Kernel
    stack: Stack
    spans: Spans
    batch_first: bool
    traced: bool

    def forward(self, inputs: Sequence[Tensor], save: bool) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Kept]:
        """The outputs, where it is traced with the states and gates of all steps; the final states; and what is kept."""
        operands = joined(self.stack, self.spans, inputs)
        if not self.traced:
            output, finals, kept = call.forward(self.kernel, self.stack.numbers, operands, self.batch_first, save)
            return (output,), finals, kept
        outputs, traced, finals, kept = call.trace(self.kernel, self.stack, operands, save)
        return (outputs, *traced), finals, kept

    def backward(
        self,
        inputs: Sequence[Tensor],
        output: Tensor,
        kept: Kept,
        arriving: Sequence[Tensor | None],
        needs_grad: Sequence[bool],
    ) -> Sequence[Tensor | None]:
        """The gradients, of what arrives at what ``forward`` gives: the results, then the final states."""
        count = len(self.stack.cell.states)
        results, finals = arriving[:-count], arriving[-count:]
        grad_output, grad_hidden, grad_traced = results[0] if results else None, None, None
        if self.traced:
            grad_traced = results[1:]
            if grad_output is not None:
                grad_output, grad_hidden = grad_output[-1], grad_output[:-1] if self.stack.num_layers > 1 else None
        return call.backward(
            self.kernel,
            self.stack.numbers,
            joined(self.stack, self.spans, inputs),
            self.batch_first,
            output[-1] if self.traced else output,
            kept,
            grad_output,
            finals,
            needs_grad,
            grad_hidden,
            grad_traced,
        )

    def reference(self, operands: Operands) -> tuple[Tensor, ...]:
        """What the reference gives for all results."""
        if self.traced:
            traced = REFERENCE.trace(self.stack, operands)
            return traced.hidden, *traced.states.values(), *traced.gates.values(), *traced.finals
        return REFERENCE.run_as_laid_out(self.stack, operands, self.batch_first)


class ProgramRun(Node):
    """A run and its gradient. Inputs: x; the initial states if there are any; what resets start from, if it is not zeros; the step inputs;
    and the parameters. Saves beyond them what the kernels keep, and the outputs, which the caller may write into: see ``autograd.Scan``.
    ``done``: what ``Run.forward`` would give; None if it has not been computed.
    """

    @staticmethod
    def forward(ctx: Any, done: tuple[Any, ...] | None, run: Run, *inputs: Tensor) -> tuple[Tensor, ...]:
        results, finals, kept = done or run.forward(inputs, save=True)
        ctx.run = run
        ctx.save_for_backward(*inputs)
        ctx.set_materialize_grads(False)
        if may_keep():
            shared = results[0] if run.stack.single_step else results[0].detach()  # shares the memory and the count of writes to it
            ctx.saved = shared, shared._version, kept
        return finals if run.stack.single_step else (*results, *finals)

    @staticmethod
    def backward(ctx: Any, *arriving: Tensor | None) -> tuple[Tensor | None, ...]:
        run: Run = ctx.run
        inputs, needs_grad = ctx.saved_tensors, ctx.needs_input_grad[2:]
        if is_differentiated(arriving):
            return None, None, *differentiable_gradients(run.reference, run.stack, run.spans, inputs, needs_grad, arriving)
        output, version, kept = ctx.__dict__.pop("saved", (None, 0, None))
        if output is None or output._version != version:
            (output, *_), _, kept = run.forward(inputs, save=True)
        gradients = run.backward(inputs, output, kept, arriving, needs_grad)
        return None, None, *gradients
