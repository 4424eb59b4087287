"""A run on the GPU of a cell of one's own in a call that is recorded: what ``torch.ops.elman.program`` does there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from elman.backends.call import Saved
from elman.backends.cuda import run, source
from elman.backends.program.operator import Call

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from elman.backends.spans import Spans

RECORDED = "recorded cell"  # the name of one in messages


class CudaCall(Call):
    """By the CUDA kernels. They know nothing but sizes and addresses: every operand is checked before it goes to them."""

    def __init__(self, operands: Sequence[Tensor], lengths: Tensor | None, reset: Tensor | None, text: str, form: Sequence[int]) -> None:
        super().__init__(operands, lengths, reset, text, form)
        reason = source.refuses(self.program)
        if reason is not None:
            raise RuntimeError(f"expected a program that the CUDA kernels run, got one for which cuda {reason}")
        self.kernel = source.kernel_of(self.program, RECORDED)
        self.of_states = self.directions, self.batch, self.form.hidden_size

    def forward(self, save: bool) -> list[Tensor]:
        self._check_operands()
        output, finals, saved = run.forward_by(self.kernel, self.form, *self._operands, save)
        kept = (saved.hidden, None if saved.steps is None else saved.steps.view(-1)) if save else (None, None)
        return [output, *finals, *(self.x.new_empty(0) if each is None else each for each in kept)]

    def backward(
        self,
        output: Tensor,
        hidden: Tensor | None,
        kept: Tensor | None,
        grad_output: Tensor | None,
        grad_finals: Sequence[Tensor | None],
        needs_grad: Sequence[bool],
    ) -> Sequence[Tensor | None]:
        rows, of_output = self.steps * self.batch, (*self.x.shape[:-1], self.width)
        self._check_operands()
        self._check("output", output, of_output)
        self._check("the gradient of output", grad_output, of_output)
        for grad in grad_finals:
            self._check("the gradient of a final state", grad, self.of_states)
        steps = None
        if self.form.num_layers > 1:
            self._check("hidden", hidden, self.hidden_shape(rows))
        if size := self.kept_size(rows):
            self._check("kept", kept, (size,))
            steps = None if kept is None else kept.view(self.directions, rows, self.kernel.shape.kept, self.form.hidden_size)
        ends = output, Saved(hidden, steps, None), grad_output, tuple(grad_finals), needs_grad
        return run.backward_by(self.kernel, self.form, *self._operands, *ends)

    def kept_size(self, rows: Any) -> Any:
        return 0 if self.form.recompute else self.directions * rows * self.kernel.shape.kept * self.form.hidden_size

    @property
    def _operands(self) -> tuple[Tensor, tuple[Tensor, ...] | None, tuple[Tensor, ...], Spans, bool]:
        return self.x, self.states, self.params, self.spans, bool(self.form.batch_first)

    def _check_operands(self) -> None:
        """Raise a RuntimeError if one does not fit the others."""
        _, lengths, reset, fresh, step_inputs, draws = self.spans
        hidden, of_steps = self.form.hidden_size, (self.steps, self.batch)
        for state in self.states or ():
            self._check("an initial state", state, self.of_states)
        for state in fresh or ():
            self._check("a fresh state", state, (self.directions, hidden))
        for numbers, of_units in zip(step_inputs or (), self.program.step_inputs, strict=False):
            self._check("a step input", numbers, (*of_steps, hidden) if of_units else of_steps)
        for numbers in draws or ():
            of_draw = (self.directions, *of_steps, hidden) if numbers.dim() == 4 else self.of_states
            self._check("random numbers", numbers, of_draw)
        shapes = self._parameter_shapes()
        if len(shapes) != len(self.params):
            raise RuntimeError(f"expected {len(shapes)} parameters, got {len(self.params)}")
        for parameter, shape in zip(self.params, shapes, strict=True):
            self._check("a parameter", parameter, shape)
        self._check("reset", reset, of_steps, torch.bool)
        if lengths is not None:
            self._check("lengths", lengths.to(self.x.device), of_steps[1:], torch.int64)
            if lengths.is_cpu and not ((lengths >= 0) & (lengths <= self.steps)).all():
                raise RuntimeError(f"expected lengths from 0 to {self.steps}, got {lengths.tolist()}")

    def _parameter_shapes(self) -> list[tuple[int, ...]]:
        form, program = self.form, self.program
        inputs, recurrents = (gates * form.hidden_size for gates in (program.inputs, program.recurrents))
        found: list[tuple[int, ...]] = []
        for index in range(self.directions):
            found.append((inputs, self.x.shape[-1] if index < form.num_directions else self.width))
            found += [(recurrents, form.hidden_size)] * bool(recurrents)
            found += [(rows,) for rows in (inputs, recurrents) if rows and form.bias]
            found += [(form.hidden_size,) if of_units else () for of_units in program.own]
        return found

    def _check(self, name: str, tensor: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> None:
        if tensor is None:
            return
        if tensor.shape != shape:
            raise RuntimeError(f"expected {name} of shape {shape}, got {tuple(tensor.shape)}")
        if tensor.dtype is not (dtype or self.x.dtype):
            raise RuntimeError(f"expected {name} of {dtype or self.x.dtype}, got {tensor.dtype}")
        if tensor.device != self.x.device:
            raise RuntimeError(f"expected {name} on {self.x.device}, where x is, got it on {tensor.device}")
