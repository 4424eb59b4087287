"""An unchecked call under vmap, turned into calls without this vmap.

Examples that share their parameters become one batch. Where each has parameters of its own, as in an ensemble, they are called one after
the other. What is below this vmap (another one, a graph of torch's) sees these calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch._C import _get_tracing_state, _len_torch_dispatch_stack
from torch._C._functorch import (
    TransformType,
    _add_batch_dim,
    _unwrap_batched,
    peek_interpreter_stack,
    pop_dynamic_layer_stack,
    push_dynamic_layer_stack,
)

from elman.backends.fold import place, split

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

Result: TypeAlias = "tuple[Tensor, tuple[Tensor, ...]] | None"
Run: TypeAlias = "Callable[[Tensor, tuple[Tensor, ...] | None, Sequence[Tensor]], Result]"
Tensors: TypeAlias = "tuple[Tensor, ...]"
Axes: TypeAlias = "tuple[int, ...]"
Dims: TypeAlias = "tuple[int | None, ...]"


def run_unchecked(run: Run, x: Tensor, states: Tensors | None, params: Sequence[Tensor], batch_first: bool) -> Result:
    """``Backend.run_unchecked`` by way of ``run``, which takes a call's tensors. If x is unbatched, its examples become a batch."""
    interpreter: Any = peek_interpreter_stack()
    if interpreter.key() != TransformType.Vmap or _len_torch_dispatch_stack() or _get_tracing_state() is not None:
        return None
    level, own = interpreter.level(), (x, *(states or ()))
    try:
        is_batched = {2: False, 3: True}[x.dim()]
        tensors, dims = zip(*[_unwrap_batched(t, level) for t in (*own, *params)], strict=True)
    except (AttributeError, KeyError, TypeError):  # no tensor, or not of sequences
        return None
    sizes = [t.shape[dim] for t, dim in zip(tensors, dims, strict=True) if dim is not None]
    axes = (0 if batch_first else 1, *[1] * (len(own) - 1))  # of the batch, in x and the states
    layer = pop_dynamic_layer_stack()
    try:
        if not sizes:
            return run(x, states, params)
        if any(dim is not None for dim in dims[len(own) :]):
            out_dims, done = (0, 0), _one_by_one(run, tensors, dims, sizes[0], axes, is_batched)
        else:
            out_dims, done = (axes[0], 1), _as_one_batch(run, tensors, dims, sizes[0], axes, is_batched)
    finally:
        push_dynamic_layer_stack(layer)
    if done is None:
        return None
    return _add_batch_dim(done[0], out_dims[0], level), tuple([_add_batch_dim(final, out_dims[1], level) for final in done[1]])


def _as_one_batch(run: Run, tensors: Tensors, dims: Dims, size: int, axes: Axes, is_batched: bool) -> Result:
    """The output and the final states of examples that share their parameters: the examples are where the batch is, before it."""
    own = [place(t, dim, axis, size) for t, dim, axis in zip(tensors, dims, axes, strict=False)]
    if is_batched:
        own = [t.flatten(axis, axis + 1) for t, axis in zip(own, axes, strict=True)]
    done = run(own[0], tuple(own[1:]) or None, tensors[len(own) :])
    if done is None or not is_batched:
        return done
    return split(done[0], axes[0], (size, -1)), tuple([split(final, 1, (size, -1)) for final in done[1]])


def _one_by_one(run: Run, tensors: Tensors, dims: Dims, size: int, axes: Axes, is_batched: bool) -> Result:
    """The output and the final states of one example after the other, stacked."""
    found = []
    for each in zip(*[[t] * size if dim is None else t.unbind(dim) for t, dim in zip(tensors, dims, strict=True)], strict=True):
        own = each[: len(axes)] if is_batched else [t.unsqueeze(axis) for t, axis in zip(each, axes, strict=False)]
        done = run(own[0], tuple(own[1:]) or None, each[len(axes) :])
        if done is None:
            return None
        found.append(done)
    outputs, finals = zip(*found, strict=True)
    output, stacked = torch.stack(outputs), tuple([torch.stack(final) for final in zip(*finals, strict=True)])
    return (output, stacked) if is_batched else (output.squeeze(1 + axes[0]), tuple([final.squeeze(2) for final in stacked]))
