"""A run on the GPU of a cell of one's own in a call that is recorded: what ``torch.ops.elman.program`` does there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from elman.backends.call import Saved
from elman.backends.contract import check, check_call
from elman.backends.cuda import run, source
from elman.backends.cuda.shape import expected_of
from elman.backends.program.operator import Call

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


RECORDED = "recorded cell"  # the name of one in messages


class CudaCall(Call):
    """By the CUDA kernels."""

    def __init__(self, operands: Sequence[Tensor], lengths: Tensor | None, reset: Tensor | None, text: str, form: Sequence[int]) -> None:
        super().__init__(operands, lengths, reset, text, form)
        reason = source.refuses(self.program)
        if reason is not None:
            raise RuntimeError(f"expected a program that the CUDA kernels run, got one for which cuda {reason}")
        self.kernel = source.kernel_of(self.program, RECORDED)

    def forward(self, save: bool) -> list[Tensor]:
        self._check()
        output, finals, saved = run.forward_by(self.kernel, self.form, self.operands, bool(self.form.batch_first), save)
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
        shape, rows, steps = self.kernel.shape, self.steps * self.batch, None
        if (size := self.kept_size(rows)) and kept is not None:
            check("what was kept", kept, (size,), self.x)
            steps = kept.view(self.directions, rows, shape.kept, self.form.hidden_size)
        finals = *grad_finals, *[None] * (shape.states - len(grad_finals))
        ends = output, Saved(hidden, steps, None), grad_output, finals, needs_grad
        self._check(*ends)
        return run.backward_by(self.kernel, self.form, self.operands, bool(self.form.batch_first), *ends)

    def kept_size(self, rows: Any) -> Any:
        return 0 if self.form.recompute else self.directions * rows * self.kernel.shape.kept * self.form.hidden_size

    def _check(self, *results: Any) -> None:
        check_call(expected_of(self.kernel.shape, self.form, self.x.shape[-1]), self.operands, bool(self.form.batch_first), *results)
