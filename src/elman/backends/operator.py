"""The native call as the torch operator ``torch.ops.elman.scan``: what torch.compile, torch.export and dispatch modes see.

Eager code does not come this way: a call through the dispatcher costs more than the notebook's whole network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from elman.backends import call, kernels
from elman.backends.call import NOTHING_SAVED, Saved
from elman.backends.spans import Spans
from elman.backends.stack import Stack
from elman.cells import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_library = torch.library.Library("elman", "DEF")  # type: ignore[no-untyped-call]
_WHAT = "str cell, int hidden_size, int num_layers, bool bidirectional, bool bias, int proj_size, bool recompute, bool batch_first"
_SPANS = "Tensor? batch_sizes, Tensor? lengths, Tensor? reset, Tensor[] fresh"
_define: Callable[[str], str] = _library.define
# Results: output, h_n, c_n, and what is saved: hidden, steps, checkpoints. What there is not is an empty tensor.
# ``states`` and ``fresh`` may be empty: zeros.
_define(f"scan(Tensor x, Tensor[] states, Tensor[] params, {_SPANS}, {_WHAT}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)")
_define(
    "scan_backward(Tensor? grad_output, Tensor? grad_h_n, Tensor? grad_c_n, Tensor x, Tensor[] states, Tensor[] params, "
    f"{_SPANS}, Tensor output, Tensor hidden, Tensor steps, Tensor checkpoints, {_WHAT}) -> Tensor[]"
)


def scan(
    stack: Stack, x: Tensor, states: Sequence[Tensor] | None, params: Sequence[Tensor], spans: Spans, batch_first: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a stack through the operator: the outputs and the final states."""
    output, *finals, _, _, _ = torch.ops.elman.scan(
        x,
        list(states or ()),
        list(params),
        *spans[:3],
        list(spans.fresh or ()),
        stack.cell.name,
        stack.hidden_size,
        stack.num_layers,
        stack.bidirectional,
        stack.bias,
        stack.proj_size,
        stack.recompute,
        batch_first,
    )
    return output, tuple(finals[: len(stack.state_sizes)])


def _stack(
    x: Tensor,
    params: Sequence[Tensor],
    cell: str,
    hidden_size: int,
    num_layers: int,
    bidirectional: bool,
    bias: bool,
    proj_size: int,
    recompute: bool,
    _: bool,
) -> Stack:
    if cell not in BY_NAME:
        raise RuntimeError(f"expected cell to be one of {', '.join(BY_NAME)}, got {cell!r}")
    if x.dim() == 0:
        raise RuntimeError("expected x of shape (T, B, I), (B, T, I) or (N, I), got a tensor without axes")
    for name, size, least in (("hidden_size", hidden_size, 0), ("num_layers", num_layers, 1), ("proj_size", proj_size, 0)):
        if not least <= size < 2**31:
            raise RuntimeError(f"expected {name} from {least} to 2**31 - 1, got {size}")
    # Before a stack of so many layers is built.
    expected = num_layers * (2 if bidirectional else 1) * (2 + 2 * bias + (proj_size > 0))
    if len(params) != expected:
        raise RuntimeError(f"expected {expected} parameters, those of {num_layers} layers (num_layers), got {len(params)}")
    stack = Stack(BY_NAME[cell](), x.shape[-1], hidden_size, num_layers, bidirectional, bias, proj_size, recompute)
    for i, (param, shape) in enumerate(zip(params, stack.shapes, strict=True)):
        if param.shape != shape:
            raise RuntimeError(f"expected parameter {i} of shape {shape}, got {tuple(param.shape)}")
    return stack


def _spans(batch_sizes: Tensor | None, lengths: Tensor | None, reset: Tensor | None, fresh: list[Tensor]) -> Spans:
    batch_sizes, lengths = (None if t is None else t.contiguous() for t in (batch_sizes, lengths))
    return Spans(batch_sizes, lengths, reset, tuple(fresh) or None)


def _or_empty(tensors: Sequence[Tensor | None], x: Tensor) -> tuple[Tensor, ...]:
    return tuple([x.new_empty(0) if t is None else t for t in tensors])


def _or_none(tensors: Sequence[Tensor]) -> list[Tensor | None]:
    return [t if t.numel() else None for t in tensors]


