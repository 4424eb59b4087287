"""The CUDA kernels' algorithm in plain torch, in float64 on the CPU: what kernels/forward.cuh, backward.cuh and totals.cuh do.

It stands in for a loaded kernel: a launch's parameter is read as the kernels declare it, and memory through the pointers that are in it. So
all that leads to a launch is tested without a GPU. What threads, warps and blocks do among each other is not modelled.
"""

from __future__ import annotations

from contextlib import nullcontext
from ctypes import sizeof
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cuda_parameters import Rows, backward_call, forward_call, numbers_at, totals_call
from cuda_prepared import forget
from elman.backends import operator
from elman.backends.cuda import choice, gradients, launcher, layer, run, shape
from elman.backends.cuda.backend import CudaBackend
from elman.backends.cuda.launcher import DeviceProperties
from elman.backends.cuda.plan import Number, Plan
from elman.backends.cuda.totals import TotalsPlan

if TYPE_CHECKING:
    import pytest

    from elman.backends.backend import Backend
    from elman.backends.cuda.shape import CellShape

DEVICE = DeviceProperties("modelled", (9, 0), 8, 232448, 65536, 50 << 20)


# --- The cells, as csrc/cells has them ----------------------------------------------------------------------------------


class _Elman:
    gates, saved, columns, split, has_memory, reads_before = 1, 0, 1, None, False, False
    input_gate = (0,)

    def forward(self, a: list[Tensor], apart: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        return self.activate(a[0]), c, []

    def backward(self, saved: list[Tensor], arrived: list[Tensor], grad: Tensor, output: Tensor, before: Tensor, carry: Tensor) -> Any:
        return [self.through(grad, output)], carry

    def activate(self, a: Tensor) -> Tensor:
        return a.tanh()

    def through(self, grad: Tensor, h: Tensor) -> Tensor:
        return grad * (1 - h * h)


class _Relu(_Elman):
    def activate(self, a: Tensor) -> Tensor:
        return a.relu()

    def through(self, grad: Tensor, h: Tensor) -> Tensor:
        return torch.where(h <= 0, 0.0, grad)


class _Gru:
    gates, saved, columns, split, has_memory, reads_before = 3, 4, 4, 2, False, True
    input_gate = (2, 0, 1)

    def forward(self, a: list[Tensor], apart: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        r, z, n = a[0].sigmoid(), a[1].sigmoid(), (apart + a[0].sigmoid() * a[2]).tanh()
        return n + z * (h - n), c, [r, z, n, a[2]]

    def backward(self, saved: list[Tensor], arrived: list[Tensor], grad: Tensor, output: Tensor, before: Tensor, carry: Tensor) -> Any:
        r, z, n, h_n = saved
        grad = grad + carry
        grad_n = (grad * (1 - z) + arrived[2]) * (1 - n * n)
        grad_r = (grad_n * h_n + arrived[0]) * r * (1 - r)
        grad_z = (grad * (before - n) + arrived[1]) * z * (1 - z)
        return [grad_n, grad_r, grad_z, grad_n * r + arrived[3]], grad * z


class _Lstm:
    gates, saved, columns, split, has_memory, reads_before = 4, 5, 4, None, True, True
    input_gate = (0, 1, 2, 3)

    def forward(self, a: list[Tensor], apart: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        i, f, g, o = a[0].sigmoid(), a[1].sigmoid(), a[2].tanh(), a[3].sigmoid()
        c = f * c + i * g
        return o * c.tanh(), c, [i, f, g, o, c]

    def backward(self, saved: list[Tensor], arrived: list[Tensor], grad: Tensor, output: Tensor, before: Tensor, carry: Tensor) -> Any:
        i, f, g, o, c = saved
        t = c.tanh()
        grad_c = grad * o * (1 - t * t) + carry + arrived[4]
        return [
            (grad_c * g + arrived[0]) * i * (1 - i),
            (grad_c * before + arrived[1]) * f * (1 - f),
            (grad_c * i + arrived[2]) * (1 - g * g),
            (grad * t + arrived[3]) * o * (1 - o),
        ], grad_c * f


_CELLS: dict[str, Any] = {"rnn_tanh": _Elman(), "rnn_relu": _Relu(), "gru": _Gru(), "lstm": _Lstm()}


# --- The kernels --------------------------------------------------------------------------------------------------------


class _Tile:
    """A tile of sequences of one direction: which steps they have, where their rows lie, numbers beyond H and B being zeros."""

    def __init__(self, plan: Plan, call: Any, group: int) -> None:
        self.H, self.N, self.width = plan.hidden, plan.tile, plan.blocks * plan.units
        self.has_spans, self.steps = plan.has_spans, call.steps
        self.first = group % call.tiles * plan.tile
        self.direction = call.direction[group // call.tiles]
        self.reverse = bool(plan.has_spans and self.direction.reverse)
        T, B, lengths = self.steps.T, self.steps.B, self.steps.lengths
        every = numbers_at(lengths, 0, B, torch.int32).tolist() if plan.has_spans and lengths else [T] * B
        self.length = [every[b] if b < B else 0 for b in range(self.first, self.first + self.N)]
        self.count = max(self.length) if plan.has_spans and lengths else T
        self.real = range(min(self.N, B - self.first))

    def alive(self, t: int) -> Tensor:
        return torch.tensor([[t < length] for length in self.length])

    def cut(self, t: int) -> Tensor:
        """Whether the state before step t, in the order of the direction, is a fresh one."""
        at, steps = t + self.reverse, self.steps
        if not self.has_spans or not steps.reset:
            return torch.zeros(self.N, 1, dtype=torch.bool)
        places = [at * steps.reset_t + (self.first + n) * steps.reset_b for n in range(self.N)]
        return torch.tensor([[at < self.length[n] and bool(numbers_at(steps.reset, places[n], 1, torch.bool))] for n in range(self.N)])

    def row(self, t: int, n: int) -> int:
        """Of memory that is ours."""
        b, offsets = self.first + n, self.steps.offsets
        return int(numbers_at(offsets, t, 1, torch.int32)) + b if self.has_spans and offsets else t * self.steps.B + b

    def place(self, rows: Rows, t: int, n: int) -> int:
        """Of memory with strides."""
        b, offsets = self.first + n, self.steps.offsets
        packed = self.has_spans and offsets
        return (int(numbers_at(offsets, t, 1, torch.int32)) + b) * rows.stride_b if packed else t * rows.stride_t + b * rows.stride_b

    def states(self, pointer: int, of_all: bool = False) -> Tensor:
        """(B, H), or one for all of (H,); null: zeros."""
        found = torch.zeros(self.N, self.width, dtype=torch.float64)
        for n in self.real if pointer else ():
            found[n, : self.H] = numbers_at(pointer, 0 if of_all else (self.first + n) * self.H, self.H)
        return found

    def put_states(self, pointer: int, values: Tensor) -> None:
        for n in self.real:
            numbers_at(pointer, (self.first + n) * self.H, self.H).copy_(values[n, : self.H])

    def read(self, pointer: int, place: Any, t: int, vectors: int = 1) -> list[Tensor]:
        """Vectors of H numbers of the sequences that have step t, each at place(n)."""
        found = torch.zeros(vectors, self.N, self.width, dtype=torch.float64)
        for n in self.real:
            if pointer and 0 <= t < self.length[n]:
                found[:, n, : self.H] = numbers_at(pointer, place(n), vectors * self.H).view(vectors, self.H)
        return list(found)

    def weights(self, gates: int) -> Tensor:
        """(G, padded, padded)."""
        found = torch.zeros(gates, self.width, self.width, dtype=torch.float64)
        found[:, : self.H, : self.H] = numbers_at(self.direction.weight_hh, 0, gates * self.H * self.H).view(gates, self.H, self.H)
        return found


def _forward(plan: Plan, call: Any, group: int) -> None:
    cell, tile = _CELLS[plan.shape.name], _Tile(plan, call, group)
    d, H, G = tile.direction, tile.H, cell.gates
    time = range(tile.count)[::-1] if tile.reverse else range(tile.count)
    weights = tile.weights(G)
    bias = torch.zeros(G, tile.width, dtype=torch.float64)
    if d.bias_hh:
        bias[:, :H] = numbers_at(d.bias_hh, 0, G * H).view(G, H)
    h, c = tile.states(d.initial[0]), tile.states(d.initial[1] if cell.has_memory else 0)
    fresh = tile.states(d.fresh[0], True), tile.states(d.fresh[1] if cell.has_memory else 0, True)
    for t in time:
        for n in [n for n in tile.real if d.x and t < tile.length[n]]:
            w_ih, x = (
                numbers_at(d.weight_ih, 0, G * H * call.inputs).view(G * H, -1),
                numbers_at(d.x, tile.place(call.x, t, n), call.inputs),
            )
            numbers_at(d.projected, tile.place(call.projected, t, n), G * H).copy_(
                w_ih @ x + (numbers_at(d.bias_ih, 0, G * H) if d.bias_ih else 0)
            )
        cut, alive = tile.cut(t), tile.alive(t)
        h, c = torch.where(cut, fresh[0], h), torch.where(cut, fresh[1], c)
        projected = tile.read(d.projected, lambda n, t=t: tile.place(call.projected, t, n), t, G)
        a = [h @ weights[g].T + bias[g] + (0 if g == cell.split else projected[g]) for g in range(G)]
        state, memory, saved_numbers = cell.forward(a, projected[cell.split or 0], h, c)
        out = torch.where(alive, state, 0.0)
        h, c = torch.where(alive, state, h), torch.where(alive, memory, c)
        for n in tile.real:
            if tile.steps.offsets and not alive[n]:
                continue
            numbers_at(d.output, tile.place(call.output, t, n), H).copy_(out[n, :H])
            for k, numbers in enumerate(saved_numbers if d.kept and alive[n] else ()):
                numbers_at(d.kept, (tile.row(t, n) * cell.saved + k) * H, H).copy_(numbers[n, :H])
    for pointer, state in zip(d.final, (h, c)[: 1 + cell.has_memory], strict=False):
        tile.put_states(pointer, state)
    for t in range(tile.count, 0 if tile.steps.offsets else tile.steps.T):
        for n in tile.real:
            numbers_at(d.output, tile.place(call.output, t, n), H).zero_()


def _backward(plan: Plan, call: Any, group: int) -> None:
    cell, tile = _CELLS[plan.shape.name], _Tile(plan, call, group)
    d, H, G, K, columns = tile.direction, tile.H, cell.gates, cell.saved, cell.columns
    time = list(range(tile.count) if tile.reverse else range(tile.count)[::-1])
    weights = tile.weights(G)
    # bypass: what reaches the state before a step past the step itself; carry: the cell's own, of c or what a GRU adds to h's gradient.
    bypass, carry = tile.states(d.grad_final[0]), tile.states(d.grad_final[1] if cell.has_memory else 0)
    first_before = tile.states(d.initial[cell.has_memory]) if cell.reads_before else torch.zeros(())
    fresh_before = tile.states(d.fresh[cell.has_memory], True) if cell.reads_before else torch.zeros(())
    grad_fresh = torch.zeros(2, tile.N, tile.width, dtype=torch.float64)
    total = torch.zeros(tile.N, tile.width, dtype=torch.float64)
    own = [torch.zeros(tile.N, tile.width, dtype=torch.float64)] * G
    for s, t in enumerate([*time, -1]):  # the last is no step, only what came of the one before it
        grad = bypass + sum(own[g] @ weights[g] for g in range(G))
        if s:
            ended = tile.cut(time[s - 1])
            grad_fresh[0] += torch.where(ended, grad if cell.has_memory else grad + carry, 0.0)
            grad_fresh[1] += torch.where(ended, carry, 0.0)
            grad, carry = torch.where(ended, 0.0, grad), torch.where(ended, 0.0, carry)
        if t < 0:
            break
        alive, t_before = tile.alive(t), t + 1 if tile.reverse else t - 1
        saved = tile.read(d.kept, lambda n, t=t: tile.row(t, n) * K * H, t, K)
        (output,) = tile.read(d.output, lambda n, t=t: tile.place(call.output, t, n), t)
        if cell.has_memory:
            (before,) = tile.read(d.kept, lambda n, t=t_before: (tile.row(t, n) * K + K - 1) * H, t_before)
        else:
            (before,) = tile.read(d.output, lambda n, t=t_before: tile.place(call.output, t, n), t_before)
        starts = torch.tensor([[t == (length - 1 if tile.reverse else 0)] for length in tile.length])
        before = torch.where(tile.cut(t), fresh_before, torch.where(starts, first_before, before))
        grad_output = grad + tile.read(d.grad_output, lambda n, t=t: tile.place(call.grad_output, t, n), t)[0]
        traced = d.grad_kept if plan.is_traced else 0
        arrived = tile.read(traced, lambda n, t=t: tile.row(t, n) * K * H, t, K)
        values, on = cell.backward(saved, arrived, grad_output, output, before, carry)
        values = [torch.where(alive, value, 0.0) for value in values]
        carry, bypass = torch.where(alive, on, carry), torch.where(alive, 0.0, grad)
        own = values[columns - G :]
        total += own[cell.split or 0]
        for n in tile.real:
            if tile.steps.offsets and not alive[n]:
                continue
            for k, value in enumerate(values):
                column = cell.input_gate[k] if k < G else k
                numbers_at(d.grad_gates, (tile.row(t, n) * columns + column) * H, H).copy_(value[n, :H])
    if cell.split is not None:
        tile.put_states(d.totals, total)
    states = (grad, carry) if cell.has_memory else (grad + carry,)
    for k, state in enumerate(states):
        if d.grad_initial[k]:
            tile.put_states(d.grad_initial[k], state)
        if plan.has_spans and d.grad_fresh[0]:
            tile.put_states(d.grad_fresh[k], grad_fresh[k])
    for t in range(tile.count, 0 if tile.steps.offsets else tile.steps.T):
        for n in tile.real:
            numbers_at(d.grad_gates, tile.row(t, n) * columns * H, columns * H).zero_()


def _sum_totals(plan: TotalsPlan, grid: int, call: Any) -> None:
    assert grid == plan.count * -(-call.H // 32)
    for k in range(plan.count):
        part = numbers_at(call.parts, k * call.B * call.H, call.B * call.H) if call.B else torch.zeros(0, dtype=torch.float64)
        sums = part.view(call.B, call.H).sum(0) if call.of_units[k] else part.sum()
        if call.totals[k]:
            numbers_at(call.totals[k], 0, sums.numel()).copy_(sums)


class Kernel:
    """What a launch does, in place of ``launcher.Kernel``."""

    def __init__(self, plan: Plan | TotalsPlan) -> None:
        self.plan = plan

    def launch(self, grid: int, block: int, shared_bytes: int, stream: int, params: bytes, together: bool = False) -> None:
        plan = self.plan
        if isinstance(plan, TotalsPlan):
            assert (block, shared_bytes, together) == (plan.threads, plan.shared_bytes, False)
            assert len(params) == sizeof(totals_call(plan.count))
            _sum_totals(plan, grid, totals_call(plan.count).from_buffer_copy(params))
            return
        layout = (backward_call if plan.is_backward else forward_call)(plan.shape.states)
        assert len(params) == sizeof(layout)
        assert (grid % plan.blocks, block, shared_bytes) == (0, plan.threads, plan.shared_bytes)
        call: Any = layout.from_buffer_copy(params)
        assert (plan.mailbox_numbers > 0) == together == bool(call.mailbox) == bool(call.flags)
        if together:
            assert grid <= DEVICE.multiprocessors
            assert not numbers_at(call.flags, 0, grid, torch.int32).any()
            numbers_at(call.mailbox, 0, grid // plan.blocks * plan.mailbox_numbers).fill_(torch.nan)
        for group in range(call.first_group, call.first_group + grid // plan.blocks):
            (_backward if plan.is_backward else _forward)(plan, call, group)


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
) -> layer.Ready:
    plan = choice.choose(shape, is_backward, Number.TF32, hidden, sequences, directions, has_spans, DEVICE, is_traced)[0]
    return ready(plan, sequences, directions)


def ready(plan: Plan, sequences: int, directions: int) -> layer.Ready:
    """A plan with its model, in launches of as many groups as the device holds."""
    tiles = -(-sequences // plan.tile)
    at_once = DEVICE.multiprocessors // plan.blocks if plan.mailbox_numbers else tiles * directions
    kernel: Any = Kernel(plan)
    return layer.Ready(plan, kernel, tiles, tiles * directions, at_once)


def install(monkeypatch: pytest.MonkeyPatch) -> Backend:
    """Put the model in place of the GPU until the test ends: the cuda backend, which then runs float64 on the CPU and refuses nothing."""
    forget(monkeypatch)
    monkeypatch.setattr(layer, "_ready", _ready)
    monkeypatch.setattr(launcher, "kernel", lambda plan, index: Kernel(plan))
    for module in (layer, gradients, run):
        monkeypatch.setattr(module, "WIDE", torch.float64)
    monkeypatch.setattr(run, "on_device_of", lambda x: nullcontext())
    monkeypatch.setattr(shape, "_DTYPES", (torch.float64,))
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: 0, raising=False)
    monkeypatch.setattr(operator, "kernels_of", lambda x, recorded=None: run)
    monkeypatch.setattr(CudaBackend, "refuses", lambda *call: None)
    return CudaBackend()
