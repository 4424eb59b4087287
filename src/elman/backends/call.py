"""Calls the compiled kernels with torch tensors, which check every one of them (csrc/contracts.h) and make memory for what they write.

A call goes directly to them. If they refuse it, operands that they cannot read in place are copied; if they refuse it again, a RuntimeError
says which tensor does not fit the stack. Nothing here knows autograd.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch

from elman.backends import kernels
from elman.backends.kernels import CELLS, PLAIN, are_plain
from elman.backends.operands import Operands

if kernels.available():
    from elman import _native

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from elman.backends.stack import Stack

States: TypeAlias = "tuple[Tensor, ...] | None"
_First: TypeAlias = (
    "tuple[tuple[object, ...], Sequence[Tensor], Tensor, States, States, Tensor | None, Tensor | None, Tensor | None, bool, bool, int]"
)


class Saved(NamedTuple):
    """Values of a run that ``backward`` needs besides inputs and outputs; None if none of a kind are saved.

    Attributes:
        hidden: the lower layers' outputs, (L-1, rows, D·H), with a projection P for H. For padded sequences only the valid steps.
        steps: the values that the cell saves at each step, (L·D, rows, K, H); in bfloat16 these are float32, and so are checkpoints.
        checkpoints: with ``recompute``, instead of ``steps``: the cell state at intervals, (L·D, checkpoints, B, H).
    """

    hidden: Tensor | None
    steps: Tensor | None
    checkpoints: Tensor | None


NOTHING_SAVED = Saved(None, None, None)


def forward(
    stack: Stack, operands: Operands, batch_first: bool, save: bool, pad_saved: bool = False, **memory: Any
) -> tuple[Tensor, tuple[Tensor, ...], Saved]:
    """Run a stack.

    Args:
        operands: of which x is (T, B, I), with batch_first (B, T, I), or packed (N, I).
        save: whether ``backward`` will follow.
        pad_saved: for padded sequences save all T·B steps, zeros in the padding, so that no size depends on the lengths.
        memory: tensors to write to instead of new ones: ``output``, ``hidden``, ``saved``.

    Returns:
        The outputs, laid out as x; the final states; and the saved values that ``backward`` needs.
    """
    options = {"save": save, **memory}
    try:
        output, finals, *saved = _native.forward(*_first_operands(stack, operands, batch_first, pad_saved), **options)
    except (RuntimeError, TypeError):
        readable = readable_operands(operands)
        if readable is None:
            raise
        output, finals, *saved = _native.forward(*_first_operands(stack, readable, batch_first, pad_saved), **options)
    return output, finals, Saved(*saved)


def trace(stack: Stack, operands: Operands) -> tuple[Tensor, tuple[Tensor, ...], Saved]:
    """Run a stack over x, (T, B, I), and save everything.

    Returns:
        The outputs of every layer, (L, T, B, D·H); the final states; and what ``backward`` needs: ``hidden``, the outputs of all layers but
        the last, and ``steps``, (L·D, T, B, K, H); in bfloat16 these are float32.
    """
    x = operands.x
    steps, batch, _ = x.shape
    _, _, numbers = CELLS[stack.cell.name]
    outputs = x.new_empty((stack.num_layers, steps, batch, stack.output_size))
    hidden = outputs[:-1] if stack.num_layers > 1 else None
    shape = stack.num_layers * stack.num_directions, steps, batch, numbers, stack.hidden_size
    saved = x.new_empty(shape, dtype=kernels.wide(x.dtype)) if numbers else None
    memory = {"output": outputs[-1], "hidden": hidden, "saved": saved}
    _, finals, _ = forward(stack, operands, False, save=False, pad_saved=True, **memory)
    return outputs, finals, Saved(hidden, saved, None)


def backward(
    stack: Stack,
    operands: Operands,
    batch_first: bool,
    output: Tensor,
    saved: Saved,
    grad_output: Tensor | None,
    grad_finals: tuple[Tensor | None, ...],
    needs_grad: tuple[bool, ...],
    grad_saved: Saved = NOTHING_SAVED,
    pad_saved: bool = False,
) -> Sequence[Tensor | None]:
    """The gradients of a run.

    Args:
        output, saved: as ``forward`` or ``trace`` returned them; for ``trace``, the last layer's outputs.
        grad_output, grad_finals: the gradients of the outputs and final states; None for zeros.
        needs_grad: which gradients are made: x's, the initial states', the fresh states' (if there are any), then each parameter's. One
            entry more is for the gate gradients, (L·D, rows, G·H) as what is saved lies, before their activation; where the cell takes the
            recurrent part of a gate apart (GRU), those of the inputs' parts and behind them those of the recurrent parts.
        grad_saved: after ``trace``: the gradients of what was saved.
        pad_saved: as ``forward`` was told, True after ``trace``.

    Returns:
        The gradients in the order of ``needs_grad``, None where not made.
    """
    gradients: Sequence[Tensor | None]
    try:
        gradients = _native.backward(
            *_first_operands(stack, operands, batch_first, pad_saved),
            output,
            saved.hidden,
            saved.steps,
            saved.checkpoints,
            grad_output,
            grad_saved.hidden,
            grad_saved.steps,
            grad_finals,
            needs_grad=needs_grad,
        )
    except (RuntimeError, TypeError):
        check_operands(operands, grad_output, grad_finals)
        grad_output = _or_none(grad_output)
        if grad_output is not None and (any(grad_output.stride()) or grad_output.is_neg() or not _is_aligned(grad_output)):
            grad_output = _readable(grad_output)  # one number that stands for all, as in the gradient of a sum, is read so
        gradients = _native.backward(
            *_first_operands(stack, readable_operands(operands) or operands, batch_first, pad_saved),
            _readable(output),
            _aligned_or_none(saved.hidden),
            _aligned_or_none(saved.steps),
            _aligned_or_none(saved.checkpoints),
            grad_output,
            _aligned_or_none(grad_saved.hidden),
            _aligned_or_none(grad_saved.steps),
            tuple(map(aligned_gradient, grad_finals)),
            needs_grad=needs_grad,
        )
    return gradients


def _first_operands(stack: Stack, operands: Operands, batch_first: bool, pad_saved: bool) -> _First:
    """The operands that every call begins with."""
    x, states, params, spans = operands
    batch_sizes, lengths, reset, fresh = spans[:4]
    return stack.numbers, params, x, states, fresh, batch_sizes, lengths, reset, batch_first, pad_saved, torch.get_num_threads()


def readable_operands(operands: Operands) -> Operands | None:
    """The operands in a layout that the kernels read; None if they have it already, or if one has no readable memory.

    Whether a subclass of Tensor means anything else by its operations is known before.
    """
    x, states, params, spans = operands
    before = (x, *(states or ()), *params, *spans.tensors())
    if any(t is not None and not has_memory(t) for t in before):
        return None
    x, states, params = _readable(x), None if states is None else _all_aligned(states), _all_aligned(params)
    batch_sizes, lengths, reset = (None if t is None else _plain(t) for t in spans.borders())
    spans = spans.replaced(batch_sizes=batch_sizes, lengths=lengths, reset=reset).with_numbers(_aligned)
    after = (x, *(states or ()), *params, *spans.tensors())
    return None if all(a is b for a, b in zip(before, after, strict=True)) else Operands(x, states, params, spans)


def readable_if_plain(operands: Operands) -> Operands | None:
    """``readable_operands`` of what nobody has checked; None, too, if something is no plain tensor."""
    return readable_operands(operands) if are_plain(*operands.differentiable()) else None


def has_memory(tensor: Tensor) -> bool:
    """Whether its numbers lie in memory, which has not been freed (torch's copies would crash), or torch knows them without."""
    if tensor.is_nested or tensor.layout is not torch.strided:
        return False
    return tensor._is_zerotensor() or tensor.numel() == 0 or tensor.untyped_storage().nbytes() > 0


def _readable(x: Tensor) -> Tensor:
    """A tensor of all steps as the kernels read it, copied if need be: its rows may lie anywhere, but each is contiguous."""
    is_readable = x.dim() > 0 and (x.stride()[-1] == 1 or x.shape[-1] == 1) and not x.is_neg() and not x._is_zerotensor()
    return _plain(x) if is_readable and _is_aligned(x) else _aligned(x.resolve_neg())


def _aligned(tensor: Tensor) -> Tensor:
    """``dense``, and at an address that is a multiple of an element's size: one in a buffer of bytes may begin anywhere."""
    tensor = dense(tensor)
    return tensor if _is_aligned(tensor) else tensor.clone()


def _is_aligned(tensor: Tensor) -> bool:
    return tensor.data_ptr() % tensor.element_size() == 0


def dense(tensor: Tensor) -> Tensor:
    """The tensor in a layout that the kernels read, copied if necessary: contiguous, with no lazy negation or zeros."""
    if tensor._is_zerotensor():  # torch keeps no memory for these zeros
        return tensor.clone(memory_format=torch.contiguous_format)
    return _plain(tensor if tensor.is_contiguous() and not tensor.is_neg() else tensor.resolve_neg().contiguous())


def _plain(tensor: Tensor) -> Tensor:
    """The tensor, as one of a class that the kernels read: whether a subclass means anything else by its operations is known before."""
    return tensor if type(tensor) in PLAIN else tensor.as_subclass(torch.Tensor)


def _all_aligned(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(map(_aligned, tensors))


def _aligned_or_none(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else _aligned(tensor)


def aligned_gradient(gradient: Tensor | None) -> Tensor | None:
    """A gradient in a layout that the kernels read; None for zeros, including zeros without memory."""
    return _aligned_or_none(_or_none(gradient))


def _or_none(gradient: Tensor | None) -> Tensor | None:
    """A gradient; None for zeros without memory."""
    return None if gradient is None or gradient._is_zerotensor() else gradient


def check_operands(operands: Operands, grad_output: Tensor | None, grad_finals: tuple[Tensor | None, ...]) -> None:
    """Raise a RuntimeError unless all operands of a gradient have one dtype and are on one device."""
    x, states, params, spans = operands
    dtype, device = x.dtype, x.device
    for t in (*params, *(states or ()), *(spans.fresh or ()), grad_output, *grad_finals):
        if t is not None and t.dtype is not dtype:
            raise RuntimeError(f"expected all tensors of {dtype}, as x is, got {t.dtype}: was x changed after the forward pass?")
        if t is not None and t.device != device:
            raise RuntimeError(
                f"expected all tensors on {device}, where x is, got one on {t.device}: was x changed after the forward pass?"
            )
