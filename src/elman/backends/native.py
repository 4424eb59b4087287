"""The native backend: our C++ kernels, on the CPU, in float32 and float64.

What they do not do is refused, and so goes to the reference. Gradients come from one autograd node; a gradient that is itself to be
differentiated is computed by the reference, from the same inputs.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from elman.backends import kernels, operator
from elman.backends.backend import Backend
from elman.backends.reference import ReferenceBackend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from elman.backends.stack import Stack

_reference = ReferenceBackend()
_PLAIN = frozenset((Tensor, Parameter))  # a subclass may mean anything by its operations
_AVAILABLE = kernels.available()
_requires_grad = attrgetter("requires_grad")


@final
class NativeBackend(Backend):
    name = "native"

    @property
    def label(self) -> str:
        return f"native ({kernels.isa()})" if kernels.available() else "native"

    def refuses(
        self,
        stack: Stack,
        x: Tensor,
        states: tuple[Tensor, ...] | None,
        params: Sequence[Tensor],
        batch_sizes: Tensor | None,
    ) -> str | None:
        if not _AVAILABLE:
            return f"is not built here ({kernels.unavailable_reason()})"
        if not x.is_cpu:
            return f"does not run on {x.device.type} (the CPU only)"
        if x.dtype not in kernels.NUMBERS:
            return f"does not run {str(x.dtype).removeprefix('torch.')} (float32 and float64 only)"
        if stack.cell.name not in kernels.CELLS:
            return f"has no kernel for {stack.cell.name}"
        if torch.is_autocast_enabled("cpu"):
            return "does not run under autocast"
        if stack.hidden_size == 0 or x.numel() == 0:
            return "does not run what is empty"
        if torch._C._are_functorch_transforms_active():
            return "does not run under torch.func's transforms"
        if forward_ad._current_level >= 0:
            return "does not run in forward-mode differentiation"
        if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
            return None  # somebody records or replaces operators: they are to see ours as one
        if torch._C._get_tracing_state() is not None:
            return "does not run under torch.jit.trace"
        if not _PLAIN.issuperset(map(type, (x, *params, *(states or ())))) or x.layout is not torch.strided:
            return "does not run tensor subclasses, nor layouts other than strided"
        return None

    def run(
        self,
        stack: Stack,
        x: Tensor,
        states: tuple[Tensor, ...] | None,
        params: Sequence[Tensor],
        batch_sizes: Tensor | None = None,
        batch_first: bool = False,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        h_0 = None if states is None else states[0]
        if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
            output, final = operator.scan(stack, x, h_0, params, batch_sizes, batch_first)
            return output, (final,)
        if torch.is_grad_enabled() and (x.requires_grad or (h_0 is not None and h_0.requires_grad) or any(map(_requires_grad, params))):
            output, final = _Scan.apply(stack, batch_sizes, batch_first, x, h_0, *params)  # type: ignore[no-untyped-call]
        else:
            output, final, _ = kernels.forward(stack, x, h_0, params, batch_sizes, batch_first, keep=False)
        return output, (final,)

    def run_plain(
        self, stack: Stack, x: Tensor, states: tuple[Tensor, ...] | None, params: tuple[Tensor, ...], batch_first: bool
    ) -> tuple[Tensor, tuple[Tensor, ...]] | None:
        if not _AVAILABLE or _is_watched() or torch.is_autocast_enabled("cpu"):
            return None
        done = kernels.plain_forward(stack, x, None if states is None else states[0], params, batch_first)
        return None if done is None else (done[0], (done[1],))


def _is_watched() -> bool:
    """Whether somebody transforms, records or replaces what torch does. A compiler is told apart before."""
    return (
        torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
    )


class _Scan(torch.autograd.Function):
    """A run and its gradient.

    Keeps, beyond the inputs, the outputs of every layer: D·H numbers for each row of each step. The last layer's are the very tensor that
    the caller gets, who may write into it, as with torch.nn's layers: then the gradient runs the network once more. So it does where hooks
    look after what is saved (checkpoints, offloading), since what they do not see would stay in memory, and where a graph is used twice.
    """

    @staticmethod
    def forward(
        ctx: Any, stack: Stack, batch_sizes: Tensor | None, batch_first: bool, x: Tensor, h_0: Tensor | None, *params: Tensor
    ) -> tuple[Tensor, Tensor]:
        output, final, hidden = kernels.forward(stack, x, h_0, params, batch_sizes, batch_first, keep=True)
        ctx.call = stack, batch_sizes, batch_first
        ctx.save_for_backward(x, h_0, *params)
        ctx.set_materialize_grads(False)
        ctx.hooked = _saving_is_hooked()
        if not ctx.hooked:
            kept = output.detach()  # shares the memory and the count of writes to it
            ctx.kept = kept, kept._version, hidden
        return output, final

    @staticmethod
    def backward(ctx: Any, d_output: Tensor | None, d_final: Tensor | None) -> tuple[Tensor | None, ...]:
        stack, batch_sizes, batch_first = ctx.call
        x, h_0, *params = ctx.saved_tensors
        wanted = ctx.needs_input_grad[3:]
        if _is_differentiated(d_output, d_final):
            inputs = (x, h_0, *params)
            gradients = _differentiable_gradients(stack, batch_sizes, batch_first, inputs, wanted, (d_output, d_final))
            return (None, None, None, *gradients)
        if ctx.hooked:
            kernels.check(stack, x, h_0, params, batch_sizes)
        output, version, hidden = ctx.__dict__.pop("kept", (None, 0, None))
        if output is None or output._version != version:
            output, _, hidden = kernels.forward(stack, x, h_0, params, batch_sizes, batch_first, keep=True)
        d_x, d_h_0, d_params = kernels.backward(stack, x, h_0, params, batch_sizes, batch_first, output, hidden, d_output, d_final, wanted)
        return (None, None, None, d_x, d_h_0, *d_params)


def _saving_is_hooked() -> bool:
    """Whether somebody has a say in what is saved for backward: torch.utils.checkpoint, save_on_cpu, a user's own hooks."""
    return torch._C._autograd._top_saved_tensors_default_hooks(False) is not None


