"""The gradient of a run by the reference, which can be differentiated again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from elman.backends.fold import Fold, NodeOperands
from elman.backends.reference import REFERENCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from elman.backends.fold import Form


def reference_gradient(form: Form, flat: Sequence[Tensor | None], grad_outputs: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """The results of ``transforms.Gradient`` for operands and the gradients of the output and of the final states, None for zeros."""
    if form.examples:
        return _of_examples(form, flat, grad_outputs)
    o = NodeOperands.of(form, flat)

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        own = NodeOperands.of(form, (inputs[0], *o[1:4], *inputs[1:]))
        results = REFERENCE.run_as_laid_out(form.stack, own.of_call(form), form.batch_first)
        return tuple([result for result, gradient in zip(results, grad_outputs, strict=True) if gradient is not None])

    _, pull, *_ = torch.func.vjp(run, *o.differentiable())
    grads: tuple[Tensor, ...] = pull(tuple([gradient for gradient in grad_outputs if gradient is not None]))
    return grads


def _of_examples(form: Form, flat: Sequence[Tensor | None], grad_outputs: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """Of examples that lie one after another in the batch: by vmap, which has an axis for them."""
    fold = Fold(form.examples, form, packed=False)
    end, ours = 4 + form.starts, 1 + form.starts
    axes = (*fold.axes, *([None] * (form.count - end)), fold.x, *([fold.state] * (len(grad_outputs) - 1)))
    tensors, dims = fold.undo((*flat, *grad_outputs), axes)
    alone = replace(form, examples=0)
    out_dims = (fold.x, *([fold.state] * form.starts), *([form.stack.lead] * (len(form.needs_grad) - ours)))

    def one(*inputs: Tensor | None) -> tuple[Tensor, ...]:
        return reference_gradient(alone, inputs[: form.count], inputs[form.count :])

    grads = torch.func.vmap(one, dims, out_dims)(*tensors)
    return *[t.flatten(axis, axis + 1) for t, axis in zip(grads[:ours], out_dims, strict=False)], *grads[ours:]
