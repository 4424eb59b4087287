"""One layer on the GPU: the products around the scan, and the scan."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch

from elman.backends.cuda import compiler, launcher, structs
from elman.backends.cuda.batch import Batch, pointer
from elman.backends.cuda.plan import Number, Plan, choose, number_of
from elman.backends.cuda.products import Form, multiply

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from elman.backends.cuda.shape import CellKernel, CellShape


class Direction(NamedTuple):
    """One direction's parameters, starts and what it is given, each contiguous.

    Attributes:
        w_ih: of the parts of x, (inputs·H, I).
        w_hh: of the parts of h, (gates·H, H); None: there are none.
        b_ih, b_hh: likewise; None for zeros.
        own: the cell's own parameters, (H,) each.
        given: what a step reads beside x, (rows, given, H); None: nothing.
        initial: the states before the first step, each (B, H); empty for zeros.
        fresh: what a reset starts from, each (H,); empty for zeros.
    """

    w_ih: Tensor
    w_hh: Tensor | None
    b_ih: Tensor | None
    b_hh: Tensor | None
    own: tuple[Tensor, ...]
    given: Tensor | None
    initial: tuple[Tensor, ...]
    fresh: tuple[Tensor, ...]


class Ready(NamedTuple):
    """A kernel that is compiled and loaded, for so many sequences.

    Attributes:
        plan: what it is compiled for.
        kernel: on its device.
        tiles: groups of blocks of a direction.
        groups: of all directions.
        at_once: groups of one launch: those whose blocks wait for each other through global memory are to run together.
    """

    plan: Plan
    kernel: launcher.Kernel
    tiles: int
    groups: int
    at_once: int


def forward(
    kernel: CellKernel,
    hidden: int,
    x: Tensor,
    batch: Batch,
    directions: Sequence[Direction],
    output: Tensor,
    finals: Sequence[Tensor],
    kept: Tensor | None,
    x_batch_first: bool,
    output_batch_first: bool,
) -> None:
    """Run a layer.

    Args:
        x: contiguous, laid out as ``batch`` says or, with x_batch_first False, (T, B, I).
        output: likewise, (..., D·H); written.
        finals: each (D, B, H); written.
        kept: (D, rows, K, H); written. None: not needed.
    """
    shape = kernel.shape
    width, inputs, rows, number = shape.inputs * hidden, x.shape[-1], batch.rows, number_of(x.dtype)
    count, size = len(directions), x.element_size()
    ready = _ready(shape, False, number, hidden, batch.sequences, count, count > 1 or not batch.is_whole, x.get_device(), False)
    form = Form(rows, inputs, width, inputs, inputs, width, b_transposed=True)
    output_at, kept_at = output.data_ptr(), pointer(kept)
    values: list[int] = []
    projected = x.new_empty((count, rows, width))
    projected_at = projected.data_ptr()
    for index, (w_ih, w_hh, b_ih, b_hh, own, given, initial, fresh) in enumerate(directions):
        multiply(number, projected, x, w_ih, form, bias=b_ih, out_offset=index * rows * width)
        values += (
            projected_at + index * rows * width * size,
            pointer(given),
            pointer(w_hh),
            pointer(b_hh),
            *_addresses(own, max(1, len(own))),
            *_addresses(initial, shape.states),
            *_addresses(fresh, shape.states),
            output_at + index * hidden * size,
            0 if kept is None else kept_at + index * kept.stride(0) * size,
            *_parts(finals, shape.states, index),
            index,
        )
    if count == 1:
        values += (0,) * len(values)
    head = (*batch.packed(), *batch.row_strides(width, x_batch_first), *batch.row_strides(count * hidden, output_batch_first))
    _launch(ready, False, head, [*values, *(kernel.forward or (0.0,))], x)


def backward(
    kernel: CellKernel,
    hidden: int,
    x: Tensor,
    batch: Batch,
    directions: Sequence[Direction],
    output: Tensor,
    kept: Tensor | None,
    grad_output: Tensor | None,
    grad_finals: Sequence[Tensor | None],
    grad_kept: Tensor | None,
    grad_starts: Tensor | None,
    x_batch_first: bool,
    output_batch_first: bool,
    needs_x: bool,
    needs_parameters: bool,
) -> tuple[Tensor | None, list[tuple[Tensor, ...]], Tensor | None]:
    """The gradients of a layer: of x, in step order, (rows, I); of each direction's parameters; and of the step inputs, (D, rows, S, H).

    Args:
        grad_output: laid out as the output, its rows aligned as the kernels copy them; None for zeros.
        grad_finals: each (D, B, H), contiguous; None for zeros.
        kept, grad_kept: (D, rows, K, H); None: there are none; for zeros.
        grad_starts: (1, or 2 with resets; states; D; B; H), float32: of the initial states, and of the fresh ones; written. None: not
            needed, and there are no resets.
    """
    shape = kernel.shape
    number, count, size, rows, inputs = number_of(x.dtype), len(directions), x.element_size(), batch.rows, x.shape[-1]
    is_traced, has_spans = grad_kept is not None, count > 1 or not batch.is_whole
    ready = _ready(shape, True, number, hidden, batch.sequences, count, has_spans, x.get_device(), is_traced)
    pitch = shape.columns * hidden
    grad_gates = x.new_empty((count, rows, pitch))
    grad_own = x.new_empty((count, len(shape.own), batch.sequences, hidden), dtype=torch.float32) if shape.own else None
    initials = () if grad_starts is None else grad_starts[0]
    fresh_ones = grad_starts[1] if grad_starts is not None and len(grad_starts) > 1 else ()
    grad_output_at, output_at, kept_at, grad_kept_at = map(pointer, (grad_output, output, kept, grad_kept))
    steps = 0 if kept is None else kept.stride(0) * size  # of a direction, as those of grad_kept
    values: list[int] = []
    for index, (_, w_hh, _, _, own, given, initial, fresh) in enumerate(directions):
        values += (
            grad_output_at and grad_output_at + index * hidden * size,
            pointer(given),
            pointer(w_hh),
            output_at + index * hidden * size,
            kept_at and kept_at + index * steps,
            grad_kept_at and grad_kept_at + index * steps,
            *_addresses(own, max(1, len(own))),
            *_addresses(initial, shape.states),
            *_addresses(fresh, shape.states),
            *_parts(grad_finals, shape.states, index),
            grad_gates.data_ptr() + index * rows * pitch * size,
            0 if grad_own is None else grad_own[index].data_ptr(),
            *_parts(initials, shape.states, index),
            *_parts(fresh_ones, shape.states, index),
            index,
        )
    if count == 1:
        values += (0,) * len(values)
    grad_strides = (0, 0) if grad_output is None else batch.strides(grad_output, output_batch_first)
    head = (*batch.packed(), *grad_strides, *batch.row_strides(count * hidden, output_batch_first))
    _launch(ready, True, head, [*values, *(kernel.backward or (0.0,))], x)
    grad_x = x.new_empty((rows, inputs)) if needs_x else None
    of_x = Form(rows, shape.inputs * hidden, inputs, pitch, inputs, inputs)
    parameters: list[tuple[Tensor, ...]] = []
    in_step_order = batch.in_step_order(x, x_batch_first) if needs_parameters else x
    for index, direction in enumerate(directions):
        if grad_x is not None:
            multiply(number, grad_x, grad_gates, direction.w_ih, of_x, a_offset=index * rows * pitch, accumulate=index > 0)
        if needs_parameters:
            operands = grad_gates, in_step_order, batch, direction, output, kept
            gradients = _parameter_gradients(shape, hidden, number, *operands, output_batch_first, index)
            parameters.append((*gradients, *(() if grad_own is None else _own_gradients(shape, grad_own[index], x.dtype))))
    at = shape.step_inputs_at
    grad_step_inputs = grad_gates.view(count, rows, -1, hidden)[:, :, at:] if shape.step_inputs else None
    return grad_x, parameters, grad_step_inputs


def _own_gradients(shape: CellShape, parts: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """Of the cell's own parameters, from the parts of each sequence and unit, (own, B, H)."""
    for has_units, part in zip(shape.own, parts, strict=True):
        yield (part.sum(0) if has_units else part.sum()).to(dtype)


