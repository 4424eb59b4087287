"""The native backend: our C++ kernels, on the CPU, in float32, float64 and bfloat16.

What they do not do is refused, and so goes to the reference. Gradients come from one node of torch's graph (``autograd``). Under autocast
the network runs in bfloat16.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor
from torch.autograd import forward_ad

from elman.backends import call, kernels, operator
from elman.backends.autograd import Scan, Trace
from elman.backends.backend import Backend
from elman.backends.reference import ReferenceBackend
from elman.backends.spans import WHOLE, Spans, Traced

if kernels.available():
    from elman import _native

if TYPE_CHECKING:
    from collections.abc import Sequence

    from elman.backends.stack import Stack

_reference = ReferenceBackend()
_PLAIN = frozenset(kernels.PLAIN)
_AVAILABLE = kernels.available()
_requires_grad = attrgetter("requires_grad")


@final
class NativeBackend(Backend):
    name = "native"
    device = "cpu"

    @property
    def label(self) -> str:
        return f"native ({kernels.isa()})" if kernels.available() else "native"

    def refuses(
        self,
        stack: Stack,
        x: Tensor,
        states: tuple[Tensor, ...] | None,
        params: Sequence[Tensor],
        spans: Spans,
    ) -> str | None:
        if not _AVAILABLE:
            return f"is not built here ({kernels.unavailable_reason()})"
        if not x.is_cpu:
            return f"does not run on {x.device.type} (the CPU only)"
        if x.dtype not in kernels.NUMBERS:
            return f"does not run {_name(x.dtype)} (float32, float64 and bfloat16 only)"
        if stack.cell.name not in kernels.CELLS:
            return f"has no kernel for {stack.cell.name}"
        others = (*params, *(states or ()), *(spans.fresh or ()))
        if torch.is_autocast_enabled("cpu"):
            target = torch.get_autocast_dtype("cpu")
            if target is not torch.bfloat16:
                return f"does not run under autocast to {_name(target)} (bfloat16 only)"
            if any(t.dtype is torch.float64 for t in (x, *others)):
                return "does not run float64 under autocast"
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
        if (
            not _PLAIN.issuperset(map(type, (x, *others, *(() if spans.reset is None else (spans.reset,)))))
            or x.layout is not torch.strided
        ):
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
        if torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return self._run_autocast(stack, x, states, params, spans, batch_first)
        batch_first = batch_first and spans.batch_sizes is None
        if batch_first:
            x = x.transpose(0, 1)
        spans, inputs = _inputs(x, states, params, spans)
        if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
            output, finals = operator.scan(stack, x, states, params, spans, batch_first)
        elif torch.is_grad_enabled() and any(map(_requires_grad, inputs)):
            output, *finals = Scan.apply(stack, _own(spans), batch_first, *inputs)  # type: ignore[no-untyped-call]
        else:
            output, finals, _ = call.forward(stack, x, states, params, spans, batch_first, save=False)
        return output.transpose(0, 1) if batch_first else output, tuple(finals)

    def _run_autocast(
        self,
        stack: Stack,
        x: Tensor,
        states: tuple[Tensor, ...] | None,
        params: Sequence[Tensor],
        spans: Spans,
        batch_first: bool,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What ``run`` is under autocast to bfloat16, with results of the dtypes that torch's operators give.

        There, products are bfloat16, and so is what comes of them alone. States that are sums over many steps (``Cell.sums``: a GRU's h, an
        LSTM's c) keep their dtype (float16, which bfloat16 is added to, becomes float32), an LSTM's h has that of c. The kernels hold c in
        float32 for the length of a call; a cell whose output is a sum runs in its dtype.
        """
        given, cell = (x if states is None else states[-1]).dtype, stack.cell
        lasting = torch.float32 if cell.sums and given is not torch.bfloat16 else torch.bfloat16
        dtype = lasting if cell.states[0] in cell.sums else torch.bfloat16
        states = None if states is None else tuple([state.to(dtype) for state in states])
        spans = spans._replace(fresh=None if spans.fresh is None else tuple([state.to(dtype) for state in spans.fresh]))
        output, finals = self.run(stack, x.to(dtype), states, [p.to(dtype) for p in params], spans, batch_first)
        first = torch.bfloat16 if stack.proj_size else lasting
        return output.to(first), (finals[0].to(first), *[final.to(lasting) for final in finals[1:]])

    def trace(
        self,
        stack: Stack,
        x: Tensor,
        states: tuple[Tensor, ...] | None,
        params: Sequence[Tensor],
        spans: Spans = WHOLE,
    ) -> Traced:
        plain = not (torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling() or is_watched())
        if not plain or x.dtype is torch.bfloat16:
            return _reference.trace(stack, x, states, params, spans)
        spans, inputs = _inputs(x, states, params, spans)
        if torch.is_grad_enabled() and any(map(_requires_grad, inputs)):
            hidden, steps, *finals = Trace.apply(stack, _own(spans), *inputs)  # type: ignore[no-untyped-call]
        else:
            hidden, finals, saved = call.trace(stack, x, states, params, spans)
            steps = saved.steps
        named = () if steps is None else zip(stack.cell.saved, steps.unbind(-2), strict=True)
        return Traced(hidden, tuple(finals), {name: each for name, each in named if name})

    def run_unchecked(
        self, stack: Stack, x: Tensor, states: tuple[Tensor, ...] | None, params: Sequence[Tensor], batch_first: bool
    ) -> tuple[Tensor, tuple[Tensor, ...]] | None:
        if not _AVAILABLE or getattr(x, "is_cuda", False) or is_watched() or torch.is_autocast_enabled("cpu"):
            return None
        if states is not None and len(states) > 1 and any(state is None for state in states):
            return None  # the kernels would take zeros for it
        operands = stack.numbers, params, x, states, None, None, None, None, batch_first, False, torch.get_num_threads()
        try:
            done = _native.forward(*operands, grad_mode=torch.is_grad_enabled())
            if done is None:  # it has a gradient
                if not x.is_cpu:
                    return None
                output, *finals = Scan.apply(stack, WHOLE, batch_first, x, *(states or ()), *params)  # type: ignore[no-untyped-call]
                return output, tuple(finals)
        except (AttributeError, RuntimeError, TypeError, ValueError):  # an operand is no tensor, or not one that the kernels read
            return None
        output, finals, *_ = done
        return output, finals


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def is_watched() -> bool:
    """Whether somebody transforms, records or replaces what torch does. A compiler is told apart before."""
    return (
        torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
    )


def _inputs(x: Tensor, states: tuple[Tensor, ...] | None, params: Sequence[Tensor], spans: Spans) -> tuple[Spans, tuple[Tensor, ...]]:
    """The spans, with what resets start from only where there are resets; and all that can be differentiated, as a node's inputs."""
    if spans.reset is None and spans.fresh is not None:
        spans = spans._replace(fresh=None)
    return spans, (x, *(states or ()), *(spans.fresh or ()), *params)


def _own(spans: Spans) -> Spans:
    """The spans for a node to keep: the caller may write into its tensors. What resets start from is the node's input: there, not which."""
    batch_sizes, lengths, reset = (None if t is None else t.clone() for t in (spans.batch_sizes, spans.lengths, spans.reset))
    return Spans(batch_sizes, lengths, reset, None if spans.fresh is None else ())
