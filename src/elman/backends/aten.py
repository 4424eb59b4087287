"""The aten backend: torch's own fused layers (cuDNN on NVIDIA's GPUs), for what our kernels do not run on a GPU, and for torch.jit.trace.

Padded sequences with lengths are packed, run and padded again. Gradients are torch's. A gradient that is itself differentiated, which
cuDNN does not support, is computed by the reference. A trace records torch's operators: they take any number of steps and sequences, and
the file loads without Elman.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active
from torch.autograd import forward_ad

from elman.backends import autograd, operator
from elman.backends.backend import Backend
from elman.backends.kernel_backend import has_gradient, is_recorded, is_watched, own_spans, saves
from elman.backends.kernels import are_plain
from elman.backends.node import Node
from elman.backends.operands import Operands
from elman.backends.reference import REFERENCE
from elman.backends.spans import Spans

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from elman.backends.spans import Traced
    from elman.backends.stack import Stack

# Torch's function for a cell, and cuDNN's number of it.
_FUNCTIONS = {"rnn_relu": ("rnn_relu", 0), "rnn_tanh": ("rnn_tanh", 1), "lstm": ("lstm", 2), "gru": ("gru", 3)}
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@final
class AtenBackend(Backend):
    name = "aten"
    device = "cuda"

    def refuses(self, stack: Stack, operands: Operands) -> str | None:
        x, states, params, spans = operands
        is_traced = torch._C._get_tracing_state() is not None
        if not x.is_cuda and not is_traced:
            return f"does not run on {x.device.type} (CUDA only)"
        if stack.cell.name not in _FUNCTIONS:
            return f"has no kernel for {stack.cell.name or type(stack.cell).__name__}"
        if spans.reset is not None:
            return "does not run resets"
        if torch.is_autocast_enabled("cuda" if x.is_cuda else "cpu") and (is_traced or x.dtype is torch.float64):
            return "does not run torch.jit.trace or float64 under autocast"
        if x.dtype not in DTYPES:
            return "does not run this dtype"
        recorded = not is_traced and is_recorded()
        if stack.hidden_size == 0 or (not recorded and x.numel() == 0):
            return "does not run empty tensors"
        if is_traced:
            return "does not export projections to ONNX" if stack.proj_size and torch.onnx.is_in_onnx_export() else None
        if forward_ad._current_level >= 0 or _are_functorch_transforms_active():
            return "does not run forward-mode differentiation, nor under torch.func's transforms"
        if recorded:
            return None
        if is_watched():
            return "does not run under torch modes"
        if not are_plain(x, *params, *(states or ())):
            return "does not run tensor subclasses"
        return None

    def run(self, stack: Stack, operands: Operands, batch_first: bool = False) -> tuple[Tensor, tuple[Tensor, ...]]:
        x, device = operands.x, operands.x.device.type
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return self.run(stack, operands.to(torch.get_autocast_dtype(device)), batch_first)
        operands = operands.without_unread()
        inputs = operands.differentiable()
        if torch._C._get_tracing_state() is not None:
            x = x.permute(*range(x.dim()))  # what is traced writes no number of axes down: so an x of another is an error
            return run_by_torch(stack, operands.replaced(x=x))
        if is_recorded():
            batch_first = batch_first and operands.spans.batch_sizes is None
            output, finals = operator.scan(stack, operands.time_first(batch_first), batch_first, saves(inputs))
            return output.transpose(0, 1) if batch_first else output, finals
        if operands.spans.lengths is not None:
            return _run_padded(self.run, stack, operands)
        if has_gradient(inputs):
            return autograd.of_node(stack, _Run.apply(stack, own_spans(operands.spans), *inputs))  # type: ignore[no-untyped-call]
        return _run(stack, operands)

    def trace(self, stack: Stack, operands: Operands) -> Traced:
        return REFERENCE.trace(stack, operands)


class _Run(Node):
    """A run of torch's layers with a graph of its own, whose second derivatives the reference computes."""

    @staticmethod
    def forward(ctx: Any, stack: Stack, spans: Spans, *inputs: Tensor) -> tuple[Tensor, ...]:
        needs_grad = ctx.needs_input_grad[2:]
        with torch.enable_grad():
            own = tuple([t.detach().requires_grad_(need) for t, need in zip(inputs, needs_grad, strict=True)])
            output, finals = _run(stack, autograd.joined(stack, spans, own))
        ctx.call, ctx.graph = (stack, spans), (own, (output, *finals))
        ctx.save_for_backward(*inputs)
        ctx.set_materialize_grads(False)
        return output.detach(), *[final.detach() for final in finals]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        (stack, spans), needs_grad = ctx.call, ctx.needs_input_grad[2:]
        if autograd.is_differentiated(grads):

            def again(operands: Operands) -> tuple[Tensor, ...]:
                output, finals = REFERENCE.run(stack, operands)
                return output, *finals

            return None, None, *autograd.differentiable_gradients(again, stack, spans, ctx.saved_tensors, needs_grad, grads)
        inputs, results = ctx.graph
        pairs = [(result, grad) for result, grad in zip(results, grads, strict=True) if grad is not None and result.requires_grad]
        targets = [t for t in inputs if t.requires_grad]
        if not pairs:
            return (None,) * (2 + len(inputs))
        outputs, grad_outputs = zip(*pairs, strict=True)
        computed = iter(torch.autograd.grad(outputs, targets, grad_outputs, retain_graph=True, allow_unused=True))
        return None, None, *[next(computed) if t.requires_grad else None for t in inputs]


