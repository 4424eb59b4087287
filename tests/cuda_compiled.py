"""Lets elman._native put commands onto a stream on the CPU: what it calls leads back to the stand-ins for kernels and for cuBLASLt."""

from __future__ import annotations

import ctypes
from ctypes import CFUNCTYPE, c_int, c_size_t, c_uint, c_void_p, cast
from typing import TYPE_CHECKING, Any

from elman.backends.cuda import commands, cublaslt, launcher

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from cublaslt_model import CublasLt

_Launch = CFUNCTYPE(c_int, c_void_p, *(c_uint,) * 7, c_void_p, c_void_p)
_Matmul = CFUNCTYPE(c_int, *(c_void_p,) * 14, c_size_t, c_void_p)
_Copy = CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t, c_void_p)
_SetAttribute = CFUNCTYPE(c_int, c_void_p, c_int, c_void_p, c_size_t)


class Compiled:
    """What elman._native has called.

    Attributes:
        launches, products, copies: how many.
        errors: what stand-ins have raised.
    """

    def __init__(self, library: CublasLt) -> None:
        self.library = library
        self.kernels: list[Any] = []
        self.launches = self.products = self.copies = 0
        self.errors: list[BaseException] = []
        self.functions: dict[str, Any] = {
            "cuLaunchKernel": _Launch(self._guarded(lambda *call: self._launch(False, *call))),
            "cuLaunchCooperativeKernel": _Launch(self._guarded(lambda *call: self._launch(True, *call))),
            "cuMemcpyDtoDAsync_v2": _Copy(self._guarded(self._copy)),
            "cublasLtMatmul": _Matmul(self._guarded(self._multiply)),
            "cublasLtMatmulDescSetAttribute": _SetAttribute(self._guarded(self._set)),
        }

    def address(self, name: str) -> int:
        """Of a function of the driver or of cuBLASLt."""
        return cast(self.functions[name], c_void_p).value or 0

    def handle(self, kernel: Any) -> int:
        """A number for a stand-in for a kernel."""
        if kernel not in self.kernels:
            self.kernels.append(kernel)
        return self.kernels.index(kernel) + 1

    def _guarded(self, function: Callable[..., int]) -> Callable[..., int]:
        """A callback cannot raise: what it would is kept, and its status is not 0."""

        def call(*arguments: Any) -> int:
            try:
                return function(*(0 if each is None else each for each in arguments))
            except BaseException as error:
                self.errors.append(error)
                return 1

        return call

    def _launch(self, together: bool, handle: int, *rest: int) -> int:
        *grid, block, block_y, block_z, shared_bytes, stream, params = rest
        assert grid[1:] == [1, 1] == [block_y, block_z]
        self.launches += 1
        kernel = self.kernels[handle - 1]
        address = c_void_p.from_address(params).value
        assert address is not None
        kernel.launch(grid[0], block, shared_bytes, stream, ctypes.string_at(address, kernel.plan.parameter.size), together=together)
        return 0

    def _copy(self, out: int, source: int, size: int, stream: int) -> int:
        self.copies += 1
        assert stream == 5
        ctypes.memmove(out, source, size)
        return 0

    def _multiply(self, *call: int) -> int:
        self.products += 1
        return self.library.cublasLtMatmul(*call)

    def _set(self, what: int, which: int, at: int, size: int) -> int:
        assert size == 8
        self.library.made[what][which] = c_void_p.from_address(at).value
        return 0


def install(monkeypatch: pytest.MonkeyPatch, library: CublasLt, kernel: type) -> Compiled:
    """Until the test ends, commands of tensors on the CPU are put onto a stream by elman._native, and by nothing else.

    Args:
        library: a model of cuBLASLt, which is installed.
        kernel: the class of the stand-ins for kernels.
    """
    compiled, make = Compiled(library), commands._compiled
    monkeypatch.setattr(kernel, "handle", property(compiled.handle), raising=False)
    monkeypatch.setattr(launcher, "function_address", compiled.address)
    functions = compiled.address("cublasLtMatmul"), compiled.address("cublasLtMatmulDescSetAttribute")
    monkeypatch.setattr(cublaslt, "_functions", lambda library: functions)
    monkeypatch.setattr(commands, "_compiled", lambda each, index: make(each, 0))
    return compiled