def _results(output: Tensor, finals: Sequence[Tensor], saved: Saved, x: Tensor) -> tuple[Tensor, ...]:
    return output, *_or_empty((*finals, None)[:2], x), *_or_empty(saved, x)


def kernels_of(x: Tensor) -> Any:
    """Whose kernels run x: a module with ``forward``, ``trace`` and ``backward``."""
    if x.is_cpu:
        return call
    from elman.backends.cuda import run

    return run


@torch.library.impl(_library, "scan", "CUDA")
@torch.library.impl(_library, "scan", "CPU")
def _scan(x: Tensor, states: list[Tensor], params: list[Tensor], *rest: Any) -> tuple[Tensor, ...]:
    spans, what = _spans(*rest[:4]), rest[4:]
    stack, batch_first = _stack(x, params, *what), what[-1]
    output, finals, saved = kernels_of(x).forward(stack, x, tuple(states) or None, params, spans, batch_first, save=True, pad_saved=True)
    return _results(output, finals, saved, x)


@torch.library.impl(_library, "scan_backward", "CUDA")
@torch.library.impl(_library, "scan_backward", "CPU")
def _scan_backward(
    grad_output: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    x: Tensor,
    states: list[Tensor],
    params: list[Tensor],
    batch_sizes: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    fresh: list[Tensor],
    output: Tensor,
    hidden: Tensor,
    steps: Tensor,
    checkpoints: Tensor,
    *what: Any,
) -> list[Tensor]:
    stack, batch_first = _stack(x, params, *what), what[-1]
    saved, grad_finals = Saved(*_or_none((hidden, steps, checkpoints))), (grad_h_n, grad_c_n)[: len(stack.state_sizes)]
    needs_grad = (True,) * (1 + len(states) + len(fresh) + len(params))
    spans = _spans(batch_sizes, lengths, reset, fresh)
    found = kernels_of(x).backward(
        stack,
        x,
        tuple(states) or None,
        tuple(params),
        spans,
        batch_first,
        output,
        saved,
        grad_output,
        grad_finals,
        needs_grad,
        pad_saved=True,
    )
    # Laid out as the fake ones: a compiler reads them so.
    return [g.contiguous() for g in found if g is not None]


