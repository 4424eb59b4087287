"""An unchecked call under vmap, turned into calls without this vmap.

Examples that share their parameters become one batch. Where each has parameters of its own, they become the members of an ensemble, which
is also one call. What is below this vmap (another one, a graph of torch's) sees this call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from torch._C import _get_tracing_state, _len_torch_dispatch_stack
from torch._C._functorch import (
    CVmapInterpreterPtr,
    TransformType,
    _add_batch_dim,
    _unwrap_batched,
    peek_interpreter_stack,
    pop_dynamic_layer_stack,
    push_dynamic_layer_stack,
)

from elman.backends.fold import Ensemble, place, split

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from elman.backends.stack import Stack

Result: TypeAlias = "tuple[Tensor, tuple[Tensor, ...]] | None"
Run: TypeAlias = "Callable[[Stack, Tensor, tuple[Tensor, ...] | None, Sequence[Tensor], bool], Result]"
Tensors: TypeAlias = "tuple[Tensor, ...]"
Axes: TypeAlias = "tuple[int, ...]"
Dims: TypeAlias = "tuple[int | None, ...]"


def run_unchecked(run: Run, stack: Stack, x: Tensor, states: Tensors | None, params: Sequence[Tensor], batch_first: bool) -> Result:
    """``Backend.run_unchecked`` by way of ``run``: itself, without this vmap. If x is unbatched, its examples become a batch."""
    interpreter: Any = peek_interpreter_stack()
    if interpreter.key() != TransformType.Vmap or _len_torch_dispatch_stack() or _get_tracing_state() is not None:
        return None
    level, own = interpreter.level(), (x, *(states or ()))
    try:
        is_batched = {2: False, 3: True}[x.dim() - stack.lead]
        tensors, dims = zip(*[_unwrap_batched(t, level) for t in (*own, *params)], strict=True)
    except (AttributeError, KeyError, TypeError):  # no tensor, or not of sequences
        return None
    size, batch, count = CVmapInterpreterPtr(interpreter).batchSize(), stack.lead + 1, len(own)
    axes = (batch - 1 if batch_first else batch, *[batch] * (count - 1))  # of the batch, in x and the states
    layer = pop_dynamic_layer_stack()
    try:
        if dims.count(None) == len(dims):
            return run(stack, x, states, params, batch_first)
        if dims[count:].count(None) < len(params):
            out_dims, done = (0, 0), _as_members(run, stack, tensors, dims, size, axes, is_batched, batch_first)
        else:
            out_dims, done = (axes[0], batch), _as_one_batch(run, stack, tensors, dims, size, axes, is_batched, batch_first)
    finally:
        push_dynamic_layer_stack(layer)
    if done is None:
        return None
    return _add_batch_dim(done[0], out_dims[0], level), tuple([_add_batch_dim(final, out_dims[1], level) for final in done[1]])


def _as_one_batch(
    run: Run, stack: Stack, tensors: Tensors, dims: Dims, size: int, axes: Axes, is_batched: bool, batch_first: bool
) -> Result:
    """The output and the final states of examples that share their parameters: the examples are where the batch is, before it."""
    own = [place(t, dim, axis, size) for t, dim, axis in zip(tensors, dims, axes, strict=False)]
    if is_batched:
        own = [t.flatten(axis, axis + 1) for t, axis in zip(own, axes, strict=True)]
    done = run(stack, own[0], tuple(own[1:]) or None, tensors[len(own) :], batch_first)
    if done is None or not is_batched:
        return done
    return split(done[0], axes[0], (size, -1)), tuple([split(final, stack.lead + 1, (size, -1)) for final in done[1]])


def _as_members(run: Run, stack: Stack, tensors: Tensors, dims: Dims, size: int, axes: Axes, is_batched: bool, batch_first: bool) -> Result:
    """The output and the final states of examples that have parameters of their own, before all other axes."""
    ensemble, count = Ensemble(size, stack), len(axes)
    joined = ensemble.join(tensors, dims)
    own = joined[:count] if is_batched else [t.unsqueeze(1 + axis) for t, axis in zip(joined, axes, strict=False)]
    done = run(ensemble.stack, own[0], tuple(own[1:]) or None, joined[count:], batch_first)
    if done is None:
        return None
    output, *finals = ensemble.part((done[0], *done[1]))
    return (output, tuple(finals)) if is_batched else (output.squeeze(1 + axes[0]), tuple([final.squeeze(2) for final in finals]))
