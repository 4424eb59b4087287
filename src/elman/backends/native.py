"""The native backend: our C++ kernels, on the CPU, in float32, float64 and bfloat16.

What they do not do is refused, and so goes to the reference. Gradients come from one autograd node; a gradient that is itself to be
differentiated is computed by the reference, from the same inputs. Under autocast the network runs in bfloat16.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor
from torch.autograd import forward_ad

from elman.backends import kernels, operator
from elman.backends.backend import Backend
from elman.backends.reference import ReferenceBackend
from elman.backends.spans import WHOLE, Spans, Traced

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from elman.backends.stack import Stack

_reference = ReferenceBackend()
_PLAIN = frozenset(kernels.PLAIN)
_AVAILABLE = kernels.available()
_requires_grad = attrgetter("requires_grad")
# What the kernels keep of each step, in their order (csrc/cells), as far as it has a name.
_KEPT = {"gru": ("r", "z", "n"), "lstm": ("i", "f", "g", "o", "c")}


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
            output, *finals = _Scan.apply(stack, _own(spans), batch_first, *inputs)  # type: ignore[no-untyped-call]
        else:
            output, finals, _ = kernels.forward(stack, x, states, params, spans, batch_first, keep=False)
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

        There, products are bfloat16, and so is what comes of them alone. A GRU's h and an LSTM's c are sums over many steps and keep their
        dtype (float16, which bfloat16 is added to, becomes float32), an LSTM's h that of c. The kernels keep c in float32 for the length of
        a call; a GRU runs in the dtype of its h.
        """
        given = (x if states is None else states[-1]).dtype
        lasting = torch.bfloat16 if stack.cell.name.startswith("rnn") or given is torch.bfloat16 else torch.float32
        dtype = lasting if stack.cell.name == "gru" else torch.bfloat16
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
            hidden, steps, *finals = _Trace.apply(stack, _own(spans), *inputs)  # type: ignore[no-untyped-call]
        else:
            hidden, finals, kept = kernels.trace(stack, x, states, params, spans)
            steps = kept.steps
        return Traced(hidden, tuple(finals), {} if steps is None else dict(zip(_KEPT[stack.cell.name], steps.unbind(-2), strict=False)))

    def run_plain(
        self, stack: Stack, x: Tensor, states: tuple[Tensor, ...] | None, params: tuple[Tensor, ...], batch_first: bool
    ) -> tuple[Tensor, tuple[Tensor, ...]] | None:
        if not _AVAILABLE or is_watched() or torch.is_autocast_enabled("cpu") or stack.cell.name not in kernels.CELLS:
            return None
        done = kernels.plain_forward(stack, x, states, params, batch_first, torch.is_grad_enabled(), False)
        if done is None:
            return None
        if isinstance(done, tuple):
            return done[:2]
        output, *finals = _Scan.apply(stack, WHOLE, batch_first, x, *(states or ()), *params)  # type: ignore[no-untyped-call]
        return output, tuple(finals)


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
    """The same for a node to keep: the caller may write into its tensors. What resets start from is the node's input: there, not which."""
    batch_sizes, lengths, reset = (None if t is None else t.clone() for t in (spans.batch_sizes, spans.lengths, spans.reset))
    return Spans(batch_sizes, lengths, reset, None if spans.fresh is None else ())