def _parameter_gradients(
    shape: CellShape,
    hidden: int,
    number: Number,
    grad_gates: Tensor,
    x: Tensor,
    batch: Batch,
    direction: Direction,
    output: Tensor,
    kept: Tensor | None,
    batch_first: bool,
    index: int,
) -> tuple[Tensor, ...]:
    """Of W_ih, W_hh and, if there are biases, b_ih and b_hh, of the direction of this index: those that there are."""
    w_ih, w_hh, b_ih = direction[:3]
    width, rows, pitch = shape.inputs * hidden, batch.rows, grad_gates.shape[-1]
    grad_w_ih = torch.empty_like(w_ih)
    grad_b_ih = None if b_ih is None else torch.empty_like(b_ih)
    first = index * rows * pitch
    inputs = w_ih.shape[1]
    multiply(number, grad_w_ih, grad_gates, x, Form(width, rows, inputs, pitch, inputs, inputs, True), a_offset=first, row_sums=grad_b_ih)
    if w_hh is None:
        return (grad_w_ih,) if grad_b_ih is None else (grad_w_ih, grad_b_ih)
    grad_w_hh = torch.empty_like(w_hh)
    runs = [(j, begin * hidden, end * hidden) for j, begin, end in shape.runs]
    multiplied = {j: _multiplied(shape, j, hidden, batch, direction, output, kept, batch_first, index) for j in {run[0] for run in runs}}
    at = 0
    for j, begin, end in runs:
        states, states_at, states_pitch, skipped = multiplied[j]
        form = Form(end - begin, rows - skipped, hidden, pitch, states_pitch, hidden, True)
        of_run = first + begin + (0 if index else skipped * pitch)
        multiply(number, grad_w_hh, grad_gates, states, form, a_offset=of_run, b_offset=states_at, out_offset=at * hidden)
        at += end - begin
    if grad_b_ih is None:
        return grad_w_ih, grad_w_hh
    if [run[1:] for run in shape.runs] == [(0, shape.inputs)]:
        return grad_w_ih, grad_w_hh, grad_b_ih, grad_b_ih.clone()  # who writes into one gradient is not to change the other
    # What lies where the parts of x do is summed already.
    sums = [grad_b_ih[begin:end] if end <= width else grad_gates[index, :, begin:end].sum(0) for _, begin, end in runs]
    return grad_w_ih, grad_w_hh, grad_b_ih, torch.cat(sums)


