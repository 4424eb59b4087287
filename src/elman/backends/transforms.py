"""The kernels under torch.func's transforms: vmap, grad, vjp, jacrev, in any order.

A run is a node of torch's graph, and so is its gradient; both have a vmap rule. Examples that share their parameters become one
batch. Where each has parameters of its own, they become the members of an ensemble, which is also one call. The gradients of shared
parameters for each example come from the gate gradients of one batch (``example_gradients``). A second derivative is the reference's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack, get_unwrapped, is_functorch_wrapped_tensor

from elman.backends import operator
from elman.backends.call import Saved
from elman.backends.example_gradients import can_split, example_gradients
from elman.backends.fold import Ensemble, Fold, Form, NodeOperands, Tensors, split
from elman.backends.levels import apply
from elman.backends.node import Node
from elman.backends.reference_gradient import reference_gradient

if TYPE_CHECKING:
    from collections.abc import Sequence

    from elman.backends.operands import Operands
    from elman.backends.program.transformed import TransformedRun
    from elman.backends.stack import Stack


def refusal() -> str | None:
    """Why the kernels do not run under the transforms that are active; None if they do."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() or torch._C._get_tracing_state() is not None:
        return "does not run under torch.func's transforms where operators are recorded"
    kinds = [interpreter.key() for interpreter in get_interpreter_stack() or ()]
    if TransformType.Functionalize in kinds:
        return "does not run under torch.func.functionalize"
    if kinds.count(TransformType.Grad) > 1:
        return "does not run under nested gradients"
    return None


