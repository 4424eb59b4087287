"""One layer on the GPU: the products around the scan, and the scan."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn.functional import linear

from elman.backends.cuda import compiler, launcher, structs
from elman.backends.cuda.batch import Batch, pointer
from elman.backends.cuda.plan import CELLS, Number, Plan, choose, number_of

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
    hidden = directions[0].w_hh.shape[1]
    count, size = len(directions), x.element_size()
    ready = _ready(cell, False, number_of(x.dtype), hidden, batch.sequences, count, count > 1 or not batch.is_whole, x.get_device(), False)
    values: list[int] = []
    projected = []
    for index, (w_ih, w_hh, b_ih, b_hh, initial, fresh) in enumerate(directions):
        own = linear(x, w_ih, b_ih)
        projected.append(own)
        values += (
            own.data_ptr(),
            w_hh.data_ptr(),
            pointer(b_hh),
            *_pair(initial),
            *_pair(fresh),
            output.data_ptr() + index * hidden * size,
            0 if saved is None else saved[index].data_ptr(),
            *_halves(finals, index),
            index,
        )
    if count == 1:
        values += structs.NO_FORWARD_DIRECTION
    head = (*batch.packed(), *batch.strides(projected[0], x_batch_first), *batch.strides(output, output_batch_first))
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
    grad_starts: Tensor,
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
        grad_starts: (1, or 2 with resets; states; D; B; H), float32: of the initial states, and of the fresh ones; written.
    """
    shape, hidden = CELLS[cell], directions[0].w_hh.shape[1]
    count, size = len(directions), x.element_size()
    is_traced, has_spans = grad_saved is not None, count > 1 or not batch.is_whole
    ready = _ready(cell, True, number_of(x.dtype), hidden, batch.sequences, count, has_spans, x.get_device(), is_traced)
    grad_gates = x.new_empty((count, batch.rows, shape.columns * hidden))
    initials = grad_starts[0]
    fresh_ones = grad_starts[1] if len(grad_starts) > 1 else None
    values: list[int] = []
    for index, (_, w_hh, _, _, initial, fresh) in enumerate(directions):
        values += (
            0 if grad_output is None else grad_output.data_ptr() + index * hidden * size,
            w_hh.data_ptr(),
            output.data_ptr() + index * hidden * size,
            0 if saved is None else saved[index].data_ptr(),
            0 if grad_saved is None else grad_saved[index].data_ptr(),
            *_pair(initial),
            *_pair(fresh),
            *_halves(grad_finals, index),
            grad_gates[index].data_ptr() if index else grad_gates.data_ptr(),
            *_halves(initials, index),
            *((0, 0) if fresh_ones is None else _halves(fresh_ones, index)),
            index,
        )
    if count == 1:
        values += structs.NO_BACKWARD_DIRECTION
    grad_strides = (0, 0) if grad_output is None else batch.strides(grad_output, output_batch_first)
    _launch(ready, structs.BACKWARD, (*batch.packed(), *grad_strides, *batch.strides(output, output_batch_first)), values, x)
    grad_x: Tensor | None = None
    parameters: list[tuple[Tensor, ...]] = []
    rows = batch.in_step_order(x, x_batch_first) if needs_parameters else x
    inputs = shape.gates * hidden
    for index, direction in enumerate(directions):
        gates = grad_gates[index]
        of_inputs = gates if shape.columns == shape.gates else gates[:, :inputs]
        if needs_x:
            grad_x = torch.mm(of_inputs, direction.w_ih) if grad_x is None else grad_x.addmm_(of_inputs, direction.w_ih)
        if needs_parameters:
            half = output if count == 1 else output[..., index * hidden : (index + 1) * hidden]
            parameters.append(_parameter_gradients(shape, gates, of_inputs, rows, batch, direction, half, output_batch_first, bool(index)))
    return grad_x, parameters


def _parameter_gradients(
    shape: Any,
    gates: Tensor,
    of_inputs: Tensor,
    rows: Tensor,
    batch: Batch,
    direction: Direction,
    output: Tensor,
    batch_first: bool,
    reverse: bool,
) -> tuple[Tensor, ...]:
    """Of W_ih, W_hh and, if there are biases, b_ih and b_hh."""
    hidden = output.shape[-1]
    if batch.is_whole and not direction.initial and not batch_first and not reverse:  # the first step's is zeros: leave it out
        before, skipped = output[:-1].reshape(-1, hidden), batch.sequences
    else:
        initial, fresh = (parts[0] if parts else None for parts in (direction.initial, direction.fresh))
        before, skipped = batch.states_before(output, initial, fresh, batch_first, reverse), 0
    after = gates[skipped:] if skipped else gates
    w_ih = torch.mm(of_inputs.t(), rows)
    runs = shape.recurrent_runs(hidden)
    if len(runs) == 1:
        w_hh = torch.mm(after.t(), before)
    else:
        w_hh = gates.new_empty((shape.gates * hidden, hidden))
        at = 0
        for begin, end in runs:
            torch.mm(after[:, begin:end].t(), before, out=w_hh[at : at + end - begin])
            at += end - begin
    if direction.b_hh is None:
        return w_ih, w_hh
    sums = gates.sum(0)
    if len(runs) == 1:
        return w_ih, w_hh, sums, sums.clone()  # who writes into one gradient is not to change the other
    return w_ih, w_hh, sums[: shape.gates * hidden], torch.cat([sums[begin:end] for begin, end in runs])


def _pair(tensors: Sequence[Tensor]) -> tuple[int, int]:
    """Where one or two tensors lie; zeros for those that there are not."""
    if not tensors:
        return 0, 0
    return tensors[0].data_ptr(), tensors[1].data_ptr() if len(tensors) > 1 else 0


def _halves(tensors: Sequence[Tensor | None] | Tensor, index: int) -> tuple[int, int]:
    """Where the direction's part of one or two tensors, (D, ...) each, lies."""
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