def _multiplied(
    shape: CellShape,
    j: int,
    hidden: int,
    batch: Batch,
    direction: Direction,
    output: Tensor,
    kept: Tensor | None,
    batch_first: bool,
    index: int,
) -> tuple[Tensor, int, int, int]:
    """What product j multiplied at each step: numbers, where they begin, the pitch of their rows, and how many rows are left out, of the
    direction's first step, since they are zeros.
    """
    if j:
        assert kept is not None
        at = shape.factors_at[j - 1]
        if batch.lengths is None or batch.offsets is not None:
            return kept, index * kept.stride(0) + at * hidden, shape.kept * hidden, 0
        of_steps = kept[index].view(batch.steps, batch.sequences, shape.kept, hidden)[:, :, at]
        return batch.without_padding(of_steps, False).contiguous(), 0, hidden, 0
    # The state before a step: where nothing else comes between, the output of the step that was run before it. A first step's is zeros.
    if batch.is_whole and not direction.initial and not batch_first:
        pitch = output.shape[-1]
        return output, batch.sequences * pitch + hidden if index else 0, pitch, batch.sequences
    own = output if output.shape[-1] == hidden else output[..., index * hidden : (index + 1) * hidden]
    initial, fresh = (parts[0] if parts else None for parts in (direction.initial, direction.fresh))
    return batch.states_before(own, initial, fresh, batch_first, bool(index)), 0, hidden, 0


