"""The cuda backend: our kernels on NVIDIA's GPUs from compute capability 8.0 on, in bfloat16, float16 and float32.

They are compiled at first use, for each network's sizes, and kept in the user's cache. In float32 the recurrence's products are tf32's
where torch allows that to cuDNN (``torch.backends.cudnn.allow_tf32``, as by default), else as exact as float32's; the products around it
are as ``torch.set_float32_matmul_precision`` says. What the kernels do not do is refused.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, final

import torch

from elman.backends.cuda import launcher
from elman.backends.cuda.plan import CELLS, Number, choose, number_of
from elman.backends.kernel_backend import KernelBackend, cast

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from elman.backends.spans import Spans
    from elman.backends.stack import Stack

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_LEAST_CAPABILITY = (8, 0)
_LARGEST = 2**31 - 1  # steps, sequences


@final
class CudaBackend(KernelBackend):
    name = "cuda"
    device = "cuda"

    def refuses(
        self,
        stack: Stack,
        x: Tensor,
        states: tuple[Tensor, ...] | None,
        params: Sequence[Tensor],
        spans: Spans,
    ) -> str | None:
        if not x.is_cuda:
            return f"does not run on {x.device.type} (CUDA only)"
        dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype
        if dtype not in _DTYPES or x.dtype not in _DTYPES:
            return f"does not run {str(x.dtype).removeprefix('torch.')} (bfloat16, float16 and float32 only)"
        if stack.cell.name not in CELLS:
            return f"has no kernel for {stack.cell.name or type(stack.cell).__name__}"
        if stack.proj_size:
            return "does not run projections (proj_size)"
        if max(x.shape) > _LARGEST:
            return f"does not run more than {_LARGEST} steps or sequences"
        reason = self.refuses_call(stack, x, states, params, spans)
        return reason or _refuses_network(stack.cell.name, stack.hidden_size, dtype, x.get_device())

    def run_autocast(
        self,
        stack: Stack,
        x: Tensor,
        states: tuple[Tensor, ...] | None,
        params: Sequence[Tensor],
        spans: Spans,
        batch_first: bool,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.run(stack, *cast(torch.get_autocast_dtype("cuda"), x, states, params, spans), batch_first)


def _refuses_network(cell: str, hidden_size: int, dtype: torch.dtype, index: int) -> str | None:
    """What of ``refuses`` depends on the network and the device alone."""
    return _refuses_number(cell, hidden_size, number_of(dtype), index)


# What torch.compiler.assume_constant_result does, which loads the compiler.
_refuses_network._dynamo_marked_constant = True  # type: ignore[attr-defined]


@lru_cache(maxsize=4096)
def _refuses_number(cell: str, hidden_size: int, number: Number, index: int) -> str | None:
    if reason := launcher.unavailable_reason():
        return f"cannot run: {reason}"
    device = launcher.device_properties(index)
    if device.capability < _LEAST_CAPABILITY:
        return f"does not run on a {device.name}, whose compute capability is below 8.0"
    try:
        device.arch  # noqa: B018 - raises where the compiler is older than the device
    except RuntimeError as error:
        return f"cannot run: {error}"
    for is_backward in (False, True):
        if not choose(cell, is_backward, number, hidden_size, 1, 1, False, device):
            return f"has no plan for hidden_size={hidden_size} in {number.name.lower()} on a {device.name}"
    return None
