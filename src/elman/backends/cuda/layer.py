"""One layer on the GPU: the products around the scan, and the scan."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from elman.backends.cuda import compiler, launcher, structs
from elman.backends.cuda.batch import Batch, pointer
from elman.backends.cuda.plan import CELLS, CellShape, Number, Plan, choose, number_of
from elman.backends.cuda.products import Form, multiply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class Direction(NamedTuple):
    """One direction's parameters and starts, each contiguous.

    Attributes:
        w_ih: (G·H, I).
        w_hh: (G·H, H).
        b_ih, b_hh: (G·H,); None for zeros.
        initial: the states before the first step, each (B, H); empty for zeros.
        fresh: what a reset starts from, each (H,); empty for zeros.
    """

    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor | None
    b_hh: Tensor | None
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
    cell: str,
    x: Tensor,
    batch: Batch,
    directions: Sequence[Direction],
    output: Tensor,
    finals: Sequence[Tensor],
    saved: Tensor | None,
    x_batch_first: bool,
    output_batch_first: bool,
) -> None:
    """Run a layer.

    Args:
        x: contiguous, laid out as ``batch`` says or, with x_batch_first False, (T, B, I).
        output: likewise, (..., D·H); written.
        finals: each (D, B, H); written.
        saved: (D, rows, K, H); written. None: not needed.
    """
    width, hidden = directions[0].w_hh.shape
    inputs, rows, number = x.shape[-1], batch.rows, number_of(x.dtype)
    count, size = len(directions), x.element_size()
    ready = _ready(cell, False, number, hidden, batch.sequences, count, count > 1 or not batch.is_whole, x.get_device(), False)
    form = Form(rows, inputs, width, inputs, inputs, width, b_transposed=True)
    output_at, saved_at = output.data_ptr(), pointer(saved)
    values: list[int] = []
    projected = x.new_empty((count, rows, width))
    projected_at = projected.data_ptr()
    for index, (w_ih, w_hh, b_ih, b_hh, initial, fresh) in enumerate(directions):
        multiply(number, projected, x, w_ih, form, bias=b_ih, out_offset=index * rows * width)
        values += (
            projected_at + index * rows * width * size,
            w_hh.data_ptr(),
            pointer(b_hh),
            *_pair(initial),
            *_pair(fresh),
            output_at + index * hidden * size,
            0 if saved is None else saved_at + index * saved.stride(0) * size,
            *_halves(finals, index),
            index,
        )
    if count == 1:
        values += structs.NO_FORWARD_DIRECTION
    head = (*batch.packed(), *batch.row_strides(width, x_batch_first), *batch.row_strides(count * hidden, output_batch_first))
    _launch(ready, structs.FORWARD, head, values, x)


def backward(
    cell: str,
    x: Tensor,
    batch: Batch,
    directions: Sequence[Direction],
    output: Tensor,
    saved: Tensor | None,
    grad_output: Tensor | None,
    grad_finals: Sequence[Tensor | None],
    grad_saved: Tensor | None,
    grad_starts: Tensor | None,
    x_batch_first: bool,
    output_batch_first: bool,
    needs_x: bool,
    needs_parameters: bool,
) -> tuple[Tensor | None, list[tuple[Tensor, ...]]]:
    """The gradients of a layer: of x, in step order, (rows, I), and of each direction's parameters.

    Args:
        grad_output: laid out as the output, its rows aligned as the kernels copy them; None for zeros.
        grad_finals: each (D, B, H), contiguous; None for zeros.
        grad_saved: (D, rows, K, H); None for zeros.
        grad_starts: (1, or 2 with resets; states; D; B; H), float32: of the initial states, and of the fresh ones; written. None: not
            needed, and there are no resets.
    """
    shape, hidden, number = CELLS[cell], directions[0].w_hh.shape[1], number_of(x.dtype)
    count, size, rows, inputs = len(directions), x.element_size(), batch.rows, x.shape[-1]
    is_traced, has_spans = grad_saved is not None, count > 1 or not batch.is_whole
    ready = _ready(cell, True, number, hidden, batch.sequences, count, has_spans, x.get_device(), is_traced)
    pitch = shape.columns * hidden
    grad_gates = x.new_empty((count, rows, pitch))
    initials = () if grad_starts is None else grad_starts[0]
    fresh_ones = grad_starts[1] if grad_starts is not None and len(grad_starts) > 1 else ()
    grad_output_at, output_at, saved_at, grad_saved_at = map(pointer, (grad_output, output, saved, grad_saved))
    steps = 0 if saved is None else saved.stride(0) * size  # of a direction, as those of grad_saved
    values: list[int] = []
    for index, (_, w_hh, _, _, initial, fresh) in enumerate(directions):
        values += (
            grad_output_at and grad_output_at + index * hidden * size,
            w_hh.data_ptr(),
            output_at + index * hidden * size,
            saved_at and saved_at + index * steps,
            grad_saved_at and grad_saved_at + index * steps,
            *_pair(initial),
            *_pair(fresh),
            *_halves(grad_finals, index),
            grad_gates.data_ptr() + index * rows * pitch * size,
            *_halves(initials, index),
            *_halves(fresh_ones, index),
            index,
        )
    if count == 1:
        values += structs.NO_BACKWARD_DIRECTION
    grad_strides = (0, 0) if grad_output is None else batch.strides(grad_output, output_batch_first)
    head = (*batch.packed(), *grad_strides, *batch.row_strides(count * hidden, output_batch_first))
    _launch(ready, structs.BACKWARD, head, values, x)
    grad_x = x.new_empty((rows, inputs)) if needs_x else None
    of_x = Form(rows, shape.gates * hidden, inputs, pitch, inputs, inputs)
    parameters: list[tuple[Tensor, ...]] = []
    in_step_order = batch.in_step_order(x, x_batch_first) if needs_parameters else x
    for index, direction in enumerate(directions):
        if grad_x is not None:
            multiply(number, grad_x, grad_gates, direction.w_ih, of_x, a_offset=index * rows * pitch, accumulate=index > 0)
        if needs_parameters:
            operands = grad_gates, in_step_order, batch, direction, output
            parameters.append(_parameter_gradients(shape, number, *operands, output_batch_first, index))
    return grad_x, parameters


def _parameter_gradients(
    shape: CellShape,
    number: Number,
    grad_gates: Tensor,
    x: Tensor,
    batch: Batch,
    direction: Direction,
    output: Tensor,
    batch_first: bool,
    index: int,
) -> tuple[Tensor, ...]:
    """Of W_ih, W_hh and, if there are biases, b_ih and b_hh, of the direction of this index."""
    w_ih, w_hh, b_ih = direction[:3]
    width, hidden, rows, pitch = *w_hh.shape, batch.rows, grad_gates.shape[-1]
    grad_w_ih, grad_w_hh = torch.empty_like(w_ih), torch.empty_like(w_hh)
    grad_b_ih = None if b_ih is None else torch.empty_like(b_ih)
    first = index * rows * pitch
    inputs = w_ih.shape[1]
    multiply(number, grad_w_ih, grad_gates, x, Form(width, rows, inputs, pitch, inputs, inputs, True), a_offset=first, row_sums=grad_b_ih)
    # The state before a step: where nothing else comes between, the output of the step that was run before it. A first step's is zeros.
    of_first, states_at = first, 0
    if batch.is_whole and not direction.initial and not batch_first:
        states, inner, states_pitch = output, rows - batch.sequences, output.shape[-1]
        if index:
            states_at = batch.sequences * states_pitch + hidden
        else:
            of_first += batch.sequences * pitch
    else:
        own = output if output.shape[-1] == hidden else output[..., index * hidden : (index + 1) * hidden]
        initial, fresh = (parts[0] if parts else None for parts in (direction.initial, direction.fresh))
        states, inner, states_pitch = batch.states_before(own, initial, fresh, batch_first, bool(index)), rows, hidden
    at = 0
    runs = shape.recurrent_runs(hidden)
    for begin, end in runs:
        form = Form(end - begin, inner, hidden, pitch, states_pitch, hidden, True)
        multiply(number, grad_w_hh, grad_gates, states, form, a_offset=of_first + begin, b_offset=states_at, out_offset=at * hidden)
        at += end - begin
    if grad_b_ih is None:
        return grad_w_ih, grad_w_hh
    if len(runs) == 1:
        return grad_w_ih, grad_w_hh, grad_b_ih, grad_b_ih.clone()  # who writes into one gradient is not to change the other
    apart = slice(*runs[-1])
    return grad_w_ih, grad_w_hh, grad_b_ih, torch.cat((grad_b_ih[: runs[0][1]], grad_gates[index, :, apart].sum(0)))


def _pair(tensors: Sequence[Tensor]) -> tuple[int, int]:
    """Where one or two tensors lie; zeros for those that there are not."""
    if not tensors:
        return 0, 0
    return tensors[0].data_ptr(), tensors[1].data_ptr() if len(tensors) > 1 else 0


def _halves(tensors: Sequence[Tensor | None] | Tensor, index: int) -> tuple[int, int]:
    """Where the direction's part of one or two tensors, (D, ...) each, lies; zeros for those that there are not."""
    if not len(tensors):
        return 0, 0
    first = tensors[0]
    second = tensors[1] if len(tensors) > 1 else None
    return (
        0 if first is None else first[index].data_ptr() if index else first.data_ptr(),
        0 if second is None else second[index].data_ptr() if index else second.data_ptr(),
    )


