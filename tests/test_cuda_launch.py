"""Launching CUDA kernels on a GPU: on torch's stream, from any thread, and within a graph."""

from __future__ import annotations

import ctypes
import threading

import pytest
import torch

from cuda_driver import Call
from elman.backends.cuda import compiler, launcher

pytestmark = pytest.mark.skipif(launcher.unavailable_reason() is not None, reason=str(launcher.unavailable_reason()))

BUMP = """
struct Call { float* x; int n; double more[20]; };
extern "C" __global__ void bump(const __grid_constant__ Call call) {
  extern __shared__ float shared[];
  shared[threadIdx.x] = float(call.more[19]);
  if (blockIdx.x == 0 && threadIdx.x < call.n) call.x[threadIdx.x] += shared[threadIdx.x];
}
"""


@pytest.fixture
def bump() -> launcher.Kernel:
    device = torch.cuda.current_device()
    cubin = compiler.compile("bump", launcher.device_properties(device).arch, {}, BUMP)
    return launcher.load(cubin, "bump", device, shared_bytes=64 * 1024)


def ones(x: torch.Tensor) -> Call:
    """Adds 1 to all numbers of x but the last."""
    return Call(x.data_ptr(), x.numel() - 1, (ctypes.c_double * 20)(*[0.0] * 19, 1.0))


def test_a_kernel_runs_on_torchs_stream(bump: launcher.Kernel) -> None:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        x = torch.zeros(32, device="cuda")
        for _ in range(3):
            bump.launch(4, 32, 64 * 1024, stream.cuda_stream, bytes(ones(x)))
        assert x.tolist() == [3.0] * 31 + [0.0]
    assert bump.registers > 0
    assert bump.local_bytes == 0
    assert bump.resident_blocks(32, 64 * 1024) >= torch.cuda.get_device_properties("cuda").multi_processor_count


def test_a_kernel_runs_in_a_thread_that_has_not_used_the_device(bump: launcher.Kernel) -> None:
    x = torch.zeros(32, device="cuda")
    torch.cuda.synchronize()
    thread = threading.Thread(target=bump.launch, args=(1, 32, 64 * 1024, 0, bytes(ones(x))))
    thread.start()
    thread.join()
    torch.cuda.synchronize()
    assert x.tolist() == [1.0] * 31 + [0.0]


def test_a_graph_captures_a_launch_and_a_load(bump: launcher.Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(32, device="cuda")
    graph = torch.cuda.CUDAGraph()
    cubin = compiler.compile("fresh", launcher.device_properties(bump.device).arch, {}, BUMP + "// not loaded yet\n")
    monkeypatch.setattr(launcher, "_modules", {})
    monkeypatch.setattr(launcher, "_kernels", {})
    with torch.cuda.graph(graph):
        fresh = launcher.load(cubin, "bump", bump.device, shared_bytes=64 * 1024)
        for kernel in (bump, fresh):
            kernel.launch(1, 32, 64 * 1024, torch.cuda.current_stream().cuda_stream, bytes(ones(x)))
    assert x.sum().item() == 0
    graph.replay()
    graph.replay()
    assert x.tolist() == [4.0] * 31 + [0.0]


def test_what_cuda_refuses_is_told(bump: launcher.Kernel) -> None:
    with pytest.raises(RuntimeError, match=r"cuLaunchKernel\(bump\) fails: .*CUDA_ERROR_INVALID_VALUE"):
        bump.launch(1, 4096, 0, 0, bytes(Call()))
    with pytest.raises(RuntimeError, match="cuModuleLoadData fails"):
        launcher.load(b"not a cubin", "bump", bump.device)
