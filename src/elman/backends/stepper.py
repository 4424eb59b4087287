"""One step at a time on the compiled kernels: the weights packed once, states and output in place.

Meets torch at the border only: the kernels know the memory, and which tensors of a dict to watch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from elman.backends import kernels
from elman.backends.native import is_watched

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from elman.backends.stack import Stack

# float32 and float64: in bfloat16 an LSTM's c, which the kernels keep in float32 while a call lasts, would be rounded at every step.
NUMBERS = (torch.float32, torch.float64)


class Stepper:
    """A stack run step by step: memory for its states and its output, and in time kernels with its weights.

    Args:
        stack: what is to be run; D is 1.
        batch: B, rows.
        dtype: one of ``NUMBERS``.

    Attributes:
        states: (L, B, H) each, or as wide as ``stack.state_sizes`` says: what the kernels read and write, zeros at first.
        step: takes x, (B, I) or with one row (I,), an array or a plain tensor, and gives the output, (B, H) or (H,), of the same kind,
            which is the same object each time. None, with nothing done, where x is not dense in its rows, of the right shape and dtype and
            on the CPU, or where the parameters are no longer those packed.
    """

    def __init__(self, stack: Stack, batch: int, dtype: torch.dtype) -> None:
        self.stack = stack
        self.batch = batch
        with torch.inference_mode(False):  # what is made in that mode is of no use outside
            self.states = tuple([torch.zeros((stack.num_layers, batch, width), dtype=dtype, device="cpu") for width in stack.state_sizes])
            output = torch.zeros((batch, stack.output_size), dtype=dtype, device="cpu")
            array = output.numpy()
            self._output = array
            self._results = (array[0], array.view(), output[0], output.view_as(output))
        self.step: Callable[[Any], Any] = decline
        self._packed: Any = None

    @property
    def is_current(self) -> bool:
        """Whether the parameters are still those that were packed."""
        return self._packed is not None and self._packed.is_current()

    def pack(self, parameters: dict[str, Any], names: Sequence[str]) -> None:
        """Pack the weights as they are now. ``names`` says which of ``parameters`` they are, in the stack's order."""
        params = [parameters[name].detach().numpy() for name in names]
        states = [state.numpy() for state in self.states]
        self._packed = kernels.open_stream(self.stack, self.batch, params, states, self._output, self._results, parameters, tuple(names))
        self.step = self._packed.step if kernels.sees_tensors() else self._step_by_array

    def _step_by_array(self, x: Any) -> Any:
        """The same where torch does not show its tensors to the kernels."""
        if not isinstance(x, Tensor):
            return self._packed.step(x)
        y = self._packed.step(x.detach().resolve_neg().numpy())
        return None if y is None else self._results[2 + (y is self._results[1])]


def decline(x: object) -> None:
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


def is_usual(x: Tensor, params: Sequence[Tensor], states: Sequence[Tensor]) -> bool:
    """Whether a call with x has nothing to differentiate and nobody looking on, so that kernels may run behind torch's back."""
    if type(x) not in kernels.PLAIN or torch.compiler.is_compiling() or is_watched() or torch.is_autocast_enabled("cpu"):
        return False
    return not (torch.is_grad_enabled() and any(t.requires_grad for t in (x, *params, *states)))