def _is_differentiated(*gradients: Tensor | None) -> bool:
    """Whether a gradient is computed under something that differentiates or maps it in turn."""
    return (
        torch.is_grad_enabled()
        or forward_ad._current_level >= 0
        or torch._C._are_functorch_transforms_active()
        or any(g is not None and torch._C._functorch.is_legacy_batchedtensor(g) for g in gradients)
    )


def _differentiable_gradients(
    stack: Stack,
    batch_sizes: Tensor | None,
    batch_first: bool,
    inputs: tuple[Tensor | None, ...],
    wanted: Sequence[bool],
    gradients: tuple[Tensor | None, Tensor | None],
) -> list[Tensor | None]:
    """The same gradients from the reference, as functions of the inputs and of the outputs' gradients that can be differentiated again."""
    with torch.enable_grad():
        # A view of its own for each, so that a tensor that serves twice gets each use's gradient once.
        x, h_0, *params = [t.view_as(t) if t is not None and want else t for t, want in zip(inputs, wanted, strict=True)]
        assert x is not None
        output, (final,) = _reference.run(
            stack, x, None if h_0 is None else (h_0,), [p for p in params if p is not None], batch_sizes, batch_first
        )
        pairs = [(o, g) for o, g in zip((output, final), gradients, strict=True) if g is not None]
        targets = [t for t, want in zip((x, h_0, *params), wanted, strict=True) if t is not None and want]
        if not pairs:
            return [None] * len(inputs)
        found = iter(torch.autograd.grad([o for o, _ in pairs], targets, [g for _, g in pairs], create_graph=True, allow_unused=True))
        return [next(found) if t is not None and want else None for t, want in zip(inputs, wanted, strict=True)]