class _Scan(torch.autograd.Function):
    """A run and its gradient. Inputs: x, laid out as ``kernels.forward`` has it; the initial states if there are any; what resets start
    from, if it is not zeros; and the parameters.

    Keeps, beyond the inputs, the outputs of every layer and what the cell needs of each step. The last layer's outputs are the very tensor
    that the caller gets, who may write into it, as with torch.nn's layers: then the gradient runs the network once more. So it does
    where hooks look after what is saved (checkpoints, offloading), since what they do not see would stay in memory, and where a graph is
    used twice.
    """

    @staticmethod
    def forward(ctx: Any, stack: Stack, spans: Spans, batch_first: bool, x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        states, whole, params = _split(stack, spans, rest)
        output, finals, kept = _forward(stack, x, states, params, whole, batch_first)
        ctx.call = stack, spans, batch_first
        ctx.save_for_backward(x, *rest)
        ctx.set_materialize_grads(False)
        if not operator.saving_is_hooked():
            shared = output.detach()  # shares the memory and the count of writes to it
            ctx.kept = shared, shared._version, kept
        return output, *finals

    @staticmethod
    def backward(ctx: Any, d_output: Tensor | None, *d_finals: Tensor | None) -> tuple[Tensor | None, ...]:
        stack, spans, batch_first = ctx.call
        inputs = ctx.saved_tensors
        wanted = ctx.needs_input_grad[3:]
        if _is_differentiated((d_output, *d_finals)):

            def again(x: Tensor, states: tuple[Tensor, ...] | None, params: tuple[Tensor, ...], whole: Spans) -> tuple[Tensor, ...]:
                output, finals = _reference.run(stack, x.transpose(0, 1) if batch_first else x, states, params, whole)
                return output.transpose(0, 1) if batch_first else output, *finals

            return None, None, None, *_differentiable_gradients(again, stack, spans, inputs, wanted, (d_output, *d_finals))
        x, *rest = inputs
        states, whole, params = _split(stack, spans, rest)
        output, version, kept = ctx.__dict__.pop("kept", (None, 0, None))
        if output is None or output._version != version:
            output, _, kept = _forward(stack, x, states, params, whole, batch_first)
        gradients = kernels.backward(stack, x, states, params, whole, batch_first, output, kept, d_output, d_finals, wanted)
        return None, None, None, *gradients


class _Trace(torch.autograd.Function):
    """The same for ``kernels.trace``: all outputs, (L, T, B, D·H), all that the cell keeps, (L·D, T, B, K, H), and the final states."""

    @staticmethod
    def forward(ctx: Any, stack: Stack, spans: Spans, x: Tensor, *rest: Tensor) -> tuple[Tensor | None, ...]:
        states, whole, params = _split(stack, spans, rest)
        outputs, finals, kept = kernels.trace(stack, x, states, params, whole)
        ctx.call = stack, spans
        ctx.save_for_backward(x, *rest)
        ctx.set_materialize_grads(False)
        if not operator.saving_is_hooked():
            shared = [t.detach() for t in (outputs, kept.steps) if t is not None]
            ctx.kept = shared, [t._version for t in shared]
        return outputs, kept.steps, *finals

    @staticmethod
    def backward(ctx: Any, d_outputs: Tensor | None, d_steps: Tensor | None, *d_finals: Tensor | None) -> tuple[Tensor | None, ...]:
        stack, spans = ctx.call
        inputs = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        if _is_differentiated((d_outputs, d_steps, *d_finals)):

            def again(x: Tensor, states: tuple[Tensor, ...] | None, params: tuple[Tensor, ...], whole: Spans) -> tuple[Tensor | None, ...]:
                traced = _reference.trace(stack, x, states, params, whole)
                names = _KEPT.get(stack.cell.name, ())
                steps = [traced.steps[name] for name in names]
                if stack.cell.name == "gru":  # of what is kept the last has no name, and so no gradient
                    steps.append(torch.zeros_like(steps[0]))
                return traced.hidden, torch.stack(steps, -2) if steps else None, *traced.finals

            return None, None, *_differentiable_gradients(again, stack, spans, inputs, wanted, (d_outputs, d_steps, *d_finals))
        x, *rest = inputs
        states, whole, params = _split(stack, spans, rest)
        shared, versions = ctx.__dict__.pop("kept", ((), ()))
        if not shared or [t._version for t in shared] != versions:
            outputs, _, kept = kernels.trace(stack, x, states, params, whole)
            shared = [t for t in (outputs, kept.steps) if t is not None]
        outputs, steps = (*shared, None)[:2]
        kept = kernels.Kept(outputs[:-1] if stack.num_layers > 1 else None, steps, None)
        d_hidden = None if d_outputs is None or stack.num_layers == 1 else d_outputs[:-1]
        gradients = kernels.backward(
            stack,
            x,
            states,
            params,
            whole,
            False,
            outputs[-1],
            kept,
            None if d_outputs is None else d_outputs[-1],
            d_finals,
            wanted,
            kernels.Kept(d_hidden, d_steps, None),
        )
        return None, None, *gradients


def _split(stack: Stack, spans: Spans, rest: Sequence[Tensor]) -> tuple[tuple[Tensor, ...] | None, Spans, tuple[Tensor, ...]]:
    """The initial states, None if there are none; the spans with what resets start from; and the parameters."""
    count = len(stack.cell.states)
    begin = len(rest) - len(stack.shapes)
    middle = begin if spans.fresh is None else begin - count
    whole = spans if spans.fresh is None else spans._replace(fresh=tuple(rest[middle:begin]))
    return tuple(rest[:middle]) or None, whole, tuple(rest[begin:])


def _forward(
    stack: Stack, x: Tensor, states: tuple[Tensor, ...] | None, params: tuple[Tensor, ...], spans: Spans, batch_first: bool
) -> tuple[Tensor, tuple[Tensor, ...], kernels.Kept]:
    """A run that keeps what its gradient needs."""
    if spans.is_whole() and not stack.recompute:
        done = kernels.plain_forward(stack, x, states, params, batch_first, False, True)
        if isinstance(done, tuple):
            output, finals, hidden, steps = done
            return output, finals, kernels.Kept(hidden, steps, None)
    return kernels.forward(stack, x, states, params, spans, batch_first, keep=True)


def _is_differentiated(gradients: Sequence[Tensor | None]) -> bool:
    """Whether a gradient is computed under something that differentiates or maps it in turn."""
    if torch.is_grad_enabled() or forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active():
        return True
    is_batched = torch._C._functorch.is_legacy_batchedtensor
    return any(g is not None and is_batched(g) for g in gradients)


def _differentiable_gradients(
    run: Callable[..., Sequence[Tensor | None]],
    stack: Stack,
    spans: Spans,
    inputs: tuple[Tensor, ...],
    wanted: Sequence[bool],
    gradients: tuple[Tensor | None, ...],
) -> list[Tensor | None]:
    """The same gradients from the reference, as functions of the inputs and of the outputs' gradients that can be differentiated again.

    ``run`` takes x, states, params and spans, and gives what the gradients are of.
    """
    with torch.enable_grad():
        # A view of its own for each, so that a tensor that serves twice gets each use's gradient once.
        x, *rest = inputs = tuple([t.view_as(t) if want else t for t, want in zip(inputs, wanted, strict=True)])
        states, whole, params = _split(stack, spans, rest)
        results = run(x, states, params, whole)
        pairs = [(o, g) for o, g in zip(results, gradients, strict=True) if o is not None and g is not None]
        targets = [t for t, want in zip(inputs, wanted, strict=True) if want]
        if not pairs:
            return [None] * len(inputs)
        found = iter(torch.autograd.grad([o for o, _ in pairs], targets, [g for _, g in pairs], create_graph=True, allow_unused=True))
        return [next(found) if want else None for want in wanted]
