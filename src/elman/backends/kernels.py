"""Calls the compiled kernels with torch tensors: allocates the outputs, passes addresses and strides, runs on one call's behalf.

Nothing here knows autograd. ``native`` decides when to come here.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

try:
    from elman import _native
except ImportError as error:  # a pure-Python installation
    _native = None  # type: ignore[assignment]
    _missing: str | None = str(error)
else:
    _missing = None

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from elman.backends.stack import Stack

if forced := os.environ.get("ELMAN_ISA"):
    if _native is None:
        raise ValueError(f"ELMAN_ISA is {forced!r}, but the kernels are not built here ({_missing}); unset it")
    try:
        _native.use(forced)
    except ValueError as error:
        raise ValueError(f"ELMAN_ISA is {forced!r}, but there is {error}; set it to one of these, or unset it for the best") from None

CELLS = {"rnn_tanh": 0, "rnn_relu": 1}
NUMBERS = {torch.float32: 0, torch.float64: 1}


def available() -> bool:
    """Whether the kernels were built for this installation."""
    return _missing is None


def unavailable_reason() -> str | None:
    """Why they are not here; None if they are."""
    return _missing


def isa() -> str:
    """The instruction set in use: "avx512", "avx2", "neon" or "scalar"; ELMAN_ISA forces one."""
    return _native.isa()


def isas() -> tuple[str, ...]:
    """The instruction sets that this processor and this build offer, the best first."""
    return tuple(_native.isas())


def fma_peak(threads: int, dtype: torch.dtype = torch.float32) -> float:
    """The ceiling of any kernel here: operations per second of multiply-adds in registers alone, on so many threads at once."""
    return _native.peak(NUMBERS[dtype], threads)


def dense(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of it, as the kernels read it: contiguous, its numbers in memory as they are."""
    return tensor if tensor.is_contiguous() and not tensor.is_neg() else tensor.resolve_neg().contiguous()


def _rows(x: Tensor) -> Tensor:
    """The same for a sequence, whose rows may lie anywhere as long as each is contiguous."""
    return x if (x.stride(-1) == 1 or x.shape[-1] == 1) and not x.is_neg() else x.resolve_neg().contiguous()


def _strides(x: Tensor, batch_sizes: Tensor | None) -> tuple[int, int]:
    """From one step to the next and from one row to the next, in elements."""
    if batch_sizes is not None:
        return 0, x.stride(0)
    step, row, _ = x.stride()
    return step, row


def new_sequence(like: Tensor, width: int, batch_sizes: Tensor | None, batch_first: bool) -> Tensor:
    """Memory for a sequence of rows of ``width``, not initialised."""
    if batch_sizes is not None:
        return like.new_empty((like.shape[0], width))
    steps, batch, _ = like.shape
    if batch_first:
        return like.new_empty((batch, steps, width)).transpose(0, 1)
    return like.new_empty((steps, batch, width))


def _addresses(tensors: Sequence[Tensor | None], bias: bool) -> list[int]:
    """Addresses of what belongs to each direction, four at a time: a network without bias has null there."""
    if bias:
        return [0 if t is None else t.data_ptr() for t in tensors]
    addresses = []
    for i in range(0, len(tensors), 2):
        w_ih, w_hh = tensors[i], tensors[i + 1]
        addresses += [0 if w_ih is None else w_ih.data_ptr(), 0 if w_hh is None else w_hh.data_ptr(), 0, 0]
    return addresses


def _sizes(stack: Stack, x: Tensor, batch_sizes: Tensor | None) -> tuple[int, int, int, int, int, int, int, int, int]:
    """The first arguments of every kernel: what runs, and its sizes."""
    if batch_sizes is None:
        steps, batch, address = x.shape[0], x.shape[1], 0
    else:
        steps, batch, address = len(batch_sizes), int(batch_sizes[0]), batch_sizes.data_ptr()
    return (
        CELLS[stack.cell.name],
        NUMBERS[x.dtype],
        steps,
        batch,
        stack.input_size,
        stack.hidden_size,
        stack.num_layers,
        stack.num_directions,
        address,
    )