def _check_devices(x: Tensor, *others: Tensor | None, counts: Sequence[Tensor | None]) -> None:
    """Raise a RuntimeError if tensors are on several devices: one on meta among others leads here, to results that nobody fills."""
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
    if x.is_cuda:
        from elman.backends.cuda import run

        return run.new_saved(stack, x, rows)
    if x.dtype is torch.bfloat16:
        return NOTHING_SAVED
    directions, gates = stack.num_layers * stack.num_directions, len(stack.cell.gates)
    hidden = x.new_empty((stack.num_layers - 1, rows, stack.output_size)) if stack.num_layers > 1 else None
    _, states, numbers = kernels.CELLS[stack.cell.name]
    if numbers == 0 or (stack.recompute and states == 1):  # what runs again starts from the outputs, which are there
        return Saved(hidden, None, None)
    if not stack.recompute:
        return Saved(hidden, x.new_empty((directions, rows, numbers, stack.hidden_size)), None)
    # A checkpoint before each chunk of the backward pass (csrc/kernels.h).
    at_least: Callable[[int, int | torch.SymInt], int | torch.SymInt] = torch.sym_max
    chunk = at_least(1, 8 * 1024 * 1024 // at_least(1, gates * stack.hidden_size * x.element_size() * batch))
    return Saved(hidden, None, x.new_empty((directions, (steps + chunk - 1) // chunk, batch, stack.hidden_size)))


def _scan_fake(x: Tensor, states: list[Tensor], params: list[Tensor], *rest: Any) -> tuple[Tensor, ...]:
    batch_sizes, lengths, reset, fresh, *what = rest
    _check_devices(x, *states, *params, *fresh, reset, counts=(batch_sizes, lengths))
    stack, batch_first = _stack(x, params, *what), what[-1]
    rows: int | torch.SymInt
    batch: int | torch.SymInt
    steps: int | torch.SymInt
    if batch_sizes is None:
        steps, batch = (x.shape[1], x.shape[0]) if batch_first else (x.shape[0], x.shape[1])
        rows = steps * batch
    else:
        steps, rows = batch_sizes.shape[0], x.shape[0]
        batch = states[0].shape[1] if states else torch.library.get_ctx().new_dynamic_size()
    output = _new_steps(x, stack.output_size)
    finals = [x.new_empty((stack.num_layers * stack.num_directions, batch, width)) for width in stack.state_sizes]
    return _results(output, finals, _new_saved(stack, x, steps, batch, rows), x)


def _scan_backward_fake(
    grad_output: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    x: Tensor,
    states: list[Tensor],
    params: list[Tensor],
    batch_sizes: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    fresh: list[Tensor],
    *rest: Any,
) -> list[Tensor]:
    _check_devices(x, grad_output, grad_h_n, grad_c_n, *states, *params, *fresh, reset, *rest[:4], counts=(batch_sizes, lengths))
    return [_new_steps(x, x.shape[-1]), *(t.new_empty(t.shape) for t in (*states, *fresh, *params))]


def saving_is_hooked() -> bool:
    """Whether somebody has a say in what is saved for backward: torch.utils.checkpoint, save_on_cpu, a user's own hooks."""
    return torch._C._autograd._top_saved_tensors_default_hooks(False) is not None


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, states, params, batch_sizes, lengths, reset, fresh, *ctx.what = inputs
    ctx.counts = len(states), len(fresh)
    results, _, _, *saved = output
    ctx.save_for_backward(x, batch_sizes, lengths, reset, *saved, *states, *fresh, *params)
    ctx.set_materialize_grads(False)
    if not saving_is_hooked():
        shared = results.detach()  # the caller may write into the outputs: this shares the count of writes to them
        ctx.output = shared, shared._version


def _differentiate(ctx: Any, grad_output: Tensor | None, grad_h_n: Tensor | None, grad_c_n: Tensor | None, *_: Any) -> tuple[Any, ...]:
    x, batch_sizes, lengths, reset, hidden, steps, checkpoints, *rest = ctx.saved_tensors
    first, second = ctx.counts[0], sum(ctx.counts)
    states, fresh, params = rest[:first], rest[first:second], rest[second:]
    output, version = ctx.__dict__.pop("output", (None, 0))
    if output is None or output._version != version:  # run once more, as in eager code; a compiler sees twice the same and runs it once
        output, _, _, hidden, steps, checkpoints = torch.ops.elman.scan(x, states, params, batch_sizes, lengths, reset, fresh, *ctx.what)
    grad_x, *gradients = torch.ops.elman.scan_backward(
        grad_output,
        grad_h_n,
        grad_c_n,
        x,
        states,
        params,
        batch_sizes,
        lengths,
        reset,
        fresh,
        output,
        hidden,
        steps,
        checkpoints,
        *ctx.what,
    )
    return grad_x, gradients[:first], gradients[second:], None, None, None, gradients[first:second], *([None] * len(ctx.what))


torch.library.register_fake("elman::scan", _scan_fake, lib=_library)
torch.library.register_fake("elman::scan_backward", _scan_backward_fake, lib=_library)


def _refuse(ctx: Any, *gradients: Any) -> Any:
    raise RuntimeError(
        "a compiled or recorded gradient of elman's networks cannot be differentiated again: run it eagerly, where the reference does it"
    )


torch.library.register_autograd("elman::scan_backward", _refuse, lib=_library)
torch.library.register_autograd("elman::scan", _differentiate, setup_context=_keep, lib=_library)


def _to_onnx(x: Tensor, states: list[Tensor], params: list[Tensor], *rest: Any) -> Any:
    """What ``torch.onnx.export`` makes of the operator. Whoever else asks torch's table for a decomposition gets none."""
    if not torch.onnx.is_in_onnx_export():
        return NotImplemented
    from elman.backends import onnx

    spans, what = _spans(*rest[:4]), rest[4:]
    stack, batch_first = _stack(x, params, *what), what[-1]
    output, finals = onnx.run(stack, x.transpose(0, 1) if batch_first else x, tuple(states) or None, params, spans)
    return _results(output.transpose(0, 1) if batch_first else output, finals, NOTHING_SAVED, x)


_registered: Any = torch._decomp
_registered.register_decomposition(torch.ops.elman.scan.default)(_to_onnx)
# Fake tensors of symbolic sizes would be run by the decomposition, unless torch knows another function for them.
_registered.meta_table[torch.ops.elman.scan.default] = _scan_fake