def _launch(ready: Ready, layout: Any, head: tuple[int, ...], directions: list[int], x: Tensor) -> None:
    plan, kernel, tiles, groups, at_once = ready
    stream = torch._C._cuda_getCurrentRawStream(x.get_device())
    if not plan.mailbox_numbers:
        kernel.launch(groups * plan.blocks, plan.threads, plan.shared_bytes, stream, layout.pack(*head, tiles, 0, 0, 0, *directions))
        return
    mailbox = x.new_empty(min(groups, at_once) * plan.mailbox_numbers)
    for first in range(0, groups, at_once):
        now = min(at_once, groups - first)
        flags = torch.zeros(now * plan.blocks, dtype=torch.int32, device=x.device)
        params = layout.pack(*head, tiles, first, mailbox.data_ptr(), flags.data_ptr(), *directions)
        kernel.launch(now * plan.blocks, plan.threads, plan.shared_bytes, stream, params, together=True)


@lru_cache(maxsize=4096)
def _ready(
    cell: str, is_backward: bool, number: Number, hidden: int, sequences: int, directions: int, has_spans: bool, index: int, is_traced: bool
) -> Ready:
    device = launcher.device_properties(index)
    plans = choose(cell, is_backward, number, hidden, sequences, directions, has_spans, device, is_traced)
    # The first whose registers suffice: how many a kernel takes is known once it is compiled.
    # A cluster of 16 does not fit every device, nor every part of one.
    fitting = [plan for plan in plans if plan.blocks <= 8 or not plan.is_cluster or _fits(plan, index)] or list(plans)
    plan = next((plan for plan in fitting if not _kernel(plan, index).local_bytes), fitting[0])
    kernel = _kernel(plan, index)
    tiles = -(-sequences // plan.tile)
    at_once = tiles * directions
    if plan.mailbox_numbers:
        at_once = max(1, kernel.resident_blocks(plan.threads, plan.shared_bytes) // plan.blocks)
    return Ready(plan, kernel, tiles, tiles * directions, at_once)


def _fits(plan: Plan, index: int) -> bool:
    return _kernel(plan, index).resident_clusters(plan.blocks, plan.threads, plan.shared_bytes) > 0


@lru_cache(maxsize=1024)
def _kernel(plan: Plan, index: int) -> launcher.Kernel:
    name = f"{plan.cell} {'backward' if plan.is_backward else 'forward'}"
    cubin = compiler.compile(name, launcher.device_properties(index).arch, plan.defines, plan.entry)
    return launcher.load(cubin, "scan", index, shared_bytes=plan.shared_bytes, cluster=plan.blocks if plan.is_cluster else 1)
