"""The cuda backend: our kernels on NVIDIA's GPUs from compute capability 8.0 on, in bfloat16, float16 and float32.

RNN, GRU and LSTM have kernels whose arithmetic is written by hand; other cells run by their programs, as CUDA source (source.py).

They are compiled at first use, for each network's sizes, and kept in the user's cache. In float32 all products are TF32's where torch
allows that to cuDNN (``torch.backends.cudnn.allow_tf32``, as by default), else as exact as float32's. What the kernels do not do is
refused.
"""

from __future__ import annotations

from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, final

import torch
from torch._C import _get_tracing_state

from elman.backends.autograd import Scan, of_node
from elman.backends.cuda import launcher, own, run, source, structs
from elman.backends.cuda.choice import choose, is_fast_with_many_sequences
from elman.backends.cuda.plan import Number, number_of
from elman.backends.cuda.projected import run_projected
from elman.backends.cuda.recorded import RECORDED
from elman.backends.cuda.shape import CELLS
from elman.backends.kernel_backend import KernelBackend, has_gradient, is_recorded, is_watched
from elman.backends.kernels import PLAIN
from elman.backends.operands import Operands
from elman.backends.program.text import program_from
from elman.backends.reference import REFERENCE
from elman.backends.savable import savable
from elman.backends.spans import WHOLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from elman.backends.cuda.shape import CellShape
    from elman.backends.spans import Traced
    from elman.backends.stack import Stack

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_LEAST_CAPABILITY = (8, 0)
_LARGEST = 2**31 - 1  # steps, sequences
_LARGEST_PARAMETER = 4096  # bytes of a launch's, on every device and with every driver


