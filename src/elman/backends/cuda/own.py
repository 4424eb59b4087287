"""Cells of one's own on the GPU, by their programs: which calls the kernels run, and the node of torch's graph that they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch._C import _get_tracing_state

from elman.backends import kernels
from elman.backends.autograd import joined, of_node
from elman.backends.cuda import run, source
from elman.backends.kernel_backend import has_gradient, is_recorded, own_spans, saves
from elman.backends.program import autocast, operator
from elman.backends.program.lookup import program_of
from elman.backends.program.node import ProgramRun
from elman.backends.program.stand_in import NotRecordedError
from elman.backends.reference import REFERENCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from elman.backends.call import Saved
    from elman.backends.cuda.shape import CellKernel
    from elman.backends.operands import Operands
    from elman.backends.spans import Spans
    from elman.backends.stack import Stack


def refuses(stack: Stack, operands: Operands) -> str | None:
    """Why the kernels do not run a cell of one's own, whatever its size and the device. Asked before ``kernel_of``."""
    x, spans = operands.x, operands.spans
    if _get_tracing_state() is not None:
        return "does not run a cell of your own under torch.jit.trace"
    if stack.members:
        return "does not run ensembles of cells of your own"
    dtype, draws = _asked_of(x), spans.draws is not None
    reason: str | None
    if is_recorded():
        if spans.batch_sizes is not None:
            return "does not run a PackedSequence through a cell of your own under torch.compile, torch.export or a torch mode"
        if not kernels.available():
            return "does not run a cell of your own under torch.compile, torch.export or a torch mode without the kernels for the CPU"
        _, reason = operator.described(stack, dtype, draws)
    else:
        if spans.batch_sizes is not None and (spans.step_inputs or draws):
            return "does not run a PackedSequence with step inputs or random numbers (pass a padded tensor and lengths= instead)"
        try:
            reason = source.refuses(program_of(stack.cell, dtype, draws, units=stack.hidden_size))
        except NotRecordedError as error:
            reason = str(error)
    if reason or not torch.is_autocast_enabled("cuda"):
        return reason or None
    return autocast.refusal(stack, operands)


def text_of(stack: Stack, x: Tensor, spans: Spans) -> str:
    """The program's text, of a recorded call that is not refused."""
    return operator.described(stack, _asked_of(x), spans.draws is not None)[0]


def _asked_of(x: Tensor) -> torch.dtype:
    """Of which dtype a program is asked for: see ``program_of``."""
    return torch.float32 if x.dtype is torch.float32 and not torch.is_autocast_enabled("cuda") else torch.bfloat16


class _Run(NamedTuple):
    """What is run, beside the tensors that can be differentiated: what ``program.node.Run`` is on the CPU."""

    kernel: CellKernel
    stack: Stack
    spans: Spans
    batch_first: bool

    def forward(self, inputs: Sequence[Tensor], save: bool) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Saved]:
        operands = joined(self.stack, self.spans, inputs)
        output, finals, saved = run.forward_by(self.kernel, self.stack, operands, self.batch_first, save)
        return (output,), finals, saved

    def backward(
        self,
        inputs: Sequence[Tensor],
        output: Tensor,
        saved: Saved,
        arriving: Sequence[Tensor | None],
        needs_grad: Sequence[bool],
    ) -> Sequence[Tensor | None]:
        grad_output, *grad_finals = arriving
        ends = (output, saved, grad_output, tuple(grad_finals), needs_grad)
        return run.backward_by(self.kernel, self.stack, joined(self.stack, self.spans, inputs), self.batch_first, *ends)

    def reference(self, operands: Operands) -> tuple[Tensor, ...]:
        return REFERENCE.run_as_laid_out(self.stack, operands, self.batch_first)


def run_own(stack: Stack, operands: Operands, batch_first: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
    """``Backend.run``, of a call that is not refused."""
    if torch.is_autocast_enabled("cuda"):
        # As on the CPU: the kernels compute in float32, and the results have the dtypes that the step gives.
        every, last = autocast.result_dtypes(stack, operands)
        with torch.autocast("cuda", enabled=False):
            output, finals = run_own(stack, operands.to(torch.float32), batch_first)
        return output.to(every[0]), autocast.in_dtypes(last, finals)
    batch_first = batch_first and operands.spans.batch_sizes is None
    operands = operands.time_first(batch_first).without_unread()
    spans, inputs = operands.spans, operands.differentiable()
    if is_recorded():
        output, finals = operator.run(stack, operands, batch_first, saves(inputs))
        return output.transpose(0, 1) if batch_first else output, finals
    kernel = run.kernel_of(stack, spans.draws is not None)
    if has_gradient(inputs):
        output, finals = of_node(stack, ProgramRun.apply(None, _Run(kernel, stack, own_spans(spans), batch_first), *inputs))  # type: ignore[no-untyped-call]
    else:
        output, finals, _ = run.forward_by(kernel, stack, operands, batch_first, save=False)
    return output.transpose(0, 1) if batch_first else output, tuple(finals)
