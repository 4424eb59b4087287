"""Calls the compiled kernels with torch tensors: allocates the outputs, passes addresses and strides, runs on one call's behalf.

Nothing here knows autograd. ``native`` decides when to come here.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import Parameter

try:
    from elman import _native
except ImportError as error:  # a pure-Python installation
    _native = None  # type: ignore[assignment]
    _missing: str | None = str(error)
else:
    _missing = None

if TYPE_CHECKING:
    from collections.abc import Sequence

    from elman.backends.stack import Stack

if forced := os.environ.get("ELMAN_ISA"):
    if _native is None:
        raise ValueError(f"ELMAN_ISA is {forced!r}, but the kernels are not built here ({_missing}); unset it")
    try:
        _native.use(forced)
    except ValueError as error:
        raise ValueError(f"ELMAN_ISA is {forced!r}, but there is {error}; set it to one of these, or unset it for the best") from None

# How the kernels number cells and number types (csrc/kernels.h).
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


if _missing is None and hasattr(Tensor, "__dlpack_c_exchange_api__"):
    _native.offer_exchange(Tensor.__dlpack_c_exchange_api__)


def _dense(tensor: Tensor) -> Tensor:
    """The tensor as the kernels read it, copied if need be: contiguous, and its numbers in memory as they are."""
    return tensor if tensor.is_contiguous() and not tensor.is_neg() else tensor.resolve_neg().contiguous()


def dense_addresses(tensors: Sequence[Tensor], shapes: tuple[tuple[int, ...], ...]) -> list[int] | None:
    """The tensors' addresses, if all are dense, on the CPU, of one dtype and these shapes; None if not, or if it takes long to tell."""
    return _native.dense_addresses(tensors, shapes) if _missing is None else None


def check(stack: Stack, x: Tensor, h_0: Tensor | None, params: Sequence[Tensor], batch_sizes: Tensor | None) -> None:
    """Make sure that operands fit a stack, where ``layers`` has not done so: the kernels read as much memory as the stack's sizes say.

    Raises:
        RuntimeError: a shape, dtype or device does not fit.
    """

    def expect(name: str, tensor: Tensor, shape: Sequence[int], dtype: torch.dtype) -> None:
        if tuple(tensor.shape) != tuple(shape) or tensor.dtype != dtype or tensor.device.type != "cpu":
            raise RuntimeError(
                f"expected {name} of shape {tuple(shape)} and {dtype} on the CPU, "
                f"got {tuple(tensor.shape)}, {tensor.dtype}, {tensor.device}"
            )

    dtype = x.dtype
    if dtype not in NUMBERS:
        raise RuntimeError(f"expected x of torch.float32 or torch.float64, got {dtype}")
    if batch_sizes is None:
        expect("x", x, (*x.shape[:2], stack.input_size) if x.dim() == 3 else (0, 0, stack.input_size), dtype)
        batch = x.shape[1]
    else:
        expect("batch_sizes", batch_sizes, (batch_sizes.numel(),), torch.int64)
        expect("x", x, (int(batch_sizes.sum()), stack.input_size), dtype)
        batch = int(batch_sizes[0])
    if h_0 is not None:
        expect("h_0", h_0, (stack.num_layers * stack.num_directions, batch, stack.hidden_size), dtype)
    if len(params) != len(stack.shapes):
        raise RuntimeError(f"expected {len(stack.shapes)} parameters, got {len(params)}")
    for index, (param, shape) in enumerate(zip(params, stack.shapes, strict=True)):
        expect(f"parameter {index}", param, shape, dtype)


def _read(params: Sequence[Tensor], stack: Stack) -> tuple[Sequence[Tensor], list[int]]:
    """The parameters as the kernels read them, copied if need be, and their addresses, which hold while the first lives."""
    addresses = dense_addresses(params, stack.shapes)
    if addresses is None:
        params = [_dense(p) for p in params]
        addresses = [p.data_ptr() for p in params]
    return params, _four(addresses, stack.bias)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _four(addresses: list[int], bias: bool) -> list[int]:
    """Addresses of what belongs to each direction, four at a time: a network without bias has null there."""
    if bias:
        return addresses
    return [address for i in range(0, len(addresses), 2) for address in (addresses[i], addresses[i + 1], 0, 0)]


def _readable(x: Tensor) -> Tensor:
    """A sequence as the kernels read it, copied if need be: its rows may lie anywhere, but each is contiguous."""
    return x if (x.stride()[-1] == 1 or x.shape[-1] == 1) and not x.is_neg() else x.resolve_neg().contiguous()