@final
class CudaBackend(KernelBackend):
    name = "cuda"
    device = "cuda"

    def unavailable_reason(self) -> str | None:
        if reason := launcher.unavailable_reason():
            return reason
        devices = list(map(launcher.device_properties, range(torch.cuda.device_count())))
        if all(device.capability < _LEAST_CAPABILITY for device in devices):
            return f"{', '.join(device.name for device in devices)}: the compute capability is below 8.0"
        return None

    def refuses(self, stack: Stack, operands: Operands) -> str | None:
        x, spans = operands.x, operands.spans
        if not x.is_cuda:
            return f"does not run on {x.device.type} (CUDA only)"
        dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype
        if dtype not in _DTYPES or x.dtype not in _DTYPES:
            return f"does not run {str(x.dtype).removeprefix('torch.')} (bfloat16, float16 and float32 only)"
        if stack.proj_size and _get_tracing_state() is not None:
            return "does not run projections under torch.jit.trace"
        if max(x.shape) > _LARGEST:
            return f"does not run more than {_LARGEST} steps or sequences"
        reason = self.refuses_call(stack, operands)
        if reason or stack.cell.name in CELLS:
            return reason or _refuses_network(stack.cell.name, stack.hidden_size, dtype, x.get_device())
        dtype = torch.float32 if torch.is_autocast_enabled("cuda") else dtype
        reason = own.refuses(stack, operands)
        if reason or is_recorded():
            return reason or _refuses_recorded(own.text_of(stack, x, spans), stack.hidden_size, dtype, x.get_device())
        kernel = run.kernel_of(stack, spans.draws is not None)
        return _refuses_shape(kernel.shape, stack.hidden_size, number_of(dtype), x.get_device())

    def run(self, stack: Stack, operands: Operands, batch_first: bool = False) -> tuple[Tensor, tuple[Tensor, ...]]:
        if stack.proj_size and not torch.is_autocast_enabled("cuda"):
            return run_projected(super().run, stack, operands, batch_first)
        if stack.cell.name in CELLS:
            return super().run(stack, operands, batch_first)
        return own.run_own(stack, operands, batch_first)

    def run_unchecked(
        self,
        stack: Stack,
        x: Tensor,
        states: tuple[Tensor, ...] | None,
        params: Sequence[Tensor],
        batch_first: bool,
        step_inputs: tuple[Tensor, ...] = (),
    ) -> tuple[Tensor, tuple[Tensor, ...]] | None:
        try:
            if step_inputs or not _is_on_gpu(x) or not _fits(stack, x, states, params, batch_first):
                return None
        except (AttributeError, RuntimeError, TypeError, ValueError):  # something is no tensor, or there are too many
            return None
        if has_gradient((x, *(states or ()), *params)):
            given = map(savable, (x, *(states or ())))
            return of_node(stack, Scan.apply(None, stack, WHOLE, batch_first, *given, *params))  # type: ignore[no-untyped-call]
        output, states, _ = run.forward(stack, Operands(x, states, params), batch_first, save=False)
        return output, states

    def trace(self, stack: Stack, operands: Operands) -> Traced:
        if stack.cell.name not in CELLS or stack.proj_size:  # programs' gates are not kept
            return REFERENCE.trace(stack, operands)
        return super().trace(stack, operands)

    def run_autocast(self, stack: Stack, operands: Operands, batch_first: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.run(stack, operands.to(torch.get_autocast_dtype("cuda")), batch_first)


def has_kernels(stack: Stack, x: Tensor) -> bool:
    """Whether kernels run such a network of a built-in cell, in x's dtype on its device."""
    if stack.proj_size or x.dtype not in _DTYPES or not stack.hidden_size:
        return False
    return _refuses_network(stack.cell.name, stack.hidden_size, x.dtype, x.get_device()) is None


_is_on_gpu = attrgetter("is_cuda")


def _fits(stack: Stack, x: Tensor, states: tuple[Tensor, ...] | None, params: Sequence[Tensor], batch_first: bool) -> bool:
    """Whether the kernels run this call of whole sequences, as far as a few questions tell; why not is looked for elsewhere."""
    if type(x) not in PLAIN or x.layout is not torch.strided or x.dim() != 3:
        return False
    if stack.members or is_watched() or torch.is_autocast_enabled("cuda"):
        return False
    dtype, index, (first, second, inputs) = x.dtype, x.get_device(), x.shape
    if inputs != stack.input_size or not 0 < first <= _LARGEST or not 0 < second <= _LARGEST or stack.proj_size:
        return False
    if not inputs or not stack.hidden_size or stack.cell.name not in CELLS or dtype not in _DTYPES:
        return False
    if _refuses_network(stack.cell.name, stack.hidden_size, dtype, index):
        return False
    of_states = (stack.num_layers * stack.num_directions, first if batch_first else second, stack.hidden_size)
    shapes = stack.shapes if states is None else (*stack.shapes, *(of_states for _ in stack.cell.states))
    for each, shape in zip((*params, *(states or ())), shapes, strict=True):
        if type(each) not in PLAIN or each.shape != shape or each.dtype is not dtype or each.get_device() != index:
            return False
        if each.layout is not torch.strided:
            return False
    return True


def _refuses_network(cell: str, hidden_size: int, dtype: torch.dtype, index: int) -> str | None:
    """What of ``refuses`` depends on the network and the device alone."""
    return _refuses_built_in(CELLS[cell], hidden_size, number_of(dtype), index)


@lru_cache(maxsize=4096)
def _refuses_built_in(shape: CellShape, hidden_size: int, number: Number, index: int) -> str | None:
    """Likewise, of a cell that torch has layers of."""
    if reason := _refuses_shape(shape, hidden_size, number, index):
        return reason
    device = launcher.device_properties(index)
    if not is_fast_with_many_sequences(shape, number, hidden_size, device):
        return f"has no plan for hidden_size={hidden_size} in {number.name.lower()} on {device.name} that is fast with many sequences"
    return None


def _refuses_recorded(text: str, hidden_size: int, dtype: torch.dtype, index: int) -> str | None:
    """Likewise, of a cell whose program has this text."""
    program = program_from(text)
    return source.refuses(program) or _refuses_shape(source.kernel_of(program, RECORDED).shape, hidden_size, number_of(dtype), index)


# What torch.compiler.assume_constant_result does, which loads the compiler.
_refuses_network._dynamo_marked_constant = True  # type: ignore[attr-defined]
_refuses_recorded._dynamo_marked_constant = True  # type: ignore[attr-defined]


@lru_cache(maxsize=4096)
def _refuses_shape(shape: CellShape, hidden_size: int, number: Number, index: int) -> str | None:
    if reason := launcher.unavailable_reason():
        return f"cannot run: {reason}"
    device = launcher.device_properties(index)
    if device.capability < _LEAST_CAPABILITY:
        return f"does not run on {device.name}, whose compute capability is below 8.0"
    try:
        device.arch  # noqa: B018 - raises where the compiler is older than the device
    except RuntimeError as error:
        return f"cannot run: {error}"
    for is_backward in (False, True):
        if structs.layout(shape, is_backward).size > _LARGEST_PARAMETER:
            return "does not run a cell of so many states, parameters and constants"
        if not choose(shape, is_backward, number, hidden_size, 1, 1, False, device):
            return f"has no plan for hidden_size={hidden_size} in {number.name.lower()} on {device.name}"
    return None
