"""Runs cells without kernels of their own, by their programs: what the native backend does with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch._C import _are_functorch_transforms_active, _get_tracing_state

from elman.backends import transforms
from elman.backends.autograd import apart, of_node
from elman.backends.kernel_backend import has_gradient, is_recorded, own_spans, saves
from elman.backends.program import autocast, call, operator
from elman.backends.program.lookup import program_of
from elman.backends.program.node import ProgramRun, Run
from elman.backends.program.stand_in import NotRecordedError
from elman.backends.program.transformed import TransformedRun
from elman.backends.savable import savable
from elman.backends.spans import WHOLE, Spans, Traced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from elman.backends.operands import Operands
    from elman.backends.program.call import Kernel
    from elman.backends.stack import Stack


_WITH_STEP_INPUTS = Spans(step_inputs=())  # as a node keeps them (``own_spans``)


def refusal(stack: Stack, operands: Operands) -> str | None:
    """Why a stack does not run by its cell's program; None if it does. Does not repeat the checks that apply to all cells."""
    x, spans = operands.x, operands.spans
    if _get_tracing_state() is not None:
        return "does not run a cell of your own under torch.jit.trace"
    if spans.batch_sizes is not None:
        return "does not run packed sequences of a cell of your own"
    if _are_functorch_transforms_active() and spans.draws is not None:
        return "does not run random numbers of a cell of your own under torch.func's transforms"
    autocasts = torch.is_autocast_enabled("cpu")
    dtype = torch.bfloat16 if autocasts or x.dtype is torch.float16 else x.dtype
    if is_recorded():
        _, why_not = operator.described(stack, dtype, spans.draws is not None)
        if why_not:
            return why_not
    else:
        try:
            program_of(stack.cell, dtype, spans.draws is not None, units=stack.hidden_size)
        except NotRecordedError as error:
            return str(error)
    return autocast.refusal(stack, operands) if autocasts else None


def run(stack: Stack, operands: Operands, batch_first: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
    """``Backend.run``, of a call that is not refused, in float32 or float64, or under autocast."""
    if torch.is_autocast_enabled("cpu"):
        every, last = autocast.result_dtypes(stack, operands)
        with torch.autocast("cpu", enabled=False):
            output, finals = run(stack, operands.to(torch.float32), batch_first)
        return output.to(every[0]), autocast.in_dtypes(last, finals)
    time, batch = stack.lead, stack.lead + 1
    operands = operands.time_first(batch_first, time).without_unread()
    inputs = operands.differentiable()
    if _are_functorch_transforms_active():
        program = TransformedRun(_kernel(stack, operands, traced=False))
        output, finals = transforms.run(stack, operands, batch_first, program)
        return output.transpose(time, batch) if batch_first else output, finals
    if is_recorded():
        output, finals = operator.run(stack, operands, batch_first, saves(inputs))
        return output.transpose(time, batch) if batch_first else output, finals
    kernel = _kernel(stack, operands, traced=False)
    if has_gradient(inputs):
        node = Run(kernel, stack, own_spans(operands.spans), batch_first, traced=False)
        output, finals = of_node(stack, ProgramRun.apply(None, node, *inputs))  # type: ignore[no-untyped-call]
    else:
        output, finals, _ = call.forward(kernel, stack.numbers, operands, batch_first, save=False)
    return output.transpose(time, batch) if batch_first else output, tuple(finals)


def trace(stack: Stack, operands: Operands) -> Traced:
    """``Backend.trace``, of a call that is not refused."""
    if torch.is_autocast_enabled("cpu"):
        return _trace_under_autocast(stack, operands)
    if operands.x.dtype is torch.bfloat16:
        return trace(stack, operands.to(torch.float32)).to(torch.bfloat16)
    operands = operands.without_unread()
    kernel, inputs = _kernel(stack, operands, traced=True), operands.differentiable()
    others = len(stack.cell.states) - 1
    if has_gradient(inputs):
        outputs, *rest = ProgramRun.apply(None, Run(kernel, stack, own_spans(operands.spans), False, traced=True), *inputs)  # type: ignore[no-untyped-call]
        steps, finals = rest[: -others - 1], apart(rest[-others - 1 :])
    else:
        outputs, steps, finals, _ = call.trace(kernel, stack, operands, save=False)
    return Traced(
        outputs,
        finals,
        dict(zip(stack.cell.states[1:], steps[:others], strict=True)),
        dict(zip(stack.cell.traced, steps[others:], strict=True)),
    )


def _trace_under_autocast(stack: Stack, operands: Operands) -> Traced:
    every, last = autocast.result_dtypes(stack, operands)
    with torch.autocast("cpu", enabled=False):
        traced = trace(stack, operands.to(torch.float32))
    count = len(stack.cell.states)
    others, gates = tuple(traced.states.values()), tuple(traced.gates.values())
    return Traced(
        traced.hidden.to(every[0]),
        autocast.in_dtypes(last, traced.finals),
        dict(zip(traced.states, autocast.in_dtypes(every[1:count], others), strict=True)),
        dict(zip(traced.gates, autocast.in_dtypes(every[count:], gates), strict=True)),
    )


def run_unchecked(
    stack: Stack,
    x: Tensor,
    states: tuple[Tensor, ...] | None,
    params: Sequence[Tensor],
    batch_first: bool,
    step_inputs: tuple[Tensor, ...],
) -> tuple[Tensor, tuple[Tensor, ...]] | None:
    """``Backend.run_unchecked``, of x with the stack's axes on the CPU, that nobody watches and autocast does not change."""
    if x.dtype not in (torch.float32, torch.float64):
        return None
    try:
        kernel = call.kernel_of(program_of(stack.cell, x.dtype, units=stack.hidden_size))
    except NotRecordedError:
        return None
    threads, grad_mode = torch.get_num_threads(), torch.is_grad_enabled()
    try:
        output, finals, *rest = call.run_plain(kernel, stack.numbers, x, states, params, step_inputs, batch_first, threads, grad_mode)
    except (RuntimeError, TypeError):  # an operand does not fit
        return None
    if not grad_mode or not rest.pop():
        return output, finals
    node = Run(kernel, stack, _WITH_STEP_INPUTS if step_inputs else WHOLE, batch_first, traced=False)
    done = (output,), finals, call.Kept(*rest)
    own = map(savable, (x, *(states or ()), *step_inputs))
    return of_node(stack, ProgramRun.apply(done, node, *own, *params))  # type: ignore[no-untyped-call]


def _kernel(stack: Stack, operands: Operands, traced: bool) -> Kernel:
    return call.kernel_of(program_of(stack.cell, operands.x.dtype, operands.spans.draws is not None, traced, stack.hidden_size))
