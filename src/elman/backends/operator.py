"""The native call as the torch operator ``torch.ops.elman.scan``: what torch.compile, torch.export and dispatch modes see.

Eager code does not use it: a call through the dispatcher takes longer than the notebook's whole network.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from elman.backends import call, inductor, kernels
from elman.backends.call import NOTHING_SAVED, Saved
from elman.backends.node import may_keep
from elman.backends.operands import Operands
from elman.backends.reference import REFERENCE
from elman.backends.spans import Spans
from elman.backends.stack import Stack
from elman.cells import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

library = torch.library.Library("elman", "DEF")  # type: ignore[no-untyped-call]
define: Callable[[str], str] = library.define
# No list of tensors here is ever empty: AOTInductor hands over None for one that is.
_RUN = "Tensor? h_0, Tensor? c_0, Tensor[] params, Tensor? batch_sizes, Tensor? lengths, Tensor? reset, Tensor? fresh_h, Tensor? fresh_c"
_WHAT = "str cell, int hidden_size, int num_layers, bool bidirectional, bool bias, int proj_size, bool recompute, bool batch_first"
# Results: output, h_n, c_n, and with ``save`` what is saved: hidden, steps, checkpoints. What there is not is an empty tensor, of one axis.
# States that are None are zeros.
define(f"scan(Tensor x, {_RUN}, {_WHAT}, bool save) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)")
# ``needs_grad``: whether to make the gradients of x, of each state and fresh state that there is, and of each parameter: the results.
define(
    f"scan_backward(Tensor? grad_output, Tensor? grad_h_n, Tensor? grad_c_n, Tensor x, {_RUN}, "
    f"Tensor output, Tensor? hidden, Tensor? steps, Tensor? checkpoints, {_WHAT}, bool[] needs_grad) -> Tensor[]"
)


def scan(stack: Stack, operands: Operands, batch_first: bool, save: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a stack through the operator: the outputs and the final states.

    ``save``: whether a gradient will follow. If it follows without, it runs the stack again.
    """
    x, states, params, spans = operands
    output, *finals, _, _, _ = torch.ops.elman.scan(
        x,
        *_two(states),
        list(params),
        spans.batch_sizes,
        spans.lengths,
        spans.reset,
        *_two(spans.fresh),
        stack.cell.name,
        stack.hidden_size,
        stack.num_layers,
        stack.bidirectional,
        stack.bias,
        stack.proj_size,
        stack.recompute,
        batch_first,
        save,
    )
    return output, tuple(finals[: len(stack.state_sizes)])


def _two(states: Sequence[Tensor] | None) -> tuple[Tensor | None, ...]:
    return (*(states or ()), None, None)[:2]


@lru_cache(maxsize=256)
def _stack(
    input_size: int,
    params: int,
    cell: str,
    hidden_size: int,
    num_layers: int,
    bidirectional: bool,
    bias: bool,
    proj_size: int,
    recompute: bool,
) -> Stack:
    """The stack that the operator is told of, which has so many parameters."""
    if cell not in BY_NAME:
        raise RuntimeError(f"expected cell to be one of {', '.join(BY_NAME)}, got {cell!r}")
    for name, size, least in (("hidden_size", hidden_size, 0), ("num_layers", num_layers, 1), ("proj_size", proj_size, 0)):
        if not least <= size < 2**31:
            raise RuntimeError(f"expected {name} from {least} to 2**31 - 1, got {size}")
    # Before a stack of so many layers is built.
    expected = num_layers * (2 if bidirectional else 1) * (2 + 2 * bias + (proj_size > 0))
    if params != expected:
        raise RuntimeError(f"expected {expected} parameters, those of {num_layers} layers (num_layers), got {params}")
    return Stack(BY_NAME[cell](), input_size, hidden_size, num_layers, bidirectional, bias, proj_size, recompute)


def _checked_stack(x: Tensor, params: Sequence[Tensor], options: Sequence[Any]) -> Stack:
    if x.dim() == 0:
        raise RuntimeError("expected x of shape (T, B, I), (B, T, I) or (N, I), got a tensor without axes")
    stack = _stack(int(x.shape[-1]), len(params), *options)
    # Every size is in the first direction's; the kernels for the CPU look at the rest, once memory has been made.
    for i, (param, shape) in enumerate(zip(params[: stack.tensors_per_direction] if x.is_cpu else params, stack.shapes, strict=False)):
        if param.shape != shape:
            raise RuntimeError(f"expected parameter {i} of shape {shape}, got {tuple(param.shape)}")
    return stack


