"""The native call as the torch operator ``torch.ops.elman.scan``: what torch.compile, torch.export and dispatch modes see.

Eager code does not come this way: a call through the dispatcher costs more than the notebook's whole network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from elman.backends import kernels
from elman.backends.stack import Stack
from elman.cells import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_library = torch.library.Library("elman", "DEF")  # type: ignore[no-untyped-call]
_WHAT = "str cell, int num_layers, bool bidirectional, bool bias, bool batch_first"
_define: Callable[[str], str] = _library.define
_define(f"scan(Tensor x, Tensor? h_0, Tensor[] params, Tensor? batch_sizes, {_WHAT}) -> (Tensor, Tensor, Tensor)")
_define(
    "scan_backward(Tensor? d_output, Tensor? d_final, Tensor x, Tensor? h_0, Tensor[] params, Tensor? batch_sizes, "
    f"Tensor output, Tensor hidden, {_WHAT}) -> Tensor[]"
)


def _stack(x: Tensor, params: Sequence[Tensor], cell: str, num_layers: int, bidirectional: bool, bias: bool) -> Stack:
    return Stack(BY_NAME[cell](), x.shape[-1], params[1].shape[-1], num_layers, bidirectional, bias)


def scan(
    stack: Stack, x: Tensor, h_0: Tensor | None, params: Sequence[Tensor], batch_sizes: Tensor | None, batch_first: bool
) -> tuple[Tensor, Tensor]:
    """Run a stack through the operator: the outputs and the final states."""
    output, final, _ = torch.ops.elman.scan(
        x, h_0, list(params), batch_sizes, stack.cell.name, stack.num_layers, stack.bidirectional, stack.bias, batch_first
    )
    return output, final


@torch.library.impl(_library, "scan", "CPU")
def _scan(
    x: Tensor,
    h_0: Tensor | None,
    params: list[Tensor],
    batch_sizes: Tensor | None,
    cell: str,
    num_layers: int,
    bidirectional: bool,
    bias: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    stack = _stack(x, params, cell, num_layers, bidirectional, bias)
    kernels.check(stack, x, h_0, params, batch_sizes)
    output, final, hidden = kernels.forward(stack, x, h_0, params, batch_sizes, batch_first, keep=True)
    return output, final, x.new_empty(0) if hidden is None else hidden


@torch.library.impl(_library, "scan_backward", "CPU")
def _scan_backward(
    d_output: Tensor | None,
    d_final: Tensor | None,
    x: Tensor,
    h_0: Tensor | None,
    params: list[Tensor],
    batch_sizes: Tensor | None,
    output: Tensor,
    hidden: Tensor,
    cell: str,
    num_layers: int,
    bidirectional: bool,
    bias: bool,
    batch_first: bool,
) -> list[Tensor]:
    stack = _stack(x, params, cell, num_layers, bidirectional, bias)
    kernels.check(stack, x, h_0, params, batch_sizes)
    wanted = [True] * (2 + len(params))
    d_x, d_h_0, d_params = kernels.backward(
        stack, x, h_0, params, batch_sizes, batch_first, output, hidden if hidden.numel() else None, d_output, d_final, wanted
    )
    return [g for g in (d_x, d_h_0, *d_params) if g is not None]


def _scan_fake(
    x: Tensor,
    h_0: Tensor | None,
    params: list[Tensor],
    batch_sizes: Tensor | None,
    cell: str,
    num_layers: int,
    bidirectional: bool,
    bias: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    stack = _stack(x, params, cell, num_layers, bidirectional, bias)
    output = kernels.new_sequence(x, stack.output_size, batch_sizes is not None, batch_first)
    rows: int | torch.SymInt
    batch: int | torch.SymInt
    if batch_sizes is None:
        rows, batch = x.shape[0] * x.shape[1], x.shape[1]
    else:
        rows, batch = x.shape[0], torch.library.get_ctx().new_dynamic_size() if h_0 is None else h_0.shape[1]
    final = x.new_empty((num_layers * stack.num_directions, batch, stack.hidden_size))
    hidden = x.new_empty((num_layers - 1, rows, stack.output_size)) if num_layers > 1 else x.new_empty(0)
    return output, final, hidden


def _scan_backward_fake(
    d_output: Tensor | None,
    d_final: Tensor | None,
    x: Tensor,
    h_0: Tensor | None,
    params: list[Tensor],
    batch_sizes: Tensor | None,
    output: Tensor,
    hidden: Tensor,
    cell: str,
    num_layers: int,
    bidirectional: bool,
    bias: bool,
    batch_first: bool,
) -> list[Tensor]:
    d_x = kernels.new_sequence(x, x.shape[-1], batch_sizes is not None, batch_first)
    dense = [h_0, *params] if h_0 is not None else params
    return [d_x, *(t.new_empty(t.shape) for t in dense)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, h_0, params, batch_sizes, *ctx.what = inputs
    ctx.has_state = h_0 is not None
    ctx.save_for_backward(x, h_0, batch_sizes, output[0], output[2], *params)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, d_output: Tensor | None, d_final: Tensor | None, _d_hidden: Tensor | None) -> tuple[Any, ...]:
    x, h_0, batch_sizes, output, hidden, *params = ctx.saved_tensors
    d_x, *gradients = torch.ops.elman.scan_backward(d_output, d_final, x, h_0, params, batch_sizes, output, hidden, *ctx.what)
    d_h_0 = gradients.pop(0) if ctx.has_state else None
    return d_x, d_h_0, gradients, None, *([None] * len(ctx.what))


torch.library.register_fake("elman::scan", _scan_fake, lib=_library)
torch.library.register_fake("elman::scan_backward", _scan_backward_fake, lib=_library)


def _refuse(ctx: Any, *gradients: Any) -> Any:
    raise RuntimeError(
        "a compiled or recorded gradient of elman's networks cannot be differentiated again: run it eagerly, where the reference does it"
    )


torch.library.register_autograd("elman::scan_backward", _refuse, lib=_library)
torch.library.register_autograd("elman::scan", _differentiate, setup_context=_keep, lib=_library)
