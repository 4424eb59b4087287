"""The kernels as nodes of torch's graph: a run, a trace, and their gradients.

A gradient that is itself differentiated is computed by the reference, from the same inputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from elman.backends import call, operator
from elman.backends.node import Node, may_keep
from elman.backends.operands import Operands
from elman.backends.reference import REFERENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from elman.backends.spans import Spans
    from elman.backends.stack import Stack


class Scan(Node):
    """A run and its gradient. Inputs: x, laid out as for ``call.forward``; the initial states, if any; the states that resets start
    from, if not zeros; and the parameters. ``done``: what ``call.forward`` has given of them; None if it has not been called.

    Besides the inputs it saves the outputs of every layer and the values that the cell needs of each step. The last layer's outputs are the
    caller's own tensor, but for a single step, which gives its final states alone. If the caller writes into it, as torch.nn allows, the
    gradient runs the network once more. It also does so if hooks manage the saved tensors (checkpointing, offloading), since whatever they
    do not see would stay in memory, and if a graph is used twice.
    """

    @staticmethod
    def forward(
        ctx: Any, done: tuple[Any, ...] | None, stack: Stack, spans: Spans, batch_first: bool, x: Tensor, *rest: Tensor
    ) -> tuple[Tensor, ...]:
        if done is None:
            done = operator.kernels_of(x).forward(stack, joined(stack, spans, (x, *rest)), batch_first, save=True)
        output, finals, saved = done
        ctx.run = stack, spans, batch_first
        ctx.save_for_backward(x, *rest)
        ctx.set_materialize_grads(False)
        if may_keep():
            shared = output if stack.single_step else output.detach()  # shares the memory and the count of writes to it
            ctx.saved = shared, shared._version, saved
        return finals if stack.single_step else (output, *finals)

    @staticmethod
    def backward(ctx: Any, *arriving: Tensor | None) -> tuple[Tensor | None, ...]:
        stack, spans, batch_first = ctx.run
        grad_output, grad_finals = (None, arriving) if stack.single_step else (arriving[0], arriving[1:])
        inputs = ctx.saved_tensors
        needs_grad = ctx.needs_input_grad[4:]
        if is_differentiated(arriving):

            def again(operands: Operands) -> tuple[Tensor, ...]:
                return REFERENCE.run_as_laid_out(stack, operands, batch_first)

            return None, None, None, None, *differentiable_gradients(again, stack, spans, inputs, needs_grad, arriving)
        operands = joined(stack, spans, inputs)
        of_device = operator.kernels_of(operands.x)
        output, version, saved = ctx.__dict__.pop("saved", (None, 0, None))
        if output is None or output._version != version:
            output, _, saved = of_device.forward(stack, operands, batch_first, save=True)
        gradients = of_device.backward(stack, operands, batch_first, output, saved, grad_output, grad_finals, needs_grad)
        return None, None, None, None, *gradients


class Trace(Node):
    """A trace and its gradient: all outputs, (L, T, B, D·H), all values that the cell saves, (L·D, T, B, K, H), and the final states.
    Inputs as for ``Scan``.
    """

    @staticmethod
    def forward(ctx: Any, stack: Stack, spans: Spans, x: Tensor, *rest: Tensor) -> tuple[Tensor | None, ...]:
        outputs, finals, saved = operator.kernels_of(x).trace(stack, joined(stack, spans, (x, *rest)))
        ctx.run = stack, spans
        ctx.save_for_backward(x, *rest)
        ctx.set_materialize_grads(False)
        if may_keep():
            shared = [t.detach() for t in (outputs, saved.steps) if t is not None]
            ctx.saved = shared, [t._version for t in shared]
        return outputs, saved.steps, *finals

    @staticmethod
    def backward(
        ctx: Any, grad_outputs: Tensor | None, grad_steps: Tensor | None, *grad_finals: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        stack, spans = ctx.run
        inputs = ctx.saved_tensors
        needs_grad = ctx.needs_input_grad[2:]
        if is_differentiated((grad_outputs, grad_steps, *grad_finals)):

            def again(operands: Operands) -> tuple[Tensor | None, ...]:
                traced = REFERENCE.trace(stack, operands)
                # What is saved without a name gets no gradient.
                named = {**traced.states, **traced.gates}
                steps = [named[name] if name else torch.zeros_like(named[stack.cell.gates[0]]) for name in stack.cell.saved]
                stacked = None if grad_steps is None else torch.stack(steps, -2).to(grad_steps.dtype)
                return traced.hidden, stacked, *traced.finals

            return None, None, *differentiable_gradients(again, stack, spans, inputs, needs_grad, (grad_outputs, grad_steps, *grad_finals))
        operands = joined(stack, spans, inputs)
        of_device = operator.kernels_of(operands.x)
        shared, versions = ctx.__dict__.pop("saved", ((), ()))
        if not shared or [t._version for t in shared] != versions:
            outputs, _, saved = of_device.trace(stack, operands)
            shared = [t for t in (outputs, saved.steps) if t is not None]
        outputs, steps = (*shared, None)[:2]
        saved = call.Saved(outputs[:-1] if stack.num_layers > 1 else None, steps, None)
        grad_hidden = None if grad_outputs is None or stack.num_layers == 1 else grad_outputs[:-1]
        gradients = of_device.backward(
            stack,
            operands,
            False,
            outputs[-1],
            saved,
            None if grad_outputs is None else grad_outputs[-1],
            grad_finals,
            needs_grad,
            call.Saved(grad_hidden, grad_steps, None),
            pad_saved=True,
        )
        return None, None, *gradients


def of_node(stack: Stack, results: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The output and the final states that a node has given, laid out as it gives them: for a single step the states alone."""
    return results[0], apart(results if stack.single_step else results[1:]) if len(results) > 1 else results