def run_by_torch(stack: Stack, operands: Operands) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a stack by torch's function, which autograd knows."""
    return _run(stack, operands) if operands.spans.lengths is None else _run_padded(_run, stack, operands)


def _run_padded(
    run: Callable[[Stack, Operands], tuple[Tensor, tuple[Tensor, ...]]], stack: Stack, operands: Operands
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run padded sequences with lengths as packed ones. A trace, which writes down everything that is not a tensor, follows it, too."""
    x, states, params, spans = operands
    lengths = spans.lengths
    assert lengths is not None
    steps, batch = x.shape[0], x.shape[1]
    none = (lengths == 0).to(x.device).unsqueeze(-1)
    ordered, order = lengths.clamp(min=1).sort(descending=True)  # torch packs no sequence without steps
    on = order.to(x.device)
    back = on.argsort()
    x = x.masked_fill(none, 0)  # else NaN there reaches the gradients of the weights, and from states too: 0 * NaN is NaN
    packed, batch_sizes = torch._VF._pack_padded_sequence(x.index_select(1, on), ordered, False)
    before = states or _zeros(stack, x, batch)
    initial = tuple([state.masked_fill(none, 0).index_select(1, on) for state in before])
    output, finals = run(stack, Operands(packed, initial, params, Spans(batch_sizes)))
    output, _ = torch._VF._pad_packed_sequence(output, batch_sizes, False, 0.0, steps)
    finals = tuple([torch.where(none, start, final.index_select(1, back)) for start, final in zip(before, finals, strict=True)])
    return output.index_select(1, back).masked_fill(none, 0), finals


def _run(stack: Stack, operands: Operands) -> tuple[Tensor, tuple[Tensor, ...]]:
    x, states, params, spans = operands
    name, mode = _FUNCTIONS[stack.cell.name]
    if states is None:
        sequences: Any = x.shape[1] if spans.batch_sizes is None else spans.batch_sizes[0]  # a trace takes a size that is a tensor
        states = _zeros(stack, x, sequences)
    states = tuple([state.contiguous() for state in states])
    start: Any = states if len(states) > 1 else states[0]
    options = (stack.bias, stack.num_layers, 0.0, True, stack.bidirectional)
    weights = _together(stack, x, params, mode)
    if spans.batch_sizes is None:
        output, *finals = getattr(torch._VF, name)(x, start, weights, *options, False)
    else:
        output, *finals = getattr(torch._VF, name)(x, spans.batch_sizes, start, weights, *options)
    return output, tuple(finals)


def _zeros(stack: Stack, x: Tensor, sequences: int) -> tuple[Tensor, ...]:
    """Initial states."""
    return tuple([x.new_zeros((stack.num_layers * stack.num_directions, sequences, width)) for width in stack.state_sizes])


def _together(stack: Stack, x: Tensor, params: Sequence[Tensor], mode: int) -> list[Tensor]:
    """The weights in one piece of memory, as cuDNN wants them: otherwise it copies them itself, and warns."""
    weights = list(params)
    if not x.is_cuda or torch.is_grad_enabled() or not torch.backends.cudnn.is_acceptable(x):  # type: ignore[no-untyped-call]
        return weights
    weights = [weight.clone() for weight in weights]
    torch._cudnn_rnn_flatten_weight(
        weights,
        stack.tensors_per_direction,
        stack.input_size,
        mode,
        stack.hidden_size,
        stack.proj_size,
        stack.num_layers,
        False,
        stack.bidirectional,
    )
    return weights
