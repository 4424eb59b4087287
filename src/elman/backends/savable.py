"""Tensors that were made in torch's inference mode, in a call that is differentiated outside of it: torch saves copies of them alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from elman.backends.operands import Operands
from elman.backends.spans import unwrapped

if TYPE_CHECKING:
    from torch import Tensor


def savable(tensor: Tensor) -> Tensor:
    """The tensor, as a node of torch's graph can save it: one that was made in inference mode, as a frozen network's features, is copied.

    torch.nn's layers copy such an x only with batch_first, as a side effect, and refuse it otherwise.
    """
    return tensor.clone() if _is_from_inference(tensor) else tensor


def savable_operands(operands: Operands) -> Operands:
    """A call's tensors but for its parameters, likewise, if it may be differentiated."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return operands
    x, states, params, spans = operands
    if not any(t is not None and _is_from_inference(t) for t in (x, *(states or ()), *spans.tensors())):
        return operands
    states = None if states is None else tuple(map(savable, states))
    batch_sizes, lengths, reset = (None if t is None else savable(t) for t in spans.borders())
    spans = spans.replaced(batch_sizes=batch_sizes, lengths=lengths, reset=reset).with_numbers(savable)
    return Operands(savable(x), states, params, spans)


def _is_from_inference(tensor: Tensor) -> bool:
    """Whether it was made in inference mode, which under torch.func's transforms the tensor that they wrap tells."""
    return unwrapped(tensor).is_inference()
