"""An LSTM with a projection on the GPU (H. Sak, A. Senior, F. Beaufays, Interspeech 2014), run as one without.

It passes h = W_hr m from step to step, where m, (H,), is what an LSTM without a projection passes. A step multiplies
W_hh h = (W_hh W_hr) m. So the kernels pass m and multiply it by W_hh W_hr, which is made once a call; then one product projects the
outputs of all steps. Blocks exchange one vector a step, where else it would be two, m and then h. A state h that comes from no step, an
initial one or one after a reset, is an input of the step that follows: beside x, by W_hh. Up to rounding the results are the same; in
16 bits the errors are about those of a state that is rounded at each step.

Only differentiable operations: autograd knows the gradients.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn.functional import linear

from elman.backends.autograd import differentiable_view, is_differentiated, may_be_differentiated
from elman.backends.call import dense
from elman.backends.cuda import run
from elman.backends.cuda.batch import Batch
from elman.backends.cuda.cublaslt import Form
from elman.backends.cuda.plan import number_of
from elman.backends.cuda.products import multiply
from elman.backends.kernel_backend import is_recorded
from elman.backends.node import Node
from elman.backends.operands import Operands

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from elman.backends.stack import Stack


def run_projected(
    unprojected: Callable[[Stack, Operands, bool], tuple[Tensor, tuple[Tensor, ...]]], stack: Stack, operands: Operands, batch_first: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """``Backend.run`` of a stack with a projection; ``unprojected``: of one without."""
    x, states, _, spans = operands
    batch_first = batch_first and spans.batch_sizes is None
    batch, lasts = Batch.of(x, spans, False), []
    cells: list[Tensor] = []
    for index in range(stack.num_layers):
        layer = _layer(stack, index, operands.of_layer(stack, index, x), batch)
        inner, (_, c_n) = unprojected(layer.stack, layer.operands, batch_first)
        x = project(inner.transpose(0, 1), layer.w_hr).transpose(0, 1) if batch_first else project(inner, layer.w_hr)
        if batch.lengths is not None and batch.offsets is None:
            x = batch.without_padding(x, False)  # it is zeros; what gradient arrives there, be it NaN, goes no further
        for k, output in enumerate(x.chunk(stack.num_directions, -1)):
            place = index * stack.num_directions + k
            lasts.append(_last(output, None if states is None else states[0][place], batch, bool(k)))
        cells.append(c_n)
    return x, (torch.stack(lasts), torch.cat(cells))


class _Layer(NamedTuple):
    """A layer as one without a projection, what it is run on, and W_hr of each direction."""

    stack: Stack
    operands: Operands
    w_hr: list[Tensor]


def _layer(stack: Stack, index: int, operands: Operands, batch: Batch) -> _Layer:
    x, states, params, spans = operands
    each = stack.tensors_per_direction
    weights = [dict(zip(stack.kinds, params[k * each : (k + 1) * each], strict=True)) for k in range(stack.num_directions)]
    fresh = None if spans.reset is None else spans.fresh
    beside: list[Tensor] = []  # for each direction the states h that come from no step, and zeros else
    if states is not None or fresh is not None:
        zeros = x.new_zeros((*x.shape[:-1], stack.proj_size))
        for k in range(stack.num_directions):
            initial, first = (None if given is None else given[0][k] for given in (states, fresh))
            beside.append(batch.states_before(zeros, initial, first, False, bool(k)).view_as(zeros))
    parameters: list[Tensor] = []
    for k, direction in enumerate(weights):
        w_hh = direction["weight_hh"]
        others = [w_hh if k == other else torch.zeros_like(w_hh) for other in range(len(beside))]
        w_ih = torch.cat((direction["weight_ih"], *others), 1) if others else direction["weight_ih"]
        parameters += (w_ih, w_hh @ direction["weight_hr"])
        parameters += [direction[bias] for bias in ("bias_ih", "bias_hh") if bias in direction]  # no generator: older compilers
    width = stack.layers[index].input_size + len(beside) * stack.proj_size
    alone = replace(stack, input_size=width, num_layers=1, proj_size=0)
    zeros_and_c = None if states is None else _with_zeros(states[1])
    spans = spans.replaced(fresh=None if fresh is None else _with_zeros(fresh[1]))
    inner = Operands(torch.cat((x, *beside), -1) if beside else x, zeros_and_c, parameters, spans)
    return _Layer(alone, inner, [direction["weight_hr"] for direction in weights])


def _with_zeros(c: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(c), c


def _last(output: Tensor, initial: Tensor | None, batch: Batch, reverse: bool) -> Tensor:
    """A direction's final state h, (B, P), from its outputs, (T, B, P) or (N, P)."""
    if batch.offsets is None and (reverse or batch.lengths is None):
        last = output[0 if reverse else -1]
    elif batch.offsets is None:
        assert batch.lengths is not None
        last = output[(batch.lengths.long() - 1).clamp_min(0), torch.arange(batch.sequences, device=output.device)]
    elif reverse:
        last = output[: batch.sequences]
    else:
        assert batch.lengths is not None
        last = output[batch.offsets[batch.lengths.long() - 1] + torch.arange(batch.sequences, device=output.device)]
    if batch.lengths is None or batch.offsets is not None:
        return last
    return torch.where((batch.lengths > 0).unsqueeze(1), last, last.new_zeros(()) if initial is None else initial)