def _spans(
    batch_sizes: Tensor | None, lengths: Tensor | None, reset: Tensor | None, fresh_h: Tensor | None, fresh_c: Tensor | None
) -> Spans:
    batch_sizes, lengths = (None if t is None else t.contiguous() for t in (batch_sizes, lengths))
    return Spans(batch_sizes, lengths, reset, inductor.given(fresh_h, fresh_c))


def _or_empty(tensors: Sequence[Tensor | None], x: Tensor) -> tuple[Tensor, ...]:
    return tuple([x.new_empty(0) if t is None else t for t in tensors])


def kernels_of(x: Tensor, recorded: Stack | None = None) -> Any:
    """The kernels for x's device: a module with ``forward``, ``trace`` and ``backward``.

    In a recorded call, of this stack, torch's own layers where it is on a GPU and its kernels do not run it.
    """
    if x.is_cpu:
        return call
    if recorded is not None:
        from elman.backends import aten_recorded
        from elman.backends.cuda.backend import has_kernels

        if not has_kernels(recorded, x):
            return aten_recorded
    from elman.backends.cuda import run

    return run


def has_no_sequences(x: Tensor, batch_sizes: Tensor | None, batch_first: bool) -> bool:
    """Whether the batch is empty, which the kernels refuse: there is nothing to compute, and a recorded program takes any batch."""
    return batch_sizes is None and x.dim() == 3 and x.shape[0 if batch_first else 1] == 0 < x.shape[1 if batch_first else 0]


@torch.library.impl(library, "scan", "CUDA")
@torch.library.impl(library, "scan", "CPU")
def _scan(x: Tensor, h_0: Tensor | None, c_0: Tensor | None, params: list[Tensor], *rest: Any) -> tuple[Tensor, ...]:
    *spans, batch_first, save = *rest[:5], *rest[-2:]
    if has_no_sequences(x, spans[0], batch_first):
        return _scan_fake(x, h_0, c_0, params, *rest)
    stack = _checked_stack(x, params, rest[5:-2])
    operands = Operands(x, inductor.given(h_0, c_0), params, _spans(*spans))
    if x.is_cpu and not kernels.available():
        output, *finals = REFERENCE.run_as_laid_out(stack, operands, batch_first)  # an exported program runs without them, too
        return _or_empty((output.contiguous(), *_two(finals), *NOTHING_SAVED), x)
    of_device = kernels_of(x, stack)
    if of_device is not call:  # which look at operands themselves
        of_device.check(stack, operands, batch_first)
    output, finals, saved = of_device.forward(stack, operands, batch_first, save=save, pad_saved=True)
    return _or_empty((output, *_two(finals), *saved), x)


@torch.library.impl(library, "scan_backward", "CUDA")
@torch.library.impl(library, "scan_backward", "CPU")
def _scan_backward(
    grad_output: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    params: list[Tensor],
    batch_sizes: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    fresh_h: Tensor | None,
    fresh_c: Tensor | None,
    output: Tensor,
    hidden: Tensor | None,
    steps: Tensor | None,
    checkpoints: Tensor | None,
    *options: Any,
) -> list[Tensor]:
    *sizes, batch_first, needs_grad = options
    if x.is_cpu:
        kernels.require("the gradient of torch.ops.elman.scan")
    if has_no_sequences(x, batch_sizes, batch_first):
        given = x, h_0, c_0, params, batch_sizes, lengths, reset, fresh_h, fresh_c
        fakes = _scan_backward_fake(grad_output, grad_h_n, grad_c_n, *given, output, hidden, steps, checkpoints, *options)
        return [fake.zero_() for fake in fakes]
    stack = _checked_stack(x, params, sizes)
    of_device = kernels_of(x, stack)
    spans = _spans(batch_sizes, lengths, reset, fresh_h, fresh_c)
    call_of = stack, Operands(x, inductor.given(h_0, c_0), tuple(params), spans), batch_first
    grad_finals = (grad_h_n, grad_c_n)[: len(stack.state_sizes)]
    results = output, Saved(hidden, steps, checkpoints), grad_output, grad_finals, tuple(needs_grad)
    if of_device is not call:
        of_device.check(*call_of, *results)
    grads = of_device.backward(*call_of, *results, pad_saved=True)
    # Laid out as the fake ones: a compiler reads them so.
    return [g.contiguous() for g in grads if g is not None]


