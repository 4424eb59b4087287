"""A node of torch's graph that torch.func's transforms pass through, level by level.

``torch.autograd.Function`` does this too, but makes a class for each call and level and walks through trees of arguments, which takes some
hundreds of microseconds. Here the arguments are flat and the classes are there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active
from torch._C._functorch import TransformType, _add_batch_dim, _unwrap_batched, _unwrap_for_grad, _wrap_for_grad, unwrap_if_dead
from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd.forward_ad import _set_fwd_grad_enabled
from torch.autograd.function import _SingleLevelFunction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from elman.backends.fold import Form, Tensors


def apply(node: Any, form: Form, *flat: Tensor | None) -> Tensors:
    """What ``node.apply`` gives, in whatever transforms are active.

    Args:
        node: a subclass of ``torch.autograd.Function`` with ``forward``, ``setup_context``, ``backward`` and ``vmap``. The latter takes the
            number of examples, for each tensor the axis that has them or None, the form and the tensors, and gives results and their axes.
    """
    flat = tuple([t if t is None else unwrap_if_dead(t) for t in flat])
    if not _are_functorch_transforms_active():
        # A transform hides torch's inference mode, in which a parameter that was made there has no graph.
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad and not t.is_inference() for t in flat):
            return node.apply(form, *flat)  # type: ignore[no-any-return]
        return node.forward(form, *flat)  # type: ignore[no-any-return]
    interpreter = retrieve_current_functorch_interpreter()
    if interpreter.key() == TransformType.Vmap:
        return _map(interpreter, node, form, flat)
    flat = tuple([t if t is None else interpreter._cptr.lift(t) for t in flat])
    with enable_single_level_autograd_function():
        return _Level.apply(interpreter, node, form, *flat)  # type: ignore[attr-defined,no-any-return]


def _map(interpreter: Any, node: Any, form: Form, flat: Sequence[Tensor | None]) -> Tensors:
    level = interpreter.level()
    pairs = [(t, None) if t is None else _unwrap_batched(t, level) for t in flat]
    tensors, dims = [t for t, _ in pairs], [dim for _, dim in pairs]
    with interpreter.lower():
        if all(dim is None for dim in dims):
            return apply(node, form, *tensors)
        results, axes = node.vmap(interpreter.batch_size(), dims, form, *tensors)
    return tuple([t if axis is None else _add_batch_dim(t, axis, level) for t, axis in zip(results, axes, strict=True)])


class _Level(_SingleLevelFunction):
    """A node at one level of ``torch.func.grad`` or ``vjp``: what is below it runs at the next level."""

    @staticmethod
    def forward(interpreter: Any, node: Any, form: Form, *flat: Tensor | None) -> Tensors:
        level = interpreter.level()
        tensors = [t if t is None else _unwrap_for_grad(t, level) for t in flat]
        with torch.enable_grad(), _set_fwd_grad_enabled(True), interpreter.lower():  # this node has switched them off
            results = apply(node, form, *tensors)
        return tuple([t if t is None else _wrap_for_grad(t, level) for t in results])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], outputs: Tensors) -> None:
        _, ctx.node, *own = inputs
        ctx.node.setup_context(ctx, tuple(own), outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, None, *ctx.node.backward(ctx, *gradients)