def apart(finals: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Final states of a node with several results, each behind a node of its own.

    torch calls the hooks of all results of a node, with None for one that no gradient reaches. A state is often such a one.
    """
    return tuple([final.clone() for final in finals])


def joined(stack: Stack, spans: Spans, inputs: Sequence[Tensor]) -> Operands:
    """The operands of a call, of ``Operands.differentiable`` and ``own_spans``."""
    x, *rest = inputs
    states = len(stack.cell.states)
    begin = len(rest) - len(stack.shapes)
    beside = begin if spans.step_inputs is None else begin - len(stack.cell.step_inputs)
    middle = beside if spans.fresh is None else beside - states
    whole = spans if spans.fresh is None else spans.replaced(fresh=tuple(rest[middle:beside]))
    whole = whole if spans.step_inputs is None else whole.replaced(step_inputs=tuple(rest[beside:begin]))
    return Operands(x, tuple(rest[:middle]) or None, tuple(rest[begin:]), whole)


def is_differentiated(gradients: Sequence[Tensor | None]) -> bool:
    """Whether a gradient is computed under something that differentiates or maps it in turn."""
    if may_be_differentiated():
        return True
    is_batched = torch._C._functorch.is_legacy_batchedtensor
    return any(g is not None and is_batched(g) for g in gradients)


def may_be_differentiated() -> bool:
    """Whether something may differentiate what is computed now."""
    return torch.is_grad_enabled() or forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def differentiable_gradients(
    run: Callable[[Operands], Sequence[Tensor | None]],
    stack: Stack,
    spans: Spans,
    inputs: tuple[Tensor, ...],
    needs_grad: Sequence[bool],
    gradients: tuple[Tensor | None, ...],
) -> list[Tensor | None]:
    """The gradients from the reference: where something differentiates again, as functions of the inputs and the outputs' gradients.

    ``run`` returns the results to be differentiated.
    """
    create_graph = may_be_differentiated()
    with torch.enable_grad():
        inputs = tuple([differentiable_view(t) if needed else t for t, needed in zip(inputs, needs_grad, strict=True)])
        results = run(joined(stack, spans, inputs))
        pairs = [(o, g) for o, g in zip(results, gradients, strict=True) if o is not None and o.requires_grad and g is not None]
        targets = [t for t, needed in zip(inputs, needs_grad, strict=True) if needed]
        found: Sequence[Tensor | None] = [None] * len(targets)
        if pairs:
            of_results, given = zip(*pairs, strict=True)
            found = torch.autograd.grad(of_results, targets, given, create_graph=create_graph, allow_unused=True)
        # Zeros where there is none, as the kernels give them.
        grads = iter([torch.zeros_like(t) if grad is None else grad for t, grad in zip(targets, found, strict=True)])
        return [next(grads) if needed else None for needed in needs_grad]


def differentiable_view(tensor: Tensor) -> Tensor:
    """A view of its own of a tensor that a gradient is needed of, so that a tensor that serves twice gets each use's gradient once.

    It requires a gradient even if the tensor has been frozen since the forward pass, whose hooks still expect one.
    """
    view = tensor.view_as(tensor)
    if not view.requires_grad:
        view.requires_grad = True  # torch.func's transforms refuse requires_grad_()
    return view
