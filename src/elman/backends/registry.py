"""Which backend runs a call: the first in the list that does not refuse it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from elman.backends.aten import AtenBackend
from elman.backends.cuda.backend import CudaBackend
from elman.backends.native import NativeBackend
from elman.backends.reference import REFERENCE

if TYPE_CHECKING:
    from elman.backends.backend import Backend
    from elman.backends.operands import Operands
    from elman.backends.stack import Stack

# In order of preference. The reference is last: it refuses nothing.
BACKENDS: tuple[Backend, ...] = (NativeBackend(), CudaBackend(), AtenBackend(), REFERENCE)


def choose(stack: Stack, operands: Operands) -> Backend:
    """The backend that runs this call."""
    for backend in BACKENDS:
        if backend.refuses(stack, operands) is None:
            return backend
    raise AssertionError("the reference backend refuses nothing")


def explain(stack: Stack, operands: Operands) -> str:
    """One line: the backend that runs this call, and why not those before it."""
    x, chosen = operands.x, choose(stack, operands)
    before = BACKENDS[: BACKENDS.index(chosen)]
    passed_over = [backend for backend in before if backend.device in (None, x.device.type)]
    if not passed_over and chosen.device is None:  # no backend is for such a device, and the first says so
        passed_over = list(before[:1])
    if passed_over:
        refusals = (f"{backend.name} {backend.refuses(stack, operands)}" for backend in passed_over)
        return f"{chosen.label}: {'; '.join(refusals)}"
    device = "GPU" if x.is_cuda else x.device.type.upper()
    return f"{chosen.label}: {str(x.dtype).removeprefix('torch.')} on the {device}"
