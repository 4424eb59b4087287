"""A CUDA driver that only takes notes, for tests of what it is asked; a kernel's parameter, and what torch says of a device."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

SUCCESS, INVALID_VALUE, INVALID_CONTEXT, NOT_FOUND = 0, 1, 201, 500


class Call(ctypes.Structure):
    """A kernel's parameter."""

    _fields_ = (("x", ctypes.c_void_p), ("n", ctypes.c_int), ("more", ctypes.c_double * 20))


class Names:
    """Enumerators that are their own names."""

    def __getattr__(self, name: str) -> str:
        return name


class Driver:
    """Takes the driver's place, and notes what it is asked.

    ``fails`` gives a function's statuses, call by call; beyond them it succeeds.
    """

    CUfunction_attribute = CUdevice_attribute = CUlaunchAttributeID = CUstreamCaptureMode = Names()
    CUresult = SimpleNamespace(CUDA_ERROR_INVALID_CONTEXT=INVALID_CONTEXT)

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.fails: dict[str, list[int]] = {}
        self.version = 13000
        self.context = 0

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*args: Any) -> tuple[Any, ...]:
            self.calls.append((name, *args))
            statuses = self.fails.get(name, [])
            return (statuses.pop(0) if statuses else SUCCESS, *self.answer(name, args))

        return call

    def answer(self, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """What a function gives past its status."""
        first = args[0] if args else None
        errors = {
            INVALID_VALUE: ("CUDA_ERROR_INVALID_VALUE", "invalid argument"),
            NOT_FOUND: ("CUDA_ERROR_NOT_FOUND", "named symbol not found"),
        }
        values = {
            "cuDriverGetVersion": self.version,
            "cuDeviceGet": f"device {first}",
            "cuCtxGetCurrent": self.context,
            "cuDevicePrimaryCtxRetain": f"context of {first}",
            "cuThreadExchangeStreamCaptureMode": "the mode before",
            "cuModuleLoadData": f"module {self.asked('cuModuleLoadData')}",
            "cuModuleGetFunction": f"function {args[-1]}" if args else None,
            "cuFuncGetAttribute": {"CU_FUNC_ATTRIBUTE_NUM_REGS": 128, "CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES": 16}.get(first),
            "cuDeviceGetAttribute": {"CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN": 232448}.get(first),
            "cuOccupancyMaxActiveBlocksPerMultiprocessor": 2,
            "cuOccupancyMaxActiveClusters": 16,
            "cuGetErrorName": errors[first][0].encode() if first in errors else None,
            "cuGetErrorString": errors[first][1].encode() if first in errors else None,
        }
        return (values[name],) if name in values else ()

    def CUlaunchAttribute(self) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(value=SimpleNamespace(clusterDim=SimpleNamespace()))

    def CUlaunchConfig(self) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace()

    def asked(self, name: str) -> int:
        return [call[0] for call in self.calls].count(name)

    def attributes_set(self) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] == "cuFuncSetAttribute"]


def properties(**changes: Any) -> SimpleNamespace:
    """What torch says of a device."""
    torchs = {
        "name": "a device",
        "major": 9,
        "minor": 0,
        "multi_processor_count": 132,
        "regs_per_multiprocessor": 65536,
        "L2_cache_size": 50,
    }
    return SimpleNamespace(**torchs | {"shared_memory_per_block_optin": 1000} | changes)
