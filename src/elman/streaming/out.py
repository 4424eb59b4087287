"""``out``, the memory that takes the output: checks it and writes to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from elman.layers.errors import check_memory, wrong_kind

if TYPE_CHECKING:
    from collections.abc import Iterable


def check_out(
    out: Any, given: Any, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, others: Iterable[tuple[str, Tensor]]
) -> None:
    """Raise an error if the output cannot be written to out.

    Args:
        out: as the caller gave it.
        given: x, of whose kind it should be.
        shape, dtype, device: the output's.
        others: memory that must not be written to, with a name for each.

    Raises:
        TypeError: it is not of the kind of x, or is masked.
        ValueError: it has the wrong dtype, or is read-only.
        RuntimeError: it has the wrong shape, is on another device, its last axis is not contiguous, or it overlaps itself or one of the
            others.
    """
    if isinstance(given, Tensor):
        _check_tensor(out, dtype, device)
    else:
        _check_array(out, str(dtype).removeprefix("torch."))
    if tuple(out.shape) != shape:
        raise RuntimeError(f"expected out of shape {shape}, the output's, got {tuple(out.shape)}")
    if torch.compiler.is_compiling():  # what is recorded has no address yet
        return
    strides = out.stride() if isinstance(out, Tensor) else tuple([stride / out.itemsize for stride in out.strides])
    shown, mend = _shown(strides), f"make one with {_maker(out, shape)}"
    if shape[-1] != 1 and strides[-1] != 1:
        raise RuntimeError(f"expected out contiguous along its last axis, got strides of {shown} numbers: {mend}")
    reach = 1.0
    for stride, length in sorted((abs(stride), length) for stride, length in zip(strides, shape, strict=True) if length != 1):
        if stride < reach:
            raise RuntimeError(f"expected out without overlapping elements, got strides of {shown} numbers: {mend}")
        reach = stride * length
    for name, other in others:
        if _overlap(_extent(out), _extent(other)):
            raise RuntimeError(f"expected out to share no memory with {name}, got one that does: {mend}")


def write(out: Any, output: Tensor) -> None:
    """Write the output to out, which has been checked.

    Raises:
        RuntimeError: the output carries a graph, which out cannot.
    """
    if not isinstance(out, Tensor):
        out[...] = output.cpu().numpy()
        return
    if torch.is_grad_enabled() and (output.requires_grad or out.requires_grad):
        which = "the output carries a graph" if output.requires_grad else "out requires gradients"
        raise RuntimeError(f"expected no out with gradients enabled, where {which}: leave it out, or call under torch.no_grad()")
    out.copy_(output)


def _check_tensor(out: Any, dtype: torch.dtype, device: torch.device) -> None:
    if not isinstance(out, Tensor) or isinstance(out, torch.masked.MaskedTensor):
        raise wrong_kind("out", "a torch tensor, as x is", out)
    if out.layout is not torch.strided or out.is_nested:
        raise RuntimeError(f"expected out to be a strided tensor, got {'a nested one' if out.is_nested else out.layout}")
    if out.dtype is not dtype:
        raise ValueError(f"expected out of {dtype}, the output's dtype, got {out.dtype}")
    if out.device != device:
        raise RuntimeError(f"expected out on {device}, where the output is, got {out.device}")
    if out.is_inference() and not torch.is_inference_mode_enabled():
        raise RuntimeError("expected out to be an ordinary tensor, got one made in inference mode: it can be written to in that mode only")
    check_memory("out", out)
    if out._is_zerotensor():
        raise RuntimeError("expected out to lie in memory, got zeros that torch keeps without any")


def _check_array(out: Any, dtype: str) -> None:
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise wrong_kind("out", "a NumPy array, as x is", out)
    if str(out.dtype) != dtype:
        raise ValueError(f"expected out of {dtype}, the output's dtype, got {out.dtype}")
    if not out.flags.writeable:
        raise ValueError("expected out to be writable, got a read-only array")


def _maker(out: Any, shape: tuple[int, ...]) -> str:
    module, dtype = ("", out.dtype) if isinstance(out, Tensor) else ("numpy.", f"numpy.{out.dtype}")
    return f"{module or 'torch.'}empty({shape}, dtype={dtype})"


def _shown(strides: tuple[float, ...]) -> str:
    return f"({', '.join(f'{stride:g}' for stride in strides)}{',' if len(strides) == 1 else ''})"


def _extent(values: Any) -> tuple[int, int]:
    """The addresses of the first byte and behind the last."""
    if isinstance(values, Tensor):
        at, size, strides = values.data_ptr(), values.element_size(), [stride * values.element_size() for stride in values.stride()]
    else:
        at, size, strides = values.ctypes.data, values.itemsize, list(values.strides)
    ends = [stride * (length - 1) for stride, length in zip(strides, values.shape, strict=True)]
    return at + sum(end for end in ends if end < 0), at + sum(end for end in ends if end > 0) + size


def _overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] < b[1] and b[0] < a[1]