def _addresses(tensors: Sequence[Tensor], count: int) -> list[int]:
    """Where each of so many tensors lies; zeros if there are none."""
    return [each.data_ptr() for each in tensors] or [0] * count


def _parts(tensors: Sequence[Tensor | None] | Tensor, count: int, index: int) -> list[int]:
    """Where the direction's part of each of so many tensors, (D, ...), lies; zeros for those that there are not."""
    if not index:
        return [0 if each is None else each.data_ptr() for each in tensors] or [0] * count
    return [0 if each is None else each[index].data_ptr() for each in tensors] or [0] * count


def _launch(ready: Ready, is_backward: bool, head: tuple[int, ...], rest: list[float], x: Tensor) -> None:
    plan, kernel, tiles, groups, at_once = ready
    layout = structs.layout(plan.shape, is_backward)
    stream = torch._C._cuda_getCurrentRawStream(x.get_device())
    if not plan.mailbox_numbers:
        kernel.launch(groups * plan.blocks, plan.threads, plan.shared_bytes, stream, layout.pack(*head, tiles, 0, 0, 0, *rest))
        return
    mailbox = x.new_empty(min(groups, at_once) * plan.mailbox_numbers)
    for first in range(0, groups, at_once):
        now = min(at_once, groups - first)
        flags = torch.zeros(now * plan.flags, dtype=torch.int32, device=x.device)
        params = layout.pack(*head, tiles, first, mailbox.data_ptr(), flags.data_ptr(), *rest)
        kernel.launch(now * plan.blocks, plan.threads, plan.shared_bytes, stream, params, together=True)


@lru_cache(maxsize=4096)
def _ready(
    shape: CellShape,
    is_backward: bool,
    number: Number,
    hidden: int,
    sequences: int,
    directions: int,
    has_spans: bool,
    index: int,
    is_traced: bool,
) -> Ready:
    device = launcher.device_properties(index)
    call = shape, is_backward, number, hidden, sequences, directions, has_spans, device, is_traced
    # A cluster of 16 does not fit every device, nor every part of one.
    plan = _first_that_runs(choose(*call), index) or _first_that_runs(choose(*call, 8), index)
    if plan is None:
        raise RuntimeError(
            f"{device.name} has no room for a network of hidden_size={hidden}: elman.to_torch(module) runs on torch's layers"
        )
    kernel = _kernel(plan, index)
    tiles = -(-sequences // plan.tile)
    at_once = tiles * directions
    if plan.mailbox_numbers:
        at_once = max(1, kernel.resident_blocks(plan.threads, plan.shared_bytes) // plan.blocks)
    return Ready(plan, kernel, tiles, tiles * directions, at_once)


def _first_that_runs(plans: Sequence[Plan], index: int) -> Plan | None:
    """The first plan that fits the device and whose registers suffice, which is known once it is compiled; else that which lacks least."""
    fitting: list[Plan] = []
    for plan in plans:
        if plan.is_cluster and plan.blocks > launcher.PLAIN_CLUSTER and not _fits(plan, index):
            continue
        if not _kernel(plan, index).local_bytes:
            return plan
        fitting.append(plan)
    return min(fitting, key=lambda plan: _kernel(plan, index).local_bytes, default=None)


def _fits(plan: Plan, index: int) -> bool:
    try:
        return _kernel(plan, index).resident_clusters(plan.blocks, plan.threads, plan.shared_bytes) > 0
    except compiler.CompileError:
        raise
    except RuntimeError:  # the driver may answer that there are no such clusters
        return False


@lru_cache(maxsize=1024)
def _kernel(plan: Plan, index: int) -> launcher.Kernel:
    name = f"{plan.shape.name} {'backward' if plan.is_backward else 'forward'}"
    cubin = compiler.compile(name, launcher.device_properties(index).arch, plan.defines, plan.entry)
    return launcher.load(cubin, "scan", index, shared_bytes=plan.shared_bytes, cluster=plan.blocks if plan.is_cluster else 1)
