"""One step at a time on the compiled kernels: the weights packed once, the states in place.

Only this file meets torch: the kernels know the memory, and which tensors of a dict to watch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from elman.backends import kernels
from elman.backends.call import has_memory
from elman.backends.kernel_backend import is_watched

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from elman.backends.stack import Stack

# float32 and float64: in bfloat16 an LSTM's c, which the kernels keep in float32 while a call lasts, would be rounded at every step.
NUMBERS = (torch.float32, torch.float64)


class Stepper:
    """A stack run step by step: memory for its states, and in time kernels with its weights.

    Args:
        stack: what is to be run; D is 1.
        batch: B, sequences.
        dtype: one of ``NUMBERS``.

    Attributes:
        states: (L, B, H) each, or as wide as ``stack.state_sizes`` says: what the kernels read and write, zeros at first.
        step: takes x, (B, I) or of one sequence (I,), an array or a plain tensor, and ``out``, None or of the same kind, and gives the
            output, (B, H) or (H,): in ``out``, or in fresh memory. None, with nothing done, where x or ``out`` is not dense in its rows, of
            the right shape and dtype and on the CPU, where ``out`` cannot be written without harm, or where the parameters are no longer
            those packed.
    """

    def __init__(self, stack: Stack, batch: int, dtype: torch.dtype) -> None:
        self.stack = stack
        self.batch = batch
        with torch.inference_mode(False):  # what is made in that mode is of no use outside
            self.states = tuple([torch.zeros((stack.num_layers, batch, width), dtype=dtype, device="cpu") for width in stack.state_sizes])
        top = self.states[0][-1]
        # empty_like takes some 0.1 µs less than other ways to make a tensor
        shape, number = (batch, stack.output_size), top.numpy().dtype
        self._fresh = ((np.empty, shape[1:], number), (np.empty, shape, number), (torch.empty_like, top[0]), (torch.empty_like, top))
        self.step: Callable[[Any, Any], Any] = decline
        self._packed: Any = None

    @property
    def is_current(self) -> bool:
        """Whether the parameters are still the packed ones."""
        return self._packed is not None and self._packed.is_current()

    def pack(self, parameters: dict[str, Any], names: Sequence[str]) -> None:
        """Pack the weights as they are now. ``names`` says which of ``parameters`` they are, in the stack's order."""
        params = [parameters[name].detach().numpy() for name in names]
        states = [state.numpy() for state in self.states]
        self._packed = kernels.open_stream(self.stack, self.batch, params, states, self._fresh, parameters, tuple(names))
        self.step = self._packed.step if kernels.sees_tensors() else self._step_by_array

    def _step_by_array(self, x: Any, out: Any) -> Any:
        """A step where torch does not show its tensors to the kernels."""
        if not isinstance(x, Tensor):
            return self._packed.step(x, out)
        if not _has_array(x):
            return None
        x = x.detach().resolve_neg().numpy()
        if out is None:
            y = self._packed.step(x, None)
            return None if y is None else torch.from_numpy(y)
        if not _has_array(out) or out.is_neg():
            return None
        return None if self._packed.step(x, out.detach().numpy()) is None else out


def _has_array(values: Tensor) -> bool:
    """Whether there is an array of a tensor's numbers, in the memory where they lie, if none is negated lazily."""
    # NumPy makes memory of its own where there is none.
    return values.is_cpu and values.dtype in NUMBERS and has_memory(values) and not values._is_zerotensor()


def decline(x: object, out: object) -> None:
    """Take no step."""


def can_step(stack: Stack, params: Sequence[Tensor]) -> bool:
    """Whether a ``Stepper`` can pack these parameters."""
    dtype = params[0].dtype
    return (
        kernels.available()
        and stack.cell.name in kernels.CELLS
        and not stack.bidirectional
        and dtype in NUMBERS
        and all(_is_dense(p) and p.dtype is dtype and p.shape == shape for p, shape in zip(params, stack.shapes, strict=True))
    )


def _is_dense(p: Tensor) -> bool:
    """Whether a parameter lies in memory as the kernels read it, and whether writes to it are counted."""
    return (
        type(p) in kernels.PLAIN
        and p.is_cpu
        and p.layout is torch.strided
        and p.is_contiguous()
        and not p.is_neg()
        and not p.is_inference()
    )


def is_usual(x: Any, out: Any) -> bool:
    """Whether x is a plain tensor, out is None or a plain tensor, and no torch mode is active: the kernels may bypass the dispatcher.

    Whether there is something to differentiate, but in ``out``, is not asked here.
    """
    if type(x) not in kernels.PLAIN or torch.compiler.is_compiling() or is_watched() or torch.is_autocast_enabled("cpu"):
        return False
    return out is None or (
        type(out) in kernels.PLAIN
        and not (out.requires_grad and torch.is_grad_enabled())
        and (torch.is_inference_mode_enabled() or not out.is_inference())
    )


def count_write(out: Tensor) -> None:
    """Tell torch that kernels wrote to a tensor, so that a graph that saved it detects the change."""
    if not out.is_inference():  # torch counts no writes to those
        torch.autograd.graph.increment_version(out)
