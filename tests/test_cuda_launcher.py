"""Launching CUDA kernels: what is asked of the driver, on a driver that only takes notes."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
import torch

from cuda_driver import INVALID_CONTEXT, INVALID_VALUE, NOT_FOUND, SUCCESS, Call, Driver, properties
from elman.backends.cuda import compiler, launcher

if TYPE_CHECKING:
    from collections.abc import Iterator


def forget() -> None:
    for cached in (launcher._context, launcher._driver, launcher.device_properties, launcher.unavailable_reason):
        cached.cache_clear()


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    forget()
    fake = Driver()
    with monkeypatch.context() as patch:
        patch.setattr(launcher, "_driver", lambda: fake)
        patch.setattr(launcher, "_kernels", {})
        patch.setattr(launcher, "_modules", {})
        patch.setattr(torch.cuda, "get_device_properties", lambda device: properties())
        yield fake
    forget()


# --- Loading ----------------------------------------------------------------------------------------------------------


def test_a_kernel_is_loaded_once_for_each_device(driver: Driver) -> None:
    kernel = launcher.load(b"a cubin", "scan", 0)
    assert launcher.load(b"a cubin", "scan", 0) is kernel
    assert launcher.load(b"a cubin", "scan", 1) is not kernel
    assert launcher.load(b"a cubin", "other", 0) is not kernel
    assert launcher.load(b"another", "scan", 0) is not kernel
    assert driver.asked("cuModuleLoadData") == 3
    assert driver.asked("cuModuleGetFunction") == 4
    assert driver.asked("cuDevicePrimaryCtxRetain") == 2


def test_threads_that_load_at_once_get_one_kernel(driver: Driver) -> None:
    kernels: list[launcher.Kernel] = []
    threads = [threading.Thread(target=lambda: kernels.append(launcher.load(b"a cubin", "scan", 0))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kernels) == 8
    assert len(set(map(id, kernels))) == 1


def test_loading_is_in_the_devices_context_and_lets_a_capture_go_on(driver: Driver) -> None:
    launcher.load(b"a cubin", "scan", 1)
    names = [call[0] for call in driver.calls]
    assert names[:5] == ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent", "cuThreadExchangeStreamCaptureMode"]
    assert ("cuCtxPushCurrent", "context of device 1") in driver.calls
    assert driver.calls[4][1] == "CU_STREAM_CAPTURE_MODE_RELAXED"
    assert driver.calls[-2:] == [("cuThreadExchangeStreamCaptureMode", "the mode before"), ("cuCtxPopCurrent",)]


def test_what_fails_leaves_the_context_as_it_was_and_is_tried_again(driver: Driver) -> None:
    driver.fails["cuModuleGetFunction"] = [NOT_FOUND]
    with pytest.raises(RuntimeError, match=r"^cuModuleGetFunction fails: named symbol not found \(CUDA_ERROR_NOT_FOUND\)$"):
        launcher.load(b"a cubin", "scan", 0)
    assert driver.asked("cuCtxPushCurrent") == driver.asked("cuCtxPopCurrent") == 1
    assert launcher.load(b"a cubin", "scan", 0).name == "scan"
    assert driver.asked("cuModuleLoadData") == 1


@pytest.mark.parametrize(
    ("shared_bytes", "cluster", "expected"),
    [
        (0, 1, []),
        (48 * 1024, 8, []),
        (48 * 1024 + 1, 8, [("CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES", 49153)]),
        (0, 16, [("CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED", 1)]),
    ],
)
def test_what_a_kernel_needs_leave_for_is_asked_once(
    driver: Driver, shared_bytes: int, cluster: int, expected: list[tuple[str, int]]
) -> None:
    for _ in range(2):
        launcher.load(b"a cubin", "scan", 0, shared_bytes=shared_bytes, cluster=cluster)
    assert driver.attributes_set() == [("function b'scan'", *each) for each in expected]


def test_shared_memory_only_grows(driver: Driver) -> None:
    kernels = {launcher.load(b"a cubin", "scan", 0, shared_bytes=asked) for asked in (100_000, 60_000, 200_000, 100_000)}
    assert len(kernels) == 1
    assert [value for *_, value in driver.attributes_set()] == [100_000, 200_000]


def test_what_a_kernel_takes_is_known(driver: Driver) -> None:
    kernel = launcher.load(b"a cubin", "scan", 0)
    assert (kernel.registers, kernel.local_bytes) == (128, 16)
    assert kernel.resident_blocks(256, 1000) == 2 * 132
    assert kernel.resident_clusters(8, 256, 5000) == 16
    *_, config = next(call for call in driver.calls if call[0] == "cuOccupancyMaxActiveClusters")
    (size,) = config.attrs
    assert (config.gridDimX, config.blockDimX, config.sharedMemBytes, config.numAttrs) == (8, 256, 5000, 1)
    assert (size.id, vars(size.value.clusterDim)) == ("CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION", {"x": 8, "y": 1, "z": 1})


# --- Launching --------------------------------------------------------------------------------------------------------


def test_a_launch_hands_over_the_struct(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[tuple[Any, ...]] = []

    def launch(*args: Any) -> tuple[int]:  # reads the parameter where the driver reads it: at the first of an array's addresses
        *rest, array, extra = args
        address = ctypes.c_void_p.from_address(array).value
        assert address is not None
        call = Call.from_address(address)
        launched.append((*rest, (call.x, call.n, call.more[19]), extra))
        return (SUCCESS,)

    monkeypatch.setattr(driver, "cuLaunchKernel", launch, raising=False)
    kernel = launcher.load(b"a cubin", "scan", 0)
    before = len(driver.calls)
    call = Call(0x7F0000000000, 7, (ctypes.c_double * 20)(*range(20)))
    kernel.launch(6, 256, 4096, 0x1234, bytes(call))
    call.n = 8
    kernel.launch(6, 256, 4096, 0, bytes(call))
    grid = ("function b'scan'", 6, 1, 1, 256, 1, 1, 4096)
    assert launched == [(*grid, 0x1234, (0x7F0000000000, 7, 19.0), 0), (*grid, 0, (0x7F0000000000, 8, 19.0), 0)]
    assert len(driver.calls) == before  # and the driver is asked nothing else, which a capture would not like


def test_blocks_that_wait_for_each_other_are_launched_together(driver: Driver) -> None:
    kernel = launcher.load(b"a cubin", "scan", 0)
    driver.fails["cuLaunchCooperativeKernel"] = [INVALID_CONTEXT]
    kernel.launch(6, 256, 4096, 0x1234, bytes(Call()), together=True)
    assert [call[0] for call in driver.calls[-3:]] == ["cuLaunchCooperativeKernel", "cuCtxSetCurrent", "cuLaunchCooperativeKernel"]
    assert driver.calls[-1][1:10] == ("function b'scan'", 6, 1, 1, 256, 1, 1, 4096, 0x1234)


def test_a_launch_that_fails_is_named(driver: Driver) -> None:
    kernel = launcher.load(b"a cubin", "scan", 0)
    driver.fails["cuLaunchKernel"] = [INVALID_VALUE]
    with pytest.raises(RuntimeError, match=r"^cuLaunchKernel\(scan\) fails: invalid argument \(CUDA_ERROR_INVALID_VALUE\)$"):
        kernel.launch(1, 32, 0, 0, bytes(Call()))
    driver.fails["cuLaunchKernel"] = [12345]
    with pytest.raises(RuntimeError, match=r"^cuLaunchKernel\(scan\) fails: unknown \(unknown\)$"):
        kernel.launch(1, 32, 0, 0, bytes(Call()))


def test_a_thread_without_a_context_gets_the_devices(driver: Driver) -> None:
    kernel = launcher.load(b"a cubin", "scan", 1)
    driver.fails["cuLaunchKernel"] = [INVALID_CONTEXT]
    kernel.launch(1, 32, 0, 0, bytes(Call()))
    assert [call[:2] for call in driver.calls[-3:]] == [
        ("cuLaunchKernel", "function b'scan'"),
        ("cuCtxSetCurrent", "context of device 1"),
        ("cuLaunchKernel", "function b'scan'"),
    ]


# --- What a device has, and whether there is one ----------------------------------------------------------------------


@pytest.mark.parametrize("has_one", [False, True])
def test_each_thread_is_given_a_context_once_if_it_has_none(has_one: bool, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "_thread", launcher._Thread())
    driver.context = 7 * has_one

    def work() -> None:
        launcher.ensure_context(0)
        launcher.ensure_context(0)

    for _ in range(2):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert driver.asked("cuCtxGetCurrent") == 2
    given = [call[1:] for call in driver.calls if call[0] == "cuCtxSetCurrent"]
    assert given == ([] if has_one else [("context of device 0",)] * 2)


def test_what_torch_does_not_know_of_a_device_the_driver_does(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    assert launcher.device_properties(0) == launcher.DeviceProperties("a device", (9, 0), 132, 1000, 65536, 50)
    assert driver.calls == []
    without = properties()
    del without.shared_memory_per_block_optin
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: without)
    assert launcher.device_properties(1).shared_bytes == 232448
    assert driver.calls[-1] == ("cuDeviceGetAttribute", "CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN", "device 1")


@pytest.mark.parametrize(
    ("hip", "cuda", "device", "nvrtc", "init", "reason"),
    [
        ("6.4", None, True, True, SUCCESS, "torch is built for ROCm, not for CUDA"),
        (None, None, False, True, SUCCESS, "torch is built without CUDA"),
        (None, "13.0", False, True, SUCCESS, "there is no CUDA device"),
        (None, "13.0", True, False, SUCCESS, "it is not installed"),
        (None, "13.0", True, True, INVALID_VALUE, "cuInit fails: invalid argument (CUDA_ERROR_INVALID_VALUE)"),
        (None, "13.0", True, True, SUCCESS, None),
    ],
)
def test_why_there_are_no_kernels_is_said(
    hip: str | None,
    cuda: str | None,
    device: bool,
    nvrtc: bool,
    init: int,
    reason: str | None,
    driver: Driver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def version() -> tuple[int, int]:
        if not nvrtc:
            raise RuntimeError("it is not installed")
        return 13, 0

    monkeypatch.setattr(torch.version, "hip", hip, raising=False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device)
    monkeypatch.setattr(compiler, "nvrtc_version", version)
    driver.fails["cuInit"] = [init]
    assert launcher.unavailable_reason() == reason


def test_bindings_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    forget()
    with pytest.raises(RuntimeError, match=r"cuda-bindings is not installed .*: pip install '.\[cuda\]'"):
        launcher._driver()
    forget()


def test_nothing_of_cuda_is_imported_before_it_is_needed() -> None:
    """But what newer versions of torch import of it by themselves."""
    code = "import sys, torch; before = set(sys.modules); import elman.backends.cuda.launcher; print(*set(sys.modules) - before)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "elman.backends.cuda.compiler" in loaded
    assert [name for name in loaded if name.split(".")[0] == "cuda"] == []


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        (12080, "the driver is for CUDA 12.8, but NVRTC and cuda-bindings are for 13.2"),
        (13000, None),
        (14010, None),
    ],
)
def test_a_driver_older_than_the_compiler_is_told(
    version: int, reason: str | None, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "hip", None, raising=False)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(compiler, "nvrtc_version", lambda: (13, 2))
    driver.version = version
    assert launcher.unavailable_reason() == reason
