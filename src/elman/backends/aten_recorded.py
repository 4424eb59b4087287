"""torch's own layers in a recorded call: what ``torch.ops.elman.scan`` does on a GPU with a network that the CUDA kernels do not run.

What has resets, which a call that was recorded elsewhere may have, the reference runs. Nothing is kept for the gradient: it runs the
network again, since autograd sees nothing of a run within an operator.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from elman.backends import autograd
from elman.backends.aten import DTYPES, run_by_torch
from elman.backends.call import NOTHING_SAVED, Saved
from elman.backends.contract import Expected, check_call
from elman.backends.reference import REFERENCE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from elman.backends.operands import Operands
    from elman.backends.stack import Stack


def forward(
    stack: Stack, operands: Operands, batch_first: bool, save: bool, pad_saved: bool = False
) -> tuple[Tensor, tuple[Tensor, ...], Saved]:
    """``call.forward``, which saves nothing."""
    with torch.autocast(operands.x.device.type, enabled=False):  # the operands have the dtypes that the recorded call gave them
        output, finals = _as_laid_out(stack, operands, batch_first)
    return _alone(output), tuple(map(_alone, finals)), NOTHING_SAVED


def backward(
    stack: Stack,
    operands: Operands,
    batch_first: bool,
    output: Tensor,
    saved: Saved,
    grad_output: Tensor | None,
    grad_finals: Sequence[Tensor | None],
    needs_grad: Sequence[bool],
    pad_saved: bool = False,
) -> Sequence[Tensor | None]:
    """``call.backward``."""
    with _autograd_enabled(), torch.enable_grad(), torch.autocast(operands.x.device.type, enabled=False):
        own = tuple([t.detach().requires_grad_(needed) for t, needed in zip(operands.differentiable(), needs_grad, strict=True)])
        result, finals = _as_laid_out(stack, autograd.joined(stack, operands.spans, own), batch_first)
        arriving = zip((result, *finals), (grad_output, *grad_finals), strict=True)
        pairs = [(each, grad) for each, grad in arriving if grad is not None and each.requires_grad]
        targets = [t for t in own if t.requires_grad]
        if not pairs:
            return [torch.zeros_like(t) if t.requires_grad else None for t in own]
        results, grads = zip(*pairs, strict=True)
        found = iter(torch.autograd.grad(results, targets, grads, allow_unused=True, materialize_grads=True))
        return [_alone(next(found)) if t.requires_grad else None for t in own]


def new_saved(*run: Any) -> Saved:
    """``cuda.run.new_saved``."""
    return NOTHING_SAVED


def check(stack: Stack, *call: Any) -> None:
    """``contract.check_call``."""
    sizes = stack.hidden_size, stack.num_layers, stack.num_directions
    check_call(Expected(DTYPES, *sizes, stack.state_sizes, (), stack.shapes, None), *call)


def _as_laid_out(stack: Stack, operands: Operands, batch_first: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
    batch_first = batch_first and operands.spans.batch_sizes is None
    run = run_by_torch if operands.spans.reset is None else REFERENCE.run
    output, finals = run(stack, operands.time_first(batch_first))
    return output.transpose(0, 1) if batch_first else output, finals


def _alone(result: Tensor) -> Tensor:
    """A result in memory of its own, as a compiler takes an operator's to be: cuDNN's gradients of weights are parts of one piece."""
    whole = result.is_contiguous() and result.untyped_storage().nbytes() == result.numel() * result.element_size()
    return result if whole else result.clone(memory_format=torch.contiguous_format)


@contextmanager
def _autograd_enabled() -> Iterator[None]:
    """Let autograd see what is run, which it does not within an operator."""
    keys = torch._C.DispatchKey
    excluded: Any = torch._C._dispatch_tls_local_exclude_set()
    for key in (keys.AutogradCPU, keys.AutogradCUDA, keys.ADInplaceOrView):
        excluded = excluded.remove(key)
    with torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded):
        yield
