"""The compiled kernels of this installation: whether they are built, for which instruction sets, and their settings.

``call`` runs them; nothing here does.
"""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import Parameter

try:
    from elman import _native
except ImportError as error:  # a pure-Python installation
    _native = None  # type: ignore[assignment]
    built = importlib.util.find_spec("elman._native") is not None
    _missing: str | None = str(error) if built else "this is the pure-Python package"
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

# How the kernels number number types (csrc/kernels.h).
NUMBERS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}
PLAIN = frozenset((Tensor, Parameter))  # a subclass may mean anything by its operations
# By name the cells that have kernels: how many gates and states they have, and how many numbers of each unit and step they save.
CELLS: dict[str, tuple[int, int, int]] = _native.cells() if _missing is None else {}


def available() -> bool:
    """Whether the kernels were built for this installation."""
    return _missing is None


def unavailable_reason() -> str | None:
    """Why they are not available; None if they are."""
    return _missing


def wide(dtype: torch.dtype) -> torch.dtype:
    """What is computed and saved in where tensors are of this dtype."""
    return torch.promote_types(dtype, torch.float32)


def require(what: str) -> None:
    """Raise a RuntimeError unless they are: ``what`` runs on them alone."""
    if _missing is not None:
        raise RuntimeError(f"{what} runs on the compiled kernels, which are not built here ({_missing}): install Elman with a C++ compiler")


def isa() -> str:
    """The instruction set in use: "avx512", "avx2", "neon" or "scalar"; ELMAN_ISA forces one."""
    return _native.isa()


def isas() -> tuple[str, ...]:
    """The instruction sets that this processor and this build offer, the best first."""
    return tuple(_native.isas())


def fma_peak(threads: int) -> float:
    """The upper bound for any float32 kernel here: operations per second of multiply-adds on registers alone, on so many threads."""
    return _native.peak(threads)


def threads_used() -> int:
    """How many threads the calling thread's last kernel ran on: 1 to torch's number; 0 without the kernels."""
    return _native.threads_used() if _missing is None else 0


def sees_tensors() -> bool:
    """Whether the kernels read torch's tensors through DLPack's exchange interface (torch 2.10 and later)."""
    return _missing is None and hasattr(Tensor, "__dlpack_c_exchange_api__")


if _missing is None:
    _native.know_tensors(tuple(PLAIN))
if sees_tensors():
    _native.offer_exchange(Tensor.__dlpack_c_exchange_api__)


def are_plain(*tensors: object) -> bool:
    """Whether these are plain tensors, with no subclass that redefines operations."""
    return PLAIN.issuperset(map(type, tensors))


def reads(stack: Stack, params: Sequence[Tensor]) -> bool:
    """Whether the kernels can read these parameters in place and they fit the stack; False, too, if checking would take long."""
    # Asked of what torch.func's transforms wrap, the kernels throw, which takes longer than a small network.
    return _missing is None and not torch._C._are_functorch_transforms_active() and _native.reads(stack.shapes, params)


def open_stream(
    stack: Stack,
    batch: int,
    params: Sequence[object],
    states: Sequence[object],
    fresh: tuple[tuple[object, ...], ...],
    entries: dict[str, Tensor],
    names: tuple[str, ...],
) -> _native.Stream:
    """Kernels that run a stack one step at a time (csrc/stream_binding.cpp describes the arguments)."""
    return _native.Stream(stack.numbers, batch, params, states, fresh, entries, names)
