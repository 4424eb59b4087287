"""Calls the compiled kernels for programs with torch tensors, as ``elman.backends.call`` does for cells with kernels of their own.

They check every operand (csrc/program/contract.h) and make memory for what they write. What they cannot read as it lies is copied once they
have refused it. Nothing here knows autograd.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch

from elman.backends import kernels
from elman.backends.call import aligned_gradient, check_operands, readable_if_plain, readable_operands
from elman.backends.operands import Operands
from elman.backends.program.program import Role
from elman.backends.spans import WHOLE

if kernels.available():
    from elman import _native

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from elman.backends.call import States
    from elman.backends.program.program import Code, Program
    from elman.backends.stack import Stack


# What a stack is told by (csrc/stack.h): ``Stack.numbers``.
Numbers: TypeAlias = "tuple[object, ...]"


class Kernel(NamedTuple):
    """A program as the kernels have it.

    Attributes:
        handle: what they made of it.
        draws: whether it reads random numbers.
    """

    handle: object
    draws: bool


class Kept(NamedTuple):
    """What ``backward`` needs of a run besides its inputs and outputs; None where there is no such thing.

    Attributes:
        hidden: the lower layers' outputs, (L-1, rows, D·H). Of padded sequences only the steps they have; after a trace all of them.
        arrays: what the kernels keep of the states and of the steps, in an order of their own.
    """

    hidden: Tensor | None
    arrays: Tensor | None


def kernel_of(program: Program) -> Kernel:
    """The kernels' own form of a program, which they have checked. Made once, and stored with it."""
    found: Kernel | None = program.__dict__.get("kernel")
    if found is None:
        found = program.__dict__["kernel"] = _made(program)
    return found


def _made(program: Program) -> Kernel:
    draws = any(role is Role.DRAW for code in (program.training, program.backward) for role, _ in code.operands)
    counts = program.inputs, program.recurrents, program.states, program.draws * draws, program.gates, program.saved
    codes = (program.forward, program.training, program.backward)
    forward, training, backward = map(_text, codes)
    return Kernel(_native.program(forward, training, backward, program.products, counts, program.own, program.step_inputs), draws)


def _text(code: Code) -> tuple[object, ...]:
    return code.instructions, code.operands, code.constants, code.stages, code.temps, code.carries


def forward(
    kernel: Kernel,
    numbers: Numbers,
    operands: Operands,
    batch_first: bool,
    save: bool,
    **memory: Any,
) -> tuple[Tensor, tuple[Tensor, ...], Kept]:
    """Run a stack: the outputs, laid out as x, the final states, and with ``save`` what ``backward`` needs besides.

    Args:
        operands: of which x is (T, B, I), with batch_first (B, T, I).
        memory: to write to: ``output``, ``hidden`` and ``traced``.
    """
    last: Any = (save, False)
    try:
        first = _first(kernel, numbers, operands, batch_first)
        output, finals, *kept = _native.program_forward(kernel.handle, *first, *last, **memory)
    except (RuntimeError, TypeError):
        first = _first(kernel, numbers, readable_operands(operands) or operands, batch_first)
        output, finals, *kept = _native.program_forward(kernel.handle, *first, *last, **memory)
    return output, finals, Kept(*kept)


def run_plain(
    kernel: Kernel,
    numbers: Numbers,
    x: Tensor,
    states: States,
    params: Sequence[Tensor],
    step_inputs: tuple[Tensor, ...],
    batch_first: bool,
    threads: int,
    grad_mode: bool,
) -> Any:
    """Run whole sequences that nobody has checked: (output, finals, None, None).

    With ``grad_mode`` what is kept, if a gradient flows to any operand, comes instead, and last whether it does. What lies in another way
    than the kernels read is copied.
    """
    # By place, none of them by name, which would cost a tenth of a small kernel.
    ends = (), batch_first, threads, False, grad_mode
    try:
        return _native.program_forward(kernel.handle, numbers, params, x, states, None, None, None, step_inputs, *ends)
    except _native.ContractError:
        copied = readable_if_plain(Operands(x, states, params, WHOLE.replaced(step_inputs=step_inputs)))
        if copied is None:
            raise
        x, states, params, spans = copied  # a gradient flows to a copy where it does to what was copied
        return _native.program_forward(kernel.handle, numbers, params, x, states, None, None, None, spans.step_inputs or (), *ends)