def _check_devices(x: Tensor, *others: Tensor | None, counts: Sequence[Tensor | None]) -> None:
    """Raise a RuntimeError if tensors are on several devices: one on meta among others leads here, to results that are never filled."""
    for t in others:
        if t is not None and t.device != x.device:
            raise RuntimeError(f"expected all tensors on {x.device}, where x is, got one on {t.device}")
    for t in counts:
        if t is not None and t.device.type not in ("cpu", x.device.type):
            raise RuntimeError(f"expected batch_sizes and lengths on the CPU, got them on {t.device}")


def _new_steps(like: Tensor, width: int | torch.SymInt) -> Tensor:
    """A tensor of all steps, as the kernels make it."""
    return like.new_empty((*like.shape[:-1], width))


def _new_saved(stack: Stack, x: Tensor, steps: int | torch.SymInt, batch: int | torch.SymInt, rows: int | torch.SymInt) -> Saved:
    """What the kernels save of so many steps in all, of sizes that a compiler may know by symbols alone."""
    of_device = kernels_of(x, stack) if x.is_cpu or x.is_cuda else call
    if of_device is not call:
        saved: Saved = of_device.new_saved(stack, x, rows)
        return saved
    if not kernels.available():
        return NOTHING_SAVED
    directions, gates = stack.num_layers * stack.num_directions, len(stack.cell.gates)
    hidden = x.new_empty((stack.num_layers - 1, rows, stack.output_size)) if stack.num_layers > 1 else None
    _, states, numbers = kernels.CELLS[stack.cell.name]
    if numbers == 0 or (stack.recompute and states == 1):  # what runs again starts from the outputs, which are there
        return Saved(hidden, None, None)
    dtype = kernels.wide(x.dtype)
    if not stack.recompute:
        return Saved(hidden, x.new_empty((directions, rows, numbers, stack.hidden_size), dtype=dtype), None)
    # A checkpoint before each chunk of the backward pass (csrc/kernels.h).
    larger: Callable[[int | torch.SymInt, int | torch.SymInt], int | torch.SymInt] = torch.sym_max
    smaller: Callable[[int | torch.SymInt, int | torch.SymInt], int | torch.SymInt] = torch.sym_min
    step = larger(1, gates * stack.hidden_size * dtype.itemsize * batch)  # bytes
    most = larger(1, 8 * 1024 * 1024 // step)
    if not stack.bidirectional and 2 * gates * stack.hidden_size**2 * dtype.itemsize <= 1024 * 1024:
        most = smaller(most, larger(2 * 1024 * 1024 // step, larger(512 // larger(1, batch), 8)))
    chunks = (steps + most - 1) // most
    chunk = (steps + chunks - 1) // chunks
    return Saved(hidden, None, x.new_empty((directions, (steps + chunk - 1) // chunk, batch, stack.hidden_size), dtype=dtype))


def _scan_fake(
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    params: list[Tensor],
    batch_sizes: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    fresh_h: Tensor | None,
    fresh_c: Tensor | None,
    *options: Any,
) -> tuple[Tensor, ...]:
    inductor.teach(torch.ops.elman.scan.default, inductor.__name__, lambda x, *_: x, gives_none=True)
    _check_devices(x, h_0, c_0, *params, fresh_h, fresh_c, reset, counts=(batch_sizes, lengths))
    *sizes, batch_first, save = options
    stack = _checked_stack(x, params, sizes)
    rows: int | torch.SymInt
    batch: int | torch.SymInt
    steps: int | torch.SymInt
    if batch_sizes is None:
        steps, batch = (x.shape[1], x.shape[0]) if batch_first else (x.shape[0], x.shape[1])
        rows = steps * batch
    else:
        steps, rows = batch_sizes.shape[0], x.shape[0]
        batch = torch.library.get_ctx().new_dynamic_size() if h_0 is None else h_0.shape[1]
    output = _new_steps(x, stack.output_size)
    finals = [x.new_empty((stack.num_layers * stack.num_directions, batch, width)) for width in stack.state_sizes]
    saved = _new_saved(stack, x, steps, batch, rows) if save else NOTHING_SAVED
    return _or_empty((output, *_two(finals), *saved), x)


def _scan_backward_fake(
    grad_output: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    params: list[Tensor],
    batch_sizes: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    fresh_h: Tensor | None,
    fresh_c: Tensor | None,
    *rest: Any,
) -> list[Tensor]:
    inductor.teach(torch.ops.elman.scan_backward.default, inductor.__name__, lambda *given: given[3], gives_none=True)
    others = [t for t in (h_0, c_0, fresh_h, fresh_c, *params) if t is not None]
    _check_devices(x, grad_output, grad_h_n, grad_c_n, *others, reset, *rest[:4], counts=(batch_sizes, lengths))
    fakes = (_new_steps(x, x.shape[-1]), *(t.new_empty(t.shape) for t in others))
    return [gradient for gradient, needed in zip(fakes, rest[-1], strict=True) if needed]


def keep_output(ctx: Any, output: Tensor) -> None:
    """Keep the outputs for the gradient, if that is allowed."""
    if may_keep():
        shared = output.detach()  # the caller may write into the outputs: this shares the count of writes to them
        ctx.output = shared, shared._version


def kept_output(ctx: Any) -> Tensor | None:
    """The outputs, which are free then; None if they were not kept, or have been written into."""
    output, version = ctx.__dict__.pop("output", (None, 0))
    return output if output is not None and output._version == version else None


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, h_0, c_0, params, *spans = inputs[:9]
    *ctx.options, ctx.save = inputs[9:]
    results, _, _, *saved = output
    ctx.save_for_backward(x, h_0, c_0, *spans, *[t if t.dim() > 1 else None for t in saved], *params)
    ctx.set_materialize_grads(False)
    if ctx.save:
        keep_output(ctx, results)


def _differentiate(ctx: Any, grad_output: Tensor | None, grad_h_n: Tensor | None, grad_c_n: Tensor | None, *_: Any) -> tuple[Any, ...]:
    kept = ctx.saved_tensors  # asked for once: hooks may give it once alone, as those of a checkpoint do
    x, h_0, c_0, *spans = kept[:8]
    saved, params = kept[8:11], list(kept[11:])
    output = kept_output(ctx)
    if output is None:  # run once more, as in eager code; a compiler sees twice the same and runs it once
        output, _, _, *saved = torch.ops.elman.scan(x, h_0, c_0, params, *spans, *ctx.options, True)
        saved = [t if t.dim() > 1 else None for t in saved]
    needs = ctx.needs_input_grad
    operands = [(0, x), (1, h_0), (2, c_0), (7, spans[3]), (8, spans[4])]
    needs_grad = [bool(needs[i]) for i, t in operands if t is not None] + list(map(bool, needs[3]))
    computed = iter(
        torch.ops.elman.scan_backward(
            grad_output, grad_h_n, grad_c_n, x, h_0, c_0, params, *spans, output, *saved, *ctx.options, needs_grad
        )
    )
    grads = [next(computed) if t is not None and needs[i] else None for i, t in operands]
    grad_params = [next(computed) if need else None for need in needs[3]]
    return *grads[:3], grad_params, None, None, None, *grads[3:], *([None] * (len(ctx.options) + 1))


torch.library.register_fake("elman::scan", _scan_fake, lib=library)
torch.library.register_fake("elman::scan_backward", _scan_backward_fake, lib=library)


def refuse_second_gradient(ctx: Any, *gradients: Any) -> Any:
    raise RuntimeError(
        "the gradient of a compiled or exported network of Elman's cannot be differentiated again: "
        "run the network in eager mode, where the reference backend does it"
    )


torch.library.register_autograd("elman::scan_backward", refuse_second_gradient, lib=library)
torch.library.register_autograd("elman::scan", _differentiate, setup_context=_keep, lib=library)


def _to_onnx(x: Tensor, h_0: Tensor | None, c_0: Tensor | None, params: list[Tensor], *rest: Any) -> Any:
    """What ``torch.onnx.export`` makes of the operator. Whoever else asks torch's table for a decomposition gets none."""
    if not torch.onnx.is_in_onnx_export():
        return NotImplemented
    from elman.backends import onnx

    spans, batch_first = _spans(*rest[:5]), rest[-2]
    stack = _checked_stack(x, params, rest[5:-2])
    output, finals = onnx.run(stack, Operands(x, inductor.given(h_0, c_0), params, spans).time_first(batch_first))
    return _or_empty((output.transpose(0, 1) if batch_first else output, *_two(finals), *NOTHING_SAVED), x)


def decompose_for_onnx(operator: Any, to_onnx: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Let ``torch.onnx.export`` decompose an operator."""
    registered: Any = torch._decomp
    registered.register_decomposition(operator)(to_onnx)
    # Fake tensors of symbolic sizes would be run by the decomposition, unless torch knows another function for them.
    registered.meta_table[operator] = fake


decompose_for_onnx(torch.ops.elman.scan.default, _to_onnx, _scan_fake)