# --- The outputs of all steps ---------------------------------------------------------------------------------------------


def project(m: Tensor, w_hr: Sequence[Tensor]) -> Tensor:
    """The outputs, (..., D·P), of the states before the projection, (..., D·H), and each direction's W_hr, (P, H).

    In a recorded call by torch's own product, which rounds float32 as ``torch.set_float32_matmul_precision`` says.
    """
    return _by_torch(m, w_hr) if is_recorded() else _Projection.apply(m, *w_hr)  # type: ignore[no-untyped-call]


def _by_torch(m: Tensor, w_hr: Sequence[Tensor]) -> Tensor:
    return torch.cat([linear(part, w) for part, w in zip(m.chunk(len(w_hr), -1), w_hr, strict=True)], -1)


class _Projection(Node):
    """``project`` with factors rounded as torch allows it to cuDNN (products.py). A gradient that is differentiated is torch's."""

    @staticmethod
    def forward(ctx: Any, m: Tensor, *w_hr: Tensor) -> Tensor:
        ctx.save_for_backward(m, *w_hr)
        m, w_hr = dense(m), tuple(map(dense, w_hr))
        (projection, hidden), directions = w_hr[0].shape, len(w_hr)
        number, width = number_of(m.dtype), directions * projection
        output = m.new_empty((*m.shape[:-1], width))
        form = Form(m.shape[:-1].numel(), hidden, projection, directions * hidden, hidden, width, b_transposed=True)
        with run.on_device_of(m):
            for k, w in enumerate(w_hr):
                multiply(number, output, m, w, form, a_offset=k * hidden, out_offset=k * projection)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        m, *w_hr = ctx.saved_tensors
        if is_differentiated((grad,)):
            create_graph = may_be_differentiated()
            with torch.enable_grad():
                operands = [differentiable_view(t) if needed else t for t, needed in zip((m, *w_hr), ctx.needs_input_grad, strict=True)]
                targets = [t for t, needed in zip(operands, ctx.needs_input_grad, strict=True) if needed]
                found = iter(torch.autograd.grad(_by_torch(operands[0], operands[1:]), targets, grad, create_graph=create_graph))
            return tuple([next(found) if needed else None for needed in ctx.needs_input_grad])
        grad, m, *w_hr = map(dense, (grad, m, *w_hr))
        (projection, hidden), directions, rows = w_hr[0].shape, len(w_hr), m.shape[:-1].numel()
        number, width = number_of(m.dtype), directions * projection
        grad_m = torch.empty_like(m) if ctx.needs_input_grad[0] else None
        grads = [torch.empty_like(w) if needed else None for w, needed in zip(w_hr, ctx.needs_input_grad[1:], strict=True)]
        of_m = Form(rows, projection, hidden, width, hidden, directions * hidden)
        of_w = Form(projection, rows, hidden, width, directions * hidden, hidden, a_transposed=True)
        with run.on_device_of(m):
            for k, (w, grad_w) in enumerate(zip(w_hr, grads, strict=True)):
                if grad_m is not None:
                    multiply(number, grad_m, grad, w, of_m, a_offset=k * projection, out_offset=k * hidden)
                if grad_w is not None:
                    multiply(number, grad_w, grad, m, of_w, a_offset=k * projection, b_offset=k * hidden)
        return grad_m, *grads