def trace(kernel: Kernel, stack: Stack, operands: Operands, save: bool) -> tuple[Tensor, Sequence[Tensor], tuple[Tensor, ...], Kept]:
    """Run a stack by a traced program: every layer's outputs, (L, T, B, D·H); the states but the first, then the gates, at every step,
    (L·D, T, B, H) each; the final states; and what ``backward`` needs.
    """
    x = operands.x
    steps, batch, _ = x.shape
    count = len(stack.cell.states) - 1 + len(stack.cell.traced)
    outputs = x.new_empty((stack.num_layers, steps, batch, stack.output_size))
    traced = x.new_empty((count, stack.num_layers * stack.num_directions, steps, batch, stack.hidden_size)).unbind(0)
    hidden = outputs[:-1] if stack.num_layers > 1 else None
    memory = {"output": outputs[-1], "hidden": hidden, "traced": traced}
    _, finals, kept = forward(kernel, stack.numbers, operands, False, save, **memory)
    return outputs, traced, finals, kept


def backward(
    kernel: Kernel,
    numbers: Numbers,
    operands: Operands,
    batch_first: bool,
    output: Tensor,
    kept: Kept,
    grad_output: Tensor | None,
    grad_finals: Sequence[Tensor | None],
    needs_grad: Sequence[bool],
    grad_hidden: Tensor | None = None,
    grad_traced: Sequence[Tensor | None] | None = None,
) -> list[Tensor | None]:
    """The gradients of a run.

    Args:
        output, kept: what ``forward`` or ``trace`` gave; of the latter's outputs the last layer's.
        grad_output, grad_finals: the gradients of the outputs and final states; None for zeros.
        needs_grad: which gradients are made: x's, the initial states', the fresh states' (if there are any), the step inputs', then each
            parameter's.
        grad_hidden, grad_traced: after ``trace``: the gradients of the lower layers' outputs, and of the states and gates.

    Returns:
        The gradients in the order of ``needs_grad``, None where not made.
    """
    ends: Any = (grad_traced is not None, tuple(needs_grad))
    arriving: Any = (output, *kept, grad_output, grad_hidden, grad_finals, grad_traced)
    try:
        first = _first(kernel, numbers, operands, batch_first)
        found = _native.program_backward(kernel.handle, *first, *arriving, *ends)
    except (RuntimeError, TypeError):
        check_operands(operands, grad_output, tuple(grad_finals))
        first = _first(kernel, numbers, readable_operands(operands) or operands, batch_first)
        arriving = (*map(aligned_gradient, (output, *kept, grad_output, grad_hidden)), *map(_all_aligned, (grad_finals, grad_traced)))
        found = _native.program_backward(kernel.handle, *first, *arriving, *ends)
    *_, layers, directions, _, _, members, _ = numbers
    spans = operands.spans
    if spans.step_inputs and (layers, directions) != (1, 1):  # each of them has one
        first = 1 + len(operands.states or ()) + len(spans.fresh or ())
        for k in range(first, first + len(spans.step_inputs)):
            if found[k] is not None:
                found[k] = found[k].sum(1 if members else 0)  # behind the members, if there are any
    return found


def _first(kernel: Kernel, numbers: Numbers, operands: Operands, batch_first: bool) -> Any:
    """The operands that every call begins with."""
    x, states, params, spans = operands
    _, lengths, reset, fresh, step_inputs, draws = spans
    beside = step_inputs or (), (draws or ()) if kernel.draws else ()
    return numbers, params, x, states, fresh, lengths, reset, *beside, batch_first, torch.get_num_threads()


def _all_aligned(tensors: Sequence[Tensor | None] | None) -> tuple[Tensor | None, ...] | None:
    return None if tensors is None else tuple(map(aligned_gradient, tensors))
