"""The cuda backend: our kernels on NVIDIA's GPUs from compute capability 8.0 on, in bfloat16, float16 and float32.

They are compiled at first use, for each network's sizes, and kept in the user's cache. In float32 the recurrence's products are tf32's
where torch allows that to cuDNN (``torch.backends.cudnn.allow_tf32``, as by default), else as exact as float32's; the products around it
are as ``torch.set_float32_matmul_precision`` says. What the kernels do not do is refused.
"""

from __future__ import annotations

from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from elman.backends import native, operator
from elman.backends.autograd import Scan, Trace
from elman.backends.backend import Backend
from elman.backends.cuda import launcher
from elman.backends.cuda.plan import CELLS, Number, choose, number_of
from elman.backends.reference import ReferenceBackend
from elman.backends.spans import WHOLE, Spans, Traced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from elman.backends.stack import Stack

_reference = ReferenceBackend()
_requires_grad = attrgetter("requires_grad")
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_PLAIN = frozenset((Tensor, Parameter))
_LEAST_CAPABILITY = (8, 0)
_LARGEST = 2**31 - 1  # steps, sequences


@final
class CudaBackend(Backend):
    name = "cuda"
    device = "cuda"

    def refuses(
        self,
        stack: Stack,
        x: Tensor,
        states: tuple[Tensor, ...] | None,
        params: Sequence[Tensor],
        spans: Spans,
    ) -> str | None:
        if not x.is_cuda:
            return f"does not run on {x.device.type} (CUDA only)"
        dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype
        if dtype not in _DTYPES or x.dtype not in _DTYPES:
            return f"does not run {str(x.dtype).removeprefix('torch.')} (bfloat16, float16 and float32 only)"
        if stack.cell.name not in CELLS:
            return f"has no kernel for {stack.cell.name}"
        if stack.proj_size:
            return "does not run projections (proj_size)"
        if stack.hidden_size == 0 or x.numel() == 0:
            return "does not run what is empty"
        if max(x.shape) > _LARGEST:
            return f"does not run more than {_LARGEST} steps or sequences"
        if torch._C._are_functorch_transforms_active():
            return "does not run under torch.func's transforms"
        if forward_ad._current_level >= 0:
            return "does not run in forward-mode differentiation"
        reason: str | None = _refuses_network(stack.cell.name, stack.hidden_size, dtype, x.get_device())
        if reason is not None:
            return reason
        if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
            return None  # somebody records or replaces operators: they are to see ours as one
        if torch._C._get_tracing_state() is not None:
            return "does not run under torch.jit.trace"
        others = (*params, *(states or ()), *(spans.fresh or ()), *(() if spans.reset is None else (spans.reset,)))
        if not _PLAIN.issuperset(map(type, (x, *others))) or x.layout is not torch.strided:
            return "does not run tensor subclasses, nor layouts other than strided"
        return None

    def run(
        self,
        stack: Stack,
        x: Tensor,
        states: tuple[Tensor, ...] | None,
        params: Sequence[Tensor],
        spans: Spans = WHOLE,
        batch_first: bool = False,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        if torch.is_autocast_enabled("cuda"):
            x, states, params, spans = _cast(torch.get_autocast_dtype("cuda"), x, states, params, spans)
            with torch.autocast("cuda", enabled=False):
                return self.run(stack, x, states, params, spans, batch_first)
        batch_first = batch_first and spans.batch_sizes is None
        if batch_first:
            x = x.transpose(0, 1)
        spans, inputs = native._inputs(x, states, params, spans)
        if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
            output, finals = operator.scan(stack, x, states, params, spans, batch_first)
        elif torch.is_grad_enabled() and any(map(_requires_grad, inputs)):
            output, *finals = Scan.apply(stack, native._own(spans), batch_first, *inputs)  # type: ignore[no-untyped-call]
        else:
            from elman.backends.cuda import run

            output, finals, _ = run.forward(stack, x, states, params, spans, batch_first, save=False)
        return output.transpose(0, 1) if batch_first else output, tuple(finals)

    def trace(
        self,
        stack: Stack,
        x: Tensor,
        states: tuple[Tensor, ...] | None,
        params: Sequence[Tensor],
        spans: Spans = WHOLE,
    ) -> Traced:
        if torch.is_autocast_enabled("cuda") or torch.compiler.is_compiling() or native.is_watched():
            return _reference.trace(stack, x, states, params, spans)
        spans, inputs = native._inputs(x, states, params, spans)
        if torch.is_grad_enabled() and any(map(_requires_grad, inputs)):
            hidden, steps, *finals = Trace.apply(stack, native._own(spans), *inputs)  # type: ignore[no-untyped-call]
        else:
            from elman.backends.cuda import run

            hidden, finals, saved = run.trace(stack, x, states, params, spans)
            steps = saved.steps
        named = () if steps is None else zip(stack.cell.saved, steps.unbind(-2), strict=True)
        return Traced(hidden, tuple(finals), {name: each for name, each in named if name})


def _refuses_network(cell: str, hidden_size: int, dtype: torch.dtype, index: int) -> str | None:
    """What of ``refuses`` depends on the network and the device alone."""
    return _refuses_number(cell, hidden_size, number_of(dtype), index)


# What torch.compiler.assume_constant_result does, which loads the compiler.
_refuses_network._dynamo_marked_constant = True  # type: ignore[attr-defined]


@lru_cache(maxsize=4096)
def _refuses_number(cell: str, hidden_size: int, number: Number, index: int) -> str | None:
    if reason := launcher.unavailable_reason():
        return f"cannot run: {reason}"
    device = launcher.device_properties(index)
    if device.capability < _LEAST_CAPABILITY:
        return f"does not run on a {device.name}, whose compute capability is below 8.0"
    try:
        device.arch  # noqa: B018 - raises where the compiler is older than the device
    except RuntimeError as error:
        return f"cannot run: {error}"
    for is_backward in (False, True):
        if not choose(cell, is_backward, number, hidden_size, 1, 1, False, device):
            return f"has no plan for hidden_size={hidden_size} in {number.name.lower()} on a {device.name}"
    return None


def _cast(
    dtype: torch.dtype, x: Tensor, states: tuple[Tensor, ...] | None, params: Sequence[Tensor], spans: Spans
) -> tuple[Tensor, tuple[Tensor, ...] | None, list[Tensor], Spans]:
    """All in autocast's dtype, as torch.nn's layers run there."""
    fresh = None if spans.fresh is None else tuple([state.to(dtype) for state in spans.fresh])
    states = None if states is None else tuple([state.to(dtype) for state in states])
    return x.to(dtype), states, [param.to(dtype) for param in params], spans._replace(fresh=fresh)