def _place(x: Tensor) -> tuple[int, int, int]:
    """Where a readable sequence lies: its address, and elements from one step to the next (packed: none) and from one row to the next."""
    strides = x.stride()
    return (x.data_ptr(), strides[0], strides[1]) if len(strides) == 3 else (x.data_ptr(), 0, strides[0])


def new_sequence(like: Tensor, width: int, packed: bool, batch_first: bool) -> Tensor:
    """Memory for as many rows as ``like`` has, each of ``width`` numbers, not initialised."""
    # The strided form: of torch's ways to make a tensor like another it costs least.
    if packed:
        return like.new_empty_strided((like.shape[0], width), (width, 1))
    steps, batch, _ = like.shape
    strides = (width, steps * width, 1) if batch_first else (batch * width, width, 1)
    return like.new_empty_strided((steps, batch, width), strides)


def _sizes(stack: Stack, x: Tensor, batch_sizes: Tensor | None) -> tuple[int, int, int, int, int, int, int, int, int]:
    """The first arguments of every kernel: what runs, and its sizes."""
    if batch_sizes is None:
        steps, batch, _ = x.shape
        address = 0
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


def plain_forward(
    stack: Stack, x: Tensor, h_0: Tensor | None, params: tuple[Tensor, ...], batch_first: bool
) -> tuple[Tensor, Tensor] | None:
    """Run a stack over plain tensors, so far unchecked, with nothing to differentiate; None if it is not so."""
    done: tuple[Tensor, Tensor] | None = _native.plain_forward(
        CELLS[stack.cell.name],
        stack.input_size,
        stack.hidden_size,
        stack.num_layers,
        stack.num_directions,
        stack.bias,
        stack.shapes,
        params,
        x,
        h_0,
        batch_first,
        torch.is_grad_enabled(),
        (Tensor, Parameter),
        torch.get_num_threads(),
    )
    return done


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
    sizes = _sizes(stack, x, batch_sizes)
    _, _, steps, batch, _, hidden_size, layers, directions, _ = sizes
    width = directions * hidden_size
    x = _readable(x)
    params, addresses = _read(params, stack)
    if h_0 is not None:
        h_0 = _dense(h_0)
    output = new_sequence(x, width, batch_sizes is not None, batch_first)
    final = x.new_empty_strided((layers * directions, batch, hidden_size), (batch * hidden_size, hidden_size, 1))
    hidden = None
    if keep and layers > 1:
        hidden = x.new_empty((layers - 1, x.shape[0] if batch_sizes is not None else steps * batch, width))
    _native.forward(
        *sizes,
        addresses,
        torch.get_num_threads(),
        *_place(x),
        _address(h_0),
        *_place(output),
        final.data_ptr(),
        _address(hidden),
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
    for gradient in (d_output, d_final):
        if gradient is not None and gradient.dtype is not x.dtype:
            raise RuntimeError(f"expected gradients of {x.dtype}, as x is, got {gradient.dtype}: was x changed where it was saved?")
    x, output = _readable(x), _readable(output)
    params, addresses = _read(params, stack)
    h_0 = None if h_0 is None else _dense(h_0)
    hidden = None if hidden is None else _dense(hidden)
    d_final = None if d_final is None else _dense(d_final)
    d_x = new_sequence(x, stack.input_size, batch_sizes is not None, batch_first) if wanted[0] else None
    d_h_0 = torch.empty_like(h_0) if wanted[1] and h_0 is not None else None
    d_params = [torch.empty_like(p) if want else None for p, want in zip(params, wanted[2:], strict=True)]
    d_rows = (0, 0, 0, 0)
    if d_output is not None:
        if any(d_output.stride()) or d_output.is_neg():
            d_output = _readable(d_output)
            d_rows = (*_place(d_output), 1)
        else:  # one number stands for all, as in the gradient of a sum
            d_rows = (d_output.data_ptr(), 0, 0, 0)
    _native.backward(
        *_sizes(stack, x, batch_sizes),
        addresses,
        torch.get_num_threads(),
        *_place(x),
        _address(h_0),
        *_place(output),
        _address(hidden),
        *d_rows,
        _address(d_final),
        *((0, 0, 0) if d_x is None else _place(d_x)),
        _address(d_h_0),
        _four(list(map(_address, d_params)), stack.bias),
    )
    return d_x, d_h_0, d_params