def run(stack: Stack, operands: Operands, batch_first: bool, program: TransformedRun | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a stack as ``call.forward`` does: the output and the final states. ``program``: see ``Form``."""
    x, states, params, spans = operands
    starts, fresh = (*(states or ()), *(spans.step_inputs or ())), spans.fresh or ()
    save = _is_differentiated(operands.differentiable())
    batch_sizes, lengths, reset = spans.copies() if save else spans.borders()
    of_node = NodeOperands(x, batch_sizes, lengths, reset, starts, fresh, tuple(params))
    form = Form(stack, batch_first, len(starts), len(fresh), save, program=program)
    output, *finals = cast("tuple[Tensor, ...]", apply(Run, form, *of_node.flat())[: 1 + len(stack.state_sizes)])
    return output, tuple(finals)


def _kernels(form: Form, x: Tensor) -> Any:
    return form.program or operator.kernels_of(x)


def _is_differentiated(tensors: Tensors) -> bool:
    """Whether a gradient flows to any of these tensors, at any level of the transforms."""
    for t in tensors if torch.is_grad_enabled() else ():
        while t is not None:
            if t.requires_grad:
                return True
            t = get_unwrapped(t) if is_functorch_wrapped_tensor(t) else None
    return False


class Run(Node):
    """A run. Inputs: the form, and the operands. Results: the output, the final states, and, to save, the output once more (the caller may
    write into the first) and what ``call.Saved`` calls hidden, (L-1, T, B, D·H) or packed, and steps, (L·D, T, B, K, H) or packed.
    """

    @staticmethod
    def forward(form: Form, *flat: Tensor | None) -> Tensors:
        stack, o = form.stack, NodeOperands.of(form, flat)
        save = form.save and not stack.recompute and form.program is None
        output, finals, saved = _kernels(form, o.x).forward(stack, o.of_call(form), form.batch_first, save=save, pad_saved=True)
        hidden, steps = saved.hidden, saved.steps
        if o.batch_sizes is None:
            hidden, steps = (None if t is None else _with_steps(form, o.x, t) for t in (hidden, steps))
        return output, *finals, output.clone() if save else None, hidden, steps

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], outputs: Tensors) -> None:
        ctx.form, *flat = inputs
        ctx.save_for_backward(*flat, *outputs[-3:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[-ctx.form.count :]
        form = replace(ctx.form, needs_grad=(needs[0], *needs[4:]))
        grad_x, *others = apply(Gradient, form, *ctx.saved_tensors, *gradients[:-3])
        return None, grad_x, None, None, None, *others

    @staticmethod
    def vmap(size: int, dims: Sequence[int | None], form: Form, *flat: Tensor | None) -> tuple[Tensors, tuple[int | None, ...]]:
        if _differ(form, dims):
            return _as_members(Run, size, dims, form, flat)
        fold = Fold(size, form, flat[1] is not None)
        results = apply(Run, form, *fold.operands(flat, dims))
        return fold.undo(results, (fold.x, *([fold.state] * len(form.stack.state_sizes)), fold.x, fold.saved, fold.saved))


class Gradient(Node):
    """The gradient of a run. Inputs: the form; the operands; the last three results of ``Run``; the gradients of the output and the final
    states, None for zeros. Results: as ``call.backward``; with ``form.examples`` those of the parameters have an axis of examples first, or
    behind that of an ensemble's members.
    """

    @staticmethod
    def forward(form: Form, *flat: Any) -> Tensors:
        o = NodeOperands.of(form, flat)
        output, hidden, steps, grad_output, *grad_finals = flat[form.count :]
        stack = replace(form.stack, recompute=False) if form.stack.recompute else form.stack
        rows = 1 + stack.lead
        saved = Saved(None if hidden is None else hidden.flatten(rows, -2), None if steps is None else steps.flatten(rows, -3), None)
        # It was not told to save, or keeps too little: it runs again. A program does so by itself.
        if output is None and form.program is None:
            output, _, saved = _kernels(form, o.x).forward(stack, o.of_call(form), form.batch_first, save=True, pad_saved=True)
        ours = 1 + form.starts
        needs = form.needs_grad
        if form.examples:
            needs = (*needs[:ours], *([False] * len(needs[ours:])), True)
        gradients = _kernels(form, o.x).backward(
            stack,
            o.of_call(form),
            form.batch_first,
            output,
            saved,
            grad_output,
            tuple(grad_finals),
            needs,
            pad_saved=True,
        )
        if not form.examples:
            return tuple(gradients)
        gates = _with_steps(form, o.x, cast("Tensor", gradients[-1]))
        hidden = None if saved.hidden is None else _with_steps(form, o.x, saved.hidden)
        return *gradients[:-1][:ours], *([None] * form.freshes), *example_gradients(form, o, output, hidden, gates)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], outputs: Tensors) -> None:
        ctx.form, *flat = inputs
        ctx.save_for_backward(*flat)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        form, flat = ctx.form, ctx.saved_tensors
        o, grad_outputs = NodeOperands.of(form, flat), flat[form.count + 3 :]
        given = [t for t in grad_outputs if t is not None]
        count = len(form.needs_grad)

        def first(*inputs: Tensor) -> tuple[Tensor, ...]:
            own, later = (inputs[0], *o[1:4], *inputs[1:count]), iter(inputs[count:])
            grads = reference_gradient(form, own, [None if t is None else next(later) for t in grad_outputs])
            return tuple([g for g, outer in zip(grads, gradients, strict=True) if outer is not None])

        _, pull, *_ = torch.func.vjp(first, *o.differentiable(), *given)
        grad_x, *others = pull(tuple([g for g in gradients if g is not None]))
        later = iter(others[count - 1 :])
        rest = [None if t is None else next(later) for t in grad_outputs]
        return None, grad_x, None, None, None, *others[: count - 1], None, None, None, *rest

    @staticmethod
    def vmap(size: int, dims: Sequence[int | None], form: Form, *flat: Tensor | None) -> tuple[Tensors, tuple[int | None, ...]]:
        packed, ours, lead = flat[1] is not None, 1 + form.starts, form.stack.lead
        per_example = any(form.needs_grad[ours:])
        if _differ(form, dims) or (per_example and not can_split(form, packed, cast("Tensor", flat[0]))):
            return _as_members(Gradient, size, dims, form, flat)
        fold, states = Fold(size, form, packed), len(form.stack.state_sizes)
        axes = (fold.x, fold.saved, fold.saved, fold.x, *([fold.state] * states))
        folded = (*fold.operands(flat[: form.count], dims[: form.count]), *fold.each(flat[form.count :], dims[form.count :], axes))
        results = apply(Gradient, replace(form, examples=size * max(1, form.examples) if per_example else 0), *folded)
        grads, out_dims = fold.undo(results[:ours], (fold.x, *([fold.state] * form.starts)))
        rest = results[ours:]
        if form.examples:
            rest = tuple([None if t is None else split(t, lead, (size, -1)) for t in rest])
        return (*grads, *rest), (*out_dims, *[None if t is None else lead for t in rest])


def _differ(form: Form, dims: Sequence[int | None]) -> bool:
    """Whether the examples have parameters of their own, or fresh states, or batch sizes."""
    begin = 4 + form.starts
    return dims[1] is not None or any(dim is not None for dim in dims[begin : begin + form.freshes + len(form.stack.shapes)])


def _as_members(
    node: Any, size: int, dims: Sequence[int | None], form: Form, flat: Sequence[Tensor | None]
) -> tuple[Tensors, tuple[int | None, ...]]:
    """What vmap makes of a node whose examples are the members of an ensemble."""
    ensemble = Ensemble(size, form.stack)
    results = ensemble.part(apply(node, replace(form, stack=ensemble.stack), *ensemble.join(flat, dims)))
    return results, tuple([None if result is None else 0 for result in results])


def _with_steps(form: Form, x: Tensor, rows: Tensor) -> Tensor:
    """What is saved of all steps of x, or comes to it, with axes (T, B) for that of rows."""
    first, second = x.shape[-3:-1]
    return split(rows, 1 + form.stack.lead, (second, first) if form.batch_first else (first, second))
