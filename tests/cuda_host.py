"""What a call on a GPU takes the processor, measured where there is no GPU: behind the driver and cuBLASLt there is nothing.

    PYTHONPATH=tests python tests/cuda_host.py

Times are of calls that are repeated at once; in a program, whose every step runs through more code, they are longer.
"""

from __future__ import annotations

import ctypes
import subprocess
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
import torch

import elman
from elman.backends import operator, registry
from elman.backends.cuda import backend, commands, cublaslt, launcher, run
from elman.backends.cuda.backend import CudaBackend
from elman.backends.cuda.launcher import DeviceProperties
from elman.bench.race import race

if TYPE_CHECKING:
    from collections.abc import Callable

DEVICE = DeviceProperties("imagined", (9, 0), 132, 232448, 65536, 50 << 20)
T, B, I, H = 5, 3, 10, 20  # noqa: E741
# An algorithm has a workspace, as it mostly has.
SOURCE = """
#include <cstddef>
#include <cstdint>
extern "C" {
#define MAKES(name) int name(void** made) { *made = reinterpret_cast<void*>(16); return 0; }
#define DOES_NOTHING(name) int name() { return 0; }
MAKES(cublasLtCreate) MAKES(cublasLtMatmulDescCreate) MAKES(cublasLtMatrixLayoutCreate) MAKES(cublasLtMatmulPreferenceCreate)
DOES_NOTHING(nothing) DOES_NOTHING(cublasLtMatmul) DOES_NOTHING(cublasLtMatmulDescSetAttribute)
DOES_NOTHING(cublasLtMatmulPreferenceSetAttribute) DOES_NOTHING(cublasLtMatmulDescDestroy)
DOES_NOTHING(cublasLtMatrixLayoutDestroy) DOES_NOTHING(cublasLtMatmulPreferenceDestroy)
int cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void*, int, char* found, int* count) {
  *reinterpret_cast<std::size_t*>(found + 64) = 65536, *reinterpret_cast<int*>(found + 72) = 0, *count = 1;
  return 0;
}
}
"""


class Kernel(launcher.Kernel):
    """A loaded kernel whose launches do nothing."""

    handle, local_bytes = 16, 0

    def __init__(self) -> None:
        self.name, self._function = "scan", 16
        self._launch = self._launch_together = lambda *call: (0,)

    def resident_blocks(self, block: int, shared_bytes: int) -> int:
        return DEVICE.multiprocessors

    def resident_clusters(self, cluster: int, block: int, shared_bytes: int) -> int:
        return DEVICE.multiprocessors // cluster


class Empty(torch.autograd.Function):
    """A node with as many inputs and results as an LSTM's, which does nothing: torch's part of a call."""

    @staticmethod
    def forward(ctx: Any, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.save_for_backward(*inputs)
        ctx.set_materialize_grads(False)
        return tuple(inputs[0].new_empty(shape) for shape in ((T, B, H), (1, B, H), (1, B, H)))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        return tuple(map(torch.empty_like, ctx.saved_tensors))


def built(folder: Path) -> Path:
    """The library that has the functions which do nothing."""
    source, library = folder / "nothing.cpp", folder / "libnothing.so"
    source.write_text(SOURCE, encoding="utf-8")
    subprocess.run(["g++", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
    return library


def install(patch: pytest.MonkeyPatch, library: Path) -> None:
    """Take tensors on the CPU for tensors on a GPU."""
    stub = ctypes.CDLL(str(library))
    patch.setattr(launcher, "function_address", lambda name: ctypes.cast(stub.nothing, ctypes.c_void_p).value)
    for name, value in (("ensure_context", None), ("current", nullcontext()), ("device_properties", DEVICE), ("unavailable_reason", None)):
        patch.setattr(launcher, name, lambda *call, value=value: value)
    kernel = Kernel()
    patch.setattr(launcher, "kernel", lambda plan, index: kernel)
    patch.setattr(cublaslt, "_library", lambda: cublaslt.declared(stub))
    patch.setattr(cublaslt, "_handle", lambda index: 16)
    patch.setattr(torch.Tensor, "get_device", lambda tensor: 0)
    patch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: 0, raising=False)
    patch.setattr(run, "on_device_of", lambda x: nullcontext())
    patch.setattr(operator, "kernels_of", lambda x, recorded=None: run)
    patch.setattr(backend, "_is_on_gpu", lambda tensor: True)
    patch.setattr(CudaBackend, "refuses", lambda *call: None)
    patch.setattr(registry, "BACKENDS", (CudaBackend(),))


def step(function: Callable[..., Any], x: torch.Tensor, parameters: list[torch.nn.Parameter]) -> Callable[[], None]:
    """A step of training, but for the optimizer's."""
    grad = torch.ones_like(function(x)[0])

    def train() -> None:
        for each in (x, *parameters):
            each.grad = None
        function(x)[0].backward(grad)

    return train


def contestants(patch: pytest.MonkeyPatch) -> dict[str, Callable[[], object]]:
    found: dict[str, Callable[[], object]] = {}
    for kind in (elman.RNN, elman.GRU, elman.LSTM):
        net = kind(I, H).half()
        for way, batch in (("", B), (", commands in Python", B + 1)):  # of another form, and so of commands of their own
            x = torch.randn(T, batch, I).half().requires_grad_()
            with patch.context() as changed:
                if way:
                    changed.setattr(commands, "_compiled", lambda each, index: None)
                name = kind.__name__ + way
                found[f"{name}, inference"] = torch.no_grad()(lambda net=net, x=x: net(x))
                found[f"{name}, training"] = step(net, x, list(net.parameters()))
                for call in list(found.values())[-2:]:
                    call()
    lstm = elman.LSTM(I, H).half()
    parameters = list(lstm.parameters())
    found["an empty node, training"] = step(lambda x: Empty.apply(x, *parameters), torch.randn(T, B, I).half().requires_grad_(), parameters)
    return found


def main() -> None:
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        install(patch, built(Path(folder)))
        for name, timing in race(contestants(patch), rounds=15, min_block_s=0.02).items():
            print(f"{timing.median * 1e6:7.1f} µs ± {timing.spread:4.0%}  {name}")


if __name__ == "__main__":
    main()