def forward(
    stack: Stack,
    x: Tensor,
    h_0: Tensor | None,
    params: Sequence[Tensor],
    batch_sizes: Tensor | None,
    batch_first: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run a stack.

    Args:
        keep: whether ``backward`` will follow.

    Returns:
        The outputs, the final states, and what ``backward`` needs besides: the lower layers' outputs (L-1, rows, D·H), or None.
    """
    x = _rows(x)
    sizes = _sizes(stack, x, batch_sizes)
    params = [dense(p) for p in params]
    h_0 = None if h_0 is None else dense(h_0)
    output = new_sequence(x, stack.output_size, batch_sizes, batch_first)
    final = x.new_empty((stack.num_layers * stack.num_directions, sizes[3], stack.hidden_size))
    hidden = None
    if keep and stack.num_layers > 1:
        rows = x.shape[0] if batch_sizes is not None else sizes[2] * sizes[3]
        hidden = x.new_empty((stack.num_layers - 1, rows, stack.output_size))
    _native.forward(
        *sizes,
        _addresses(params, stack.bias),
        torch.get_num_threads(),
        x.data_ptr(),
        *_strides(x, batch_sizes),
        0 if h_0 is None else h_0.data_ptr(),
        output.data_ptr(),
        *_strides(output, batch_sizes),
        final.data_ptr(),
        0 if hidden is None else hidden.data_ptr(),
    )
    return output, final, hidden


def backward(
    stack: Stack,
    x: Tensor,
    h_0: Tensor | None,
    params: Sequence[Tensor],
    batch_sizes: Tensor | None,
    batch_first: bool,
    output: Tensor,
    hidden: Tensor | None,
    d_output: Tensor | None,
    d_final: Tensor | None,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, list[Tensor | None]]:
    """The gradients of a run.

    Args:
        output, hidden: what ``forward`` gave.
        d_output, d_final: the gradients of the outputs and final states; None for zeros.
        wanted: which gradients are wanted: x's, h_0's, then each parameter's.

    Returns:
        The gradients of x, h_0 and the parameters, None where not wanted.
    """
    x = _rows(x)
    params = [dense(p) for p in params]
    h_0 = None if h_0 is None else dense(h_0)
    d_final = None if d_final is None else dense(d_final)
    step = row = column = 0
    if d_output is not None:
        if not any(d_output.stride()) and not d_output.is_neg():  # one number stands for all, as in the gradient of a sum
            column = 0
        else:
            d_output, column = _rows(d_output), 1
        step, row = _strides(d_output, batch_sizes)
    d_x = new_sequence(x, stack.input_size, batch_sizes, batch_first) if wanted[0] else None
    d_h_0 = torch.empty_like(h_0) if wanted[1] and h_0 is not None else None
    d_params = [torch.empty_like(p) if want else None for p, want in zip(params, wanted[2:], strict=True)]
    _native.backward(
        *_sizes(stack, x, batch_sizes),
        _addresses(params, stack.bias),
        torch.get_num_threads(),
        x.data_ptr(),
        *_strides(x, batch_sizes),
        0 if h_0 is None else h_0.data_ptr(),
        output.data_ptr(),
        *_strides(output, batch_sizes),
        0 if hidden is None else hidden.data_ptr(),
        0 if d_output is None else d_output.data_ptr(),
        step,
        row,
        column,
        0 if d_final is None else d_final.data_ptr(),
        *((0, 0, 0) if d_x is None else (d_x.data_ptr(), *_strides(d_x, batch_sizes))),
        0 if d_h_0 is None else d_h_0.data_ptr(),
        _addresses(d_params, stack.bias),
    )
    return d_x, d_h_0, d_params
