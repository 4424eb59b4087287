"""Loads compiled kernels onto a device and launches them: the CUDA driver through ``cuda.bindings``, in torch's context and on its streams.

Nothing of CUDA is imported before it is needed. A module, once loaded, stays until the process ends.
"""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from threading import Lock, local
from typing import TYPE_CHECKING, Any, Protocol

import torch

from elman.backends.cuda import compiler

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PLAIN_SHARED_BYTES = 48 * 1024  # what a block may have without asking
_PLAIN_CLUSTER = 8  # blocks that a cluster may have on every device that knows clusters
_loading = Lock()
_modules: dict[tuple[int, bytes], Any] = {}
_kernels: dict[tuple[int, bytes, str], Kernel] = {}


@cache
def unavailable_reason() -> str | None:
    """Why no kernel can run here, as a clause; None if they can."""
    if torch.version.hip is not None:
        return "torch is built for ROCm, not for CUDA"
    if torch.version.cuda is None:
        return "torch is built without CUDA"
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    try:
        compilers = compiler.nvrtc_version()
        _call("cuInit", 0)
        version = _call("cuDriverGetVersion")
    except RuntimeError as error:
        return str(error)
    drivers = (version // 1000, version % 1000 // 10)
    if drivers[0] < compilers[0]:  # minor versions may differ
        return "the driver is for CUDA {}.{}, but NVRTC and cuda-bindings are for {}.{}".format(*drivers, *compilers)
    return None


@dataclass(frozen=True)
class DeviceProperties:
    """What a device has that plans are made from.

    Attributes:
        name: "NVIDIA H200".
        capability: its compute capability, (9, 0).
        multiprocessors: how many.
        shared_bytes: shared memory that a block may ask for.
        registers: of 32 bits, per multiprocessor.
        l2_bytes: the second-level cache.
    """

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    shared_bytes: int
    registers: int
    l2_bytes: int

    @property
    def arch(self) -> str:
        """What to compile for, "sm_90a"."""
        return compiler.architecture(self.capability)


@cache
def device_properties(device: int) -> DeviceProperties:
    """The properties of the device of this index among those torch sees."""
    properties = torch.cuda.get_device_properties(device)

    def attribute(torchs: str, drivers: str) -> int:
        """Torch's word, or the driver's where this version of torch has none."""
        value = getattr(properties, torchs, None)
        if value is None:
            driver = _driver()
            which = getattr(driver.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{drivers}")
            value = _call("cuDeviceGetAttribute", which, _call("cuDeviceGet", device))
        return int(value)

    return DeviceProperties(
        name=properties.name,
        capability=(properties.major, properties.minor),
        multiprocessors=attribute("multi_processor_count", "MULTIPROCESSOR_COUNT"),
        shared_bytes=attribute("shared_memory_per_block_optin", "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN"),
        registers=attribute("regs_per_multiprocessor", "MAX_REGISTERS_PER_MULTIPROCESSOR"),
        l2_bytes=attribute("L2_cache_size", "L2_CACHE_SIZE"),
    )


@cache
def function_address(name: str) -> int:
    """Where a function of the driver is; 0: it is not found."""
    try:
        return ctypes.cast(getattr(ctypes.CDLL("libcuda.so.1"), name), ctypes.c_void_p).value or 0
    except (AttributeError, OSError):
        return 0


class Kernel:
    """One kernel on one device, ready to be launched. :func:`load` makes it.

    Attributes:
        device: the device's index.
        name: the kernel's.
        registers: per thread.
        local_bytes: of memory per thread; not 0 means that registers were spilled, or that there are local arrays.
    """

    def __init__(self, module: Any, name: str, device: int, cluster: int) -> None:
        attributes = _driver().CUfunction_attribute
        self.device = device
        self.name = name
        self._shared_bytes = _PLAIN_SHARED_BYTES
        self._launch = _driver().cuLaunchKernel
        self._launch_together = _driver().cuLaunchCooperativeKernel
        self._function = _call("cuModuleGetFunction", module, name.encode())
        if cluster > _PLAIN_CLUSTER:
            _call("cuFuncSetAttribute", self._function, attributes.CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1)
        self.registers: int = _call("cuFuncGetAttribute", attributes.CU_FUNC_ATTRIBUTE_NUM_REGS, self._function)
        self.local_bytes: int = _call("cuFuncGetAttribute", attributes.CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES, self._function)

    @property
    def handle(self) -> int:
        """The driver's."""
        return int(self._function)

    def _allow(self, shared_bytes: int) -> None:
        """Let launches ask for so much shared memory."""
        if shared_bytes > self._shared_bytes:
            which = _driver().CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            _call("cuFuncSetAttribute", self._function, which, shared_bytes)
            self._shared_bytes = shared_bytes

    def launch(self, grid: int, block: int, shared_bytes: int, stream: int, params: bytes, together: bool = False) -> None:
        """Put a launch onto a stream: neither waits nor allocates, so that a CUDA graph may be capturing.

        The kernel's device is to be torch's current one.

        Args:
            grid: blocks, a multiple of the cluster that the kernel is compiled with.
            block: threads in each.
            shared_bytes: dynamic shared memory of a block, at most what the kernel was loaded with.
            stream: its handle, as ``torch.cuda.current_stream().cuda_stream`` gives it.
            params: the kernel's one parameter, a struct by value, as it lies in memory.
            together: blocks wait for each other, so that all of them are to run at once or none (a cooperative launch).

        Raises:
            RuntimeError: CUDA refuses; the message has its words.
        """
        pointer = ctypes.c_char_p(params)
        array = ctypes.addressof(pointer)  # of one pointer
        size = (self._function, grid, 1, 1, block, 1, 1, shared_bytes, stream, array)
        (error,) = self._launch_together(*size) if together else self._launch(*size, 0)
        if error:
            if error == _driver().CUresult.CUDA_ERROR_INVALID_CONTEXT:  # a thread in which torch has not used the device yet
                _call("cuCtxSetCurrent", _context(self.device))
                (error,) = self._launch_together(*size) if together else self._launch(*size, 0)
            _check(f"cuLaunchKernel({self.name})", error)

    def resident_blocks(self, block: int, shared_bytes: int) -> int:
        """How many blocks the device can run at once, if nobody else is on it."""
        with current(self.device):
            each = _call("cuOccupancyMaxActiveBlocksPerMultiprocessor", self._function, block, shared_bytes)
        return int(each) * device_properties(self.device).multiprocessors

    def resident_clusters(self, cluster: int, block: int, shared_bytes: int) -> int:
        """How many clusters of this many blocks the device can run at once, if nobody else is on it."""
        driver = _driver()
        size = driver.CUlaunchAttribute()
        size.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        size.value.clusterDim.x, size.value.clusterDim.y, size.value.clusterDim.z = cluster, 1, 1
        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = cluster, 1, 1
        config.blockDimX, config.blockDimY, config.blockDimZ = block, 1, 1
        config.sharedMemBytes = shared_bytes
        config.attrs, config.numAttrs = [size], 1
        with current(self.device):
            return int(_call("cuOccupancyMaxActiveClusters", self._function, config))


def load(cubin: bytes, name: str, device: int, *, shared_bytes: int = 0, cluster: int = 1) -> Kernel:
    """A kernel of a cubin on a device; asked again, the one loaded before.

    Args:
        name: the kernel's, which is ``extern "C"``.
        device: an index, as ``torch.cuda.current_device()`` gives it.
        shared_bytes: the most dynamic shared memory that a launch will ask for.
        cluster: the blocks of a cluster that the kernel is compiled with.

    Raises:
        RuntimeError: CUDA refuses; the message has its words.
    """
    which = (device, cubin, name)
    kernel = _kernels.get(which)
    if kernel is None or shared_bytes > kernel._shared_bytes:
        with _loading, current(device):
            kernel = _kernels.get(which)
            if kernel is None:
                if (device, cubin) not in _modules:
                    _modules[device, cubin] = _call("cuModuleLoadData", cubin)
                kernel = _kernels[which] = Kernel(_modules[device, cubin], name, device, cluster)
            kernel._allow(shared_bytes)
    return kernel


class KernelPlan(Protocol):
    """What a kernel ``scan`` is compiled from and loaded with.

    Attributes:
        name: for messages.
        defines, entry: as ``compiler.compile`` takes them.
        shared_bytes, cluster: as ``load`` takes them.
    """

    @property
    def name(self) -> str: ...
    @property
    def defines(self) -> Mapping[str, int]: ...
    @property
    def entry(self) -> str: ...
    @property
    def shared_bytes(self) -> int: ...
    @property
    def cluster(self) -> int: ...


@lru_cache(maxsize=1024)
def kernel(plan: KernelPlan, device: int) -> Kernel:
    """A plan's kernel, compiled for the device of this index and loaded."""
    cubin = compiler.compile(plan.name, device_properties(device).arch, plan.defines, plan.entry)
    return load(cubin, "scan", device, shared_bytes=plan.shared_bytes, cluster=plan.cluster)


@contextmanager
def current(device: int) -> Iterator[None]:
    """Make a device's primary context, which torch works in, the thread's for a while.

    Meanwhile a capture of a CUDA graph, which may be going on, allows what it cannot record: a kernel may be loaded in one.
    """
    _call("cuCtxPushCurrent", _context(device))
    try:
        mode = _call("cuThreadExchangeStreamCaptureMode", _driver().CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED)
        try:
            yield
        finally:
            _call("cuThreadExchangeStreamCaptureMode", mode)
    finally:
        _call("cuCtxPopCurrent")


class _Thread(local):
    """What a thread has been asked for."""

    def __init__(self) -> None:
        self.has_context_for: set[int] = set()


_thread = _Thread()


def ensure_context(device: int) -> None:
    """Give the thread the context that torch works in, if it has none: one in which nobody has used the device yet."""
    if device not in _thread.has_context_for:
        _thread.has_context_for.add(device)
        if not int(_call("cuCtxGetCurrent")):
            _call("cuCtxSetCurrent", _context(device))


@cache
def _context(device: int) -> Any:
    """A device's primary context, kept for good."""
    _call("cuInit", 0)
    return _call("cuDevicePrimaryCtxRetain", _call("cuDeviceGet", device))


@cache
def _driver() -> Any:
    """CUDA's driver.

    Raises:
        RuntimeError: cuda-bindings is not installed.
    """
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise RuntimeError(f"cuda-bindings is not installed ({error}): pip install '.[cuda]'") from None
    return driver


def _call(function: str, *args: Any) -> Any:
    """What a function of the driver gives, past its status."""
    error, *values = getattr(_driver(), function)(*args)
    _check(function, error)
    return values[0] if values else None


def _check(call: str, error: Any) -> None:
    """Raise what the driver says of an error, if it is one."""
    if error:
        driver = _driver()
        texts = [driver.cuGetErrorString(error)[1], driver.cuGetErrorName(error)[1]]
        message, name = (text.decode() if text else "unknown" for text in texts)
        raise RuntimeError(f"{call} fails: {message} ({name})")
