"""What backends with kernels of their own share: how a call reaches the kernels, with or without gradients, or recorded."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch
from torch._C import _are_functorch_transforms_active, _get_tracing_state, _len_torch_dispatch_stack, _len_torch_function_stack
from torch.autograd import forward_ad

from elman.backends import operator, transforms
from elman.backends.autograd import Scan, Trace, apart, of_node
from elman.backends.backend import Backend
from elman.backends.kernels import are_plain
from elman.backends.operands import Operands
from elman.backends.reference import REFERENCE
from elman.backends.spans import Spans, Traced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from elman.backends.stack import Stack


class KernelBackend(Backend):
    """Runs a stack by the kernels of a kind of device (``operator.kernels_of``). Abstract: a subclass says which calls they do not run."""

    device: ClassVar[str]

    def refuses_call(self, stack: Stack, operands: Operands) -> str | None:
        """Why no kernels run this call, whatever the device, cell and dtype; None if nothing prevents it."""
        x, states, params, spans = operands
        recorded = is_recorded()
        if not recorded and (stack.hidden_size == 0 or x.numel() == 0):  # the operator takes a batch without sequences
            return "does not run empty tensors"
        if forward_ad._current_level >= 0:
            return "does not run forward-mode differentiation"
        if _are_functorch_transforms_active():
            refusal = transforms.refusal() if self.device == "cpu" else "does not run under torch.func's transforms"
            if refusal is not None:
                return refusal
        if recorded:
            return None  # show our operator as a single one
        if _get_tracing_state() is not None:  # of what torch has no operator of its own, ours is recorded
            is_ours = spans.reset is not None and not torch.onnx.is_in_onnx_export()
            return None if is_ours else "does not run under torch.jit.trace"
        others = (*params, *(states or ()), *(spans.fresh or ()), *(() if spans.reset is None else (spans.reset,)))
        if any(hasattr(param, "full_tensor") for param in params):  # a DTensor's
            return "does not run sharded parameters (FSDP gathers them for a call: ask between rnn.unshard() and rnn.reshard())"
        if not are_plain(x, *others) or x.layout is not torch.strided:
            return "does not run tensor subclasses, nor layouts other than strided"
        return None

    @abstractmethod
    def run_autocast(self, stack: Stack, operands: Operands, batch_first: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What ``run`` is under autocast, which has been switched off for it, with results of the dtypes that torch gives."""

    def run(self, stack: Stack, operands: Operands, batch_first: bool = False) -> tuple[Tensor, tuple[Tensor, ...]]:
        if torch.is_autocast_enabled(self.device):
            with torch.autocast(self.device, enabled=False):
                return self.run_autocast(stack, operands, batch_first)
        batch_first = batch_first and operands.spans.batch_sizes is None
        operands = operands.time_first(batch_first).without_unread()
        inputs = operands.differentiable()
        if _are_functorch_transforms_active():
            output, finals = transforms.run(stack, operands, batch_first)
        elif is_recorded() or _get_tracing_state() is not None:
            output, finals = operator.scan(stack, operands, batch_first, saves(inputs))
        elif has_gradient(inputs):
            output, finals = of_node(stack, Scan.apply(None, stack, own_spans(operands.spans), batch_first, *inputs))  # type: ignore[no-untyped-call]
        else:
            output, finals, _ = operator.kernels_of(operands.x).forward(stack, operands, batch_first, save=False)
        return output.transpose(0, 1) if batch_first else output, tuple(finals)

    def run_step_unchecked(
        self, stack: Stack, x: Tensor, states: tuple[Tensor, ...] | None, params: Sequence[Tensor]
    ) -> tuple[Tensor, ...] | None:
        """As a sequence of one step."""
        given = x, *(states or ())
        if not all(isinstance(t, torch.Tensor) and t.device.type == self.device for t in given):  # type: ignore[redundant-expr]
            return None
        try:
            whole = Operands(x, states, params).with_axes(stack.left_out)
        except RuntimeError:  # of another layout
            return None
        done = self.run_unchecked(stack.sequence, whole.x, whole.states, params, False)
        if done is None:
            return None
        for _ in range(stack.left_out):
            for final in done[1]:
                final.squeeze_(0)  # in place, so that it is no view, which ``detach_`` refuses
        return done[1]

    def trace(self, stack: Stack, operands: Operands) -> Traced:
        if torch.is_autocast_enabled(self.device) or torch.compiler.is_compiling() or is_watched():
            return REFERENCE.trace(stack, operands)
        operands = operands.without_unread()
        inputs = operands.differentiable()
        if has_gradient(inputs):
            hidden, steps, *finals = Trace.apply(stack, own_spans(operands.spans), *inputs)  # type: ignore[no-untyped-call]
            finals = apart(finals)
        else:
            hidden, finals, saved = operator.kernels_of(operands.x).trace(stack, operands)
            steps = saved.steps
        # The CPU's kernels save float32 in bfloat16.
        named = {} if steps is None else dict(zip(stack.cell.saved, steps.to(operands.x.dtype).unbind(-2), strict=True))
        others = {name: named[name] for name in stack.cell.states[1:]}
        return Traced(hidden, tuple(finals), others, {name: named[name] for name in stack.cell.traced})


def has_gradient(inputs: Sequence[Tensor]) -> bool:
    """Whether a gradient flows to any of these."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in inputs)


def is_recorded() -> bool:
    """Whether operators are recorded or replaced, so that the call must be a single one."""
    return torch.compiler.is_compiling() or _len_torch_dispatch_stack() > 0


def saves(inputs: Sequence[Tensor]) -> bool:
    """Whether a recorded call keeps what a gradient needs. What is exported or traced mostly infers: it keeps nothing."""
    # The public function that reads this flag is always true in torch 2.8's compiler.
    return has_gradient(inputs) and not torch.compiler._is_exporting_flag and _get_tracing_state() is None


def is_watched() -> bool:
    """Whether what torch does is being transformed, recorded or replaced. The caller has asked about compilers before."""
    return (
        _len_torch_dispatch_stack() > 0
        or _len_torch_function_stack() > 0
        or _are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or _get_tracing_state() is not None
    )


def own_spans(spans: Spans) -> Spans:
    """The spans for a node to keep. What resets start from, and step inputs, are the node's inputs: whether there are any, not which."""
    fresh, step_inputs = (None if of_node is None else () for of_node in (spans.fresh, spans.step_inputs))
    return Spans(*spans.copies(), fresh, step_inputs, spans.draws)
