"""Which kernel runs a layer on which device: its tile of sequences, how many blocks share the units, who holds which weights.

Pure arithmetic: nothing here needs a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property, lru_cache
from itertools import product
from math import log2
from typing import TYPE_CHECKING

import torch

from elman.backends.cuda import structs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from elman.backends.cuda.launcher import DeviceProperties
    from elman.backends.cuda.shape import CellShape


class Number(IntEnum):
    """How numbers are stored and multiplied, as kernels/numbers.cuh counts them."""

    FLOAT32 = 0  # three products with tf32's 11 bits, which together have float32's
    FLOAT16 = 1
    BFLOAT16 = 2
    TF32 = 3

    @property
    def size(self) -> int:
        """Bytes of one."""
        return 2 if self in (Number.FLOAT16, Number.BFLOAT16) else 4


def number_of(dtype: torch.dtype) -> Number:
    """How numbers of this dtype are multiplied: float32's as torch allows it to cuDNN."""
    if dtype is torch.float32:
        try:
            allowed = torch.backends.cudnn.allow_tf32
        except RuntimeError:  # set by the newer names, and otherwise for convolutions: torch 2.9
            allowed = torch.backends.cudnn.rnn.fp32_precision == "tf32"  # type: ignore[attr-defined]
        return Number.TF32 if allowed else Number.FLOAT32
    return Number.BFLOAT16 if dtype is torch.bfloat16 else Number.FLOAT16


@dataclass(frozen=True)
class Plan:
    """One compiled kernel.

    Attributes:
        shape: the cell's.
        is_backward: the gradient's kernel.
        number: how numbers are stored and multiplied.
        hidden: H.
        blocks: C, blocks that share the units of a tile.
        units: U, units of a block, a multiple of 16.
        tile: sequences that a group of blocks runs together, a multiple of 8.
        warp_tiles: tiles of 16 rows of the weights that a warp holds.
        split: warps that share the columns of the same rows.
        in_registers: sums stay in registers, and a thread works on the units whose sums it has; else they go through shared memory.
        is_cluster: the blocks of a group are a cluster and exchange through its shared memory; else through global memory.
        is_reduce_scatter: backward: a block multiplies the gradients of its own gates, and blocks exchange what this gives, parts of the
            state's gradient; else they exchange the gates' gradients, of which each multiplies all.
        has_spans: there are lengths, resets, or a second direction.
        is_traced: gradients arrive at the saved numbers too.
    """

    shape: CellShape
    is_backward: bool
    number: Number
    hidden: int
    blocks: int
    units: int
    tile: int
    warp_tiles: int
    split: int
    in_registers: bool
    is_cluster: bool
    is_reduce_scatter: bool = False
    has_spans: bool = False
    is_traced: bool = False
    ring: int = 8

    @cached_property
    def products(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of each product of a block."""
        return _products(self.shape, self.is_backward, self.blocks, self.units, self.is_reduce_scatter)

    @cached_property
    def exchanged_bytes(self) -> int:
        """Those that a block gets from all in a step, but for sums over the units."""
        if self.is_reduce_scatter:
            return sum(rows for rows, _ in self.products) * self.tile * 4
        return sum(columns for _, columns in self.products) * self.tile * self.number.size

    @property
    def rows(self) -> int:
        """At most how many numbers of a sequence are summed over the units at once."""
        return self.shape.rows[self.is_backward]

    @cached_property
    def product_warps(self) -> int:
        """Those that multiply; of a cell without a product none does."""
        return max((rows // 16 // self.warp_tiles * self.split for rows, _ in self.products), default=0)

    @cached_property
    def warps(self) -> int:
        """Those of the product, and of a small network up to eight, so that each thread has a unit of its own."""
        return self.product_warps if self.in_registers else max(self.product_warps, min(8, self.units * self.tile // 32))

    @property
    def threads(self) -> int:
        return 32 * self.warps

    @cached_property
    def weight_registers(self) -> int:
        """32-bit registers of a thread that hold weights."""
        return sum(self.warp_tiles * columns // (16 // self.number.size * 4) // self.split * 8 for _, columns in self.products)

    @cached_property
    def shared_bytes(self) -> int:
        """Shared memory of a block, as kernels/exchange.cuh or reduce_scatter.cuh, product.cuh and forward.cuh or backward.cuh have it."""
        size, alone, exchanges, sums = self.number.size, self.blocks == 1, 0, 0
        for rows, columns in self.products:
            pitch = columns + {64: 0, 0: 64}.get(columns * size % 128, 32) // size
            vectors = 2 * self.tile * pitch * size
            if self.is_reduce_scatter:
                exchanges += vectors + 16 + (2 * self.blocks * (self.tile * self.units + 8) * 4 if self.is_cluster else 0)
                continue
            exchanges += vectors if alone or self.is_cluster else 0
            exchanges += (0 if alone else self.warps * (columns // (self.blocks * self.units)) * 32 * size) + 16
            sums = max(sums, 0 if self.in_registers else self.split * self.tile * (-(-rows // 32) * 32 + 4) * 4)
        operands = self.shape.operands if self.is_backward else self.shape.vectors
        rest = self.ring * self.tile * operands * self.units * size + len(self.shape.own) * self.units * 4
        if self.rows:
            slots = 2 * self.blocks if self.is_cluster and not alone else 0
            rest += (self.units // 16 + 1 + slots) * self.rows * self.tile * 4 + 16
        return exchanges + sums + rest

    @property
    def mailbox_numbers(self) -> int:
        """Numbers of global memory that a group exchanges through."""
        if self.is_cluster or self.blocks == 1:
            return 0
        exchanged = self.exchanged_bytes * (self.blocks if self.is_reduce_scatter else 1)
        return 2 * (exchanged + self.tile * self.blocks * self.rows * 4) // self.number.size

    @property
    def flags(self) -> int:
        """By which a group's blocks tell each other that numbers are there."""
        return self.blocks * (len(self.products) + (self.rows > 0))

    @property
    def defines(self) -> dict[str, int]:
        """The macros that kernels/shape.cuh reads."""
        return {
            "ELMAN_NUMBER": int(self.number),
            "ELMAN_HIDDEN": self.hidden,
            "ELMAN_BLOCKS": self.blocks,
            "ELMAN_UNITS": self.units,
            "ELMAN_TILE": self.tile,
            "ELMAN_WARP_TILES": self.warp_tiles,
            "ELMAN_SPLIT": self.split,
            "ELMAN_IN_REGISTERS": int(self.in_registers),
            "ELMAN_CLUSTER": int(self.is_cluster),
            "ELMAN_REDUCE_SCATTER": int(self.is_reduce_scatter),
            "ELMAN_SPANS": int(self.has_spans),
            "ELMAN_TRACED": int(self.is_traced),
            "ELMAN_RING": self.ring,
            "ELMAN_WARPS": self.warps,
            "ELMAN_SHARED_BYTES": self.shared_bytes,  # this one and the next are asserted alone
            "ELMAN_MAILBOX_NUMBERS": self.mailbox_numbers,
        }

    @property
    def entry(self) -> str:
        """The source text that instantiates the kernel ``scan``."""
        kind = "backward" if self.is_backward else "forward"
        cluster = f"__cluster_dims__({self.blocks}, 1, 1) " if self.is_cluster and self.blocks > 1 else ""
        headers = (
            "vector.h",
            "numbers.cuh",
            "memory.cuh",
            "shape.cuh",
            "product.cuh",
            "exchange.cuh",
            "reduce_scatter.cuh",
            "functions.cuh",
            "rows.cuh",
            "step.cuh",
            "stages.cuh",
            f"{kind}.cuh",
        )
        size = structs.layout(self.shape, self.is_backward).size
        return (
            "".join(f'#include "{header}"\n' for header in headers)
            + self.shape.source
            + self.shape.assertions
            + f"""using Call = elman::cuda::{kind.capitalize()}Call<Step>;
static_assert(sizeof(Call) == {size}, "as structs.py packs it");
extern "C" __global__ void {cluster}__launch_bounds__(elman::cuda::kThreads, 1)
    scan(const __grid_constant__ Call call) {{
  extern __shared__ __align__(128) char shared[];
  elman::cuda::{kind}<Step>(call, shared);
}}
"""
        )


# --- The choice ---------------------------------------------------------------------------------------------------------

# Microseconds of a step on an H200, from some 900 measured plans of RNN, GRU and LSTM (bfloat16 and tf32, H from 32 to 1024, B from 16
# to 128): a least-squares fit within 18 %. Of the plans measured for a network, the one that it chooses takes 1.6 % longer than the best
# one on the average.
_STEP = 0.188  # what every step takes: barriers, the chain of dependent instructions
_GLOBAL = 1.21  # more, through global memory
_CLUSTER_KB = 0.032  # each KiB that a block sends through a cluster
_GLOBAL_KB = 0.023  # each KiB that a block reads from global memory
_PRODUCT = 0.00085  # each instruction of the tensor cores
_SUM = 0.053  # each 4096 partial sums
_ITEM = 0.097  # each further unit of a thread, by the cell's weight
_CELL = 0.145  # the pointwise part, by the cell's weight
_HAVE_CLUSTERS_OF_16 = {(9, 0), (10, 0), (10, 3)}  # compute capabilities; others that know clusters have up to 8 blocks
_WIDE_CLUSTER = 0.08  # a cluster of 16: measured slower at equal bytes
_MAX_ITEMS = 16  # units of a thread
_OTHER_REGISTERS = 52  # of a thread, beside weights, sums and units: addresses, operands on their way


@lru_cache(maxsize=4096)
def choose(
    shape: CellShape,
    is_backward: bool,
    number: Number,
    hidden: int,
    sequences: int,
    directions: int,
    has_spans: bool,
    device: DeviceProperties,
    is_traced: bool = False,
    largest_cluster: int = 16,
) -> tuple[Plan, ...]:
    """The plan that the model expects to be fastest, those within a tenth of it, and one without a reduce-scatter; empty if none fits."""
    plans = [
        replace(plan, has_spans=has_spans, is_traced=is_traced)
        for tile in (8, 16, 32)
        if tile == 8 or tile < 2 * sequences
        for plan in candidates(shape, is_backward, number, hidden, tile, device, largest_cluster)
    ]
    expected = {plan: _expected(plan, sequences, directions, device) for plan in plans}
    ranked = sorted(plans, key=lambda plan: (expected[plan], _preference(plan)))
    found = [plan for plan in ranked if expected[plan] <= 1.1 * expected[ranked[0]]][:3]
    if all(plan.is_reduce_scatter for plan in found):  # a plan of the other way, if the registers of these do not suffice
        found += [plan for plan in ranked if not plan.is_reduce_scatter][:1]
    return tuple(found)


def _expected(plan: Plan, sequences: int, directions: int, device: DeviceProperties) -> float:
    """Microseconds of a step for all sequences."""
    groups = -(-sequences // plan.tile) * directions
    kilobytes = plan.exchanged_bytes / 1024
    weight = plan.shape.weight * (1.5 if plan.is_backward else 1.0)
    items = -(-plan.units * plan.tile // plan.threads)
    work = plan.number.size / 2 * (3 if plan.number is Number.FLOAT32 else 1)
    exchanges = len(plan.products) + plan.shape.sums[plan.is_backward]
    step = _STEP * max(1, exchanges) + _CELL * weight + _ITEM * weight * (items - 1)
    for rows, columns in plan.products:
        step += _SUM * plan.split * rows * plan.tile / 4096 + _PRODUCT * rows * columns / 256 * plan.tile / 8 * work
    at_once = resident_groups(plan, device)
    if plan.mailbox_numbers:
        step += _GLOBAL * exchanges + _GLOBAL_KB * kilobytes * (2 if plan.is_reduce_scatter else 1)  # which writes as much
    elif plan.blocks > 1:
        step += _CLUSTER_KB * kilobytes + (_WIDE_CLUSTER if plan.blocks == 16 else 0.0)
        registers = min(255, plan.weight_registers + 60 + plan.warp_tiles * plan.tile // 2)
        beside = min(2, device.registers // (registers * plan.threads), device.shared_bytes // plan.shared_bytes)
        if beside == 2 and groups > at_once:  # two blocks share a multiprocessor
            step, at_once = step * 1.25, at_once * 2
    return step * -(-groups // at_once)


def resident_groups(plan: Plan, device: DeviceProperties) -> int:
    """Groups of blocks, one block a multiprocessor, that run at once: a cluster lies within one of the processor's parts of 16 or 18."""
    if plan.is_cluster and plan.blocks >= 8:
        return max(1, device.multiprocessors * {8: 15, 16: 7}[plan.blocks] // 132)
    return max(1, device.multiprocessors // plan.blocks)


def _preference(plan: Plan) -> float:
    """Among plans of the same expectation: how far from what was measured best, eight warps that share columns by four."""
    return abs(log2(plan.warps / 8)) + 0.4 * abs(log2(plan.split / 4)) + 0.5 * (plan.weight_registers > 96)


def candidates(
    shape: CellShape, is_backward: bool, number: Number, hidden: int, tile: int, device: DeviceProperties, largest_cluster: int = 16
) -> Iterator[Plan]:
    """The plans that fit the device, for each way to share the units the one whose warps are arranged best.

    Blocks that are more than half padding, or have no unit of the network, are made only where there is no other plan.
    """
    if not any(shape.products) and not shape.rows[is_backward]:
        yield from _unconnected(shape, is_backward, number, hidden, tile, device)
        return
    largest = 1 if device.capability < (9, 0) else 16 if device.capability in _HAVE_CLUSTERS_OF_16 else 8
    clusters = [blocks for blocks in (2, 4, 8, 16) if blocks <= min(largest, largest_cluster)]
    exchanges = [(1, True), *[(blocks, True) for blocks in clusters]]
    exchanges += [(blocks, False) for blocks in (4, 8, 16, 24, 32, 48, 64, 96, 128) if blocks <= device.multiprocessors]
    for wasteful in (False, True):
        found = False
        for (blocks, is_cluster), multiple, is_reduce_scatter in product(exchanges, (16, 32) if wasteful else (16,), (False, True)):
            if is_reduce_scatter and not (is_backward and blocks > 1 and _exchanges_less(shape, number, is_cluster, device)):
                continue
            units = -(-hidden // (multiple * blocks)) * multiple
            if blocks > 1 and units * (blocks - 1) >= hidden and (not wasteful or blocks * units > 2 * hidden):
                continue  # a block without units
            plans = _arrangements(shape, is_backward, number, hidden, tile, blocks, units, is_cluster, is_reduce_scatter, device)
            for plan in sorted(plans, key=_preference)[:2]:
                found = True
                yield plan
        if found:
            return


def _exchanges_less(shape: CellShape, number: Number, is_cluster: bool, device: DeviceProperties) -> bool:
    """Whether parts of the state's gradient, float32's, are fewer bytes than all gates' gradients, and it was not measured that they are
    slower or not at all.

    On an H200 they were faster, an LSTM of 256 units by a tenth; but in 16 bits through global memory slower, one of 1024 units by two
    fifths. Through global memory a block writes as much as it reads: nobody has tried it where the second-level cache is small.
    """
    is_less = sum(map(len, shape.products)) * number.size > 4 * sum(map(bool, shape.products))
    return is_less and (is_cluster or (number.size == 4 and device.capability >= (9, 0) and device.l2_bytes >= 40 << 20))


def _unconnected(shape: CellShape, is_backward: bool, number: Number, hidden: int, tile: int, device: DeviceProperties) -> Iterator[Plan]:
    """Of a cell without a product, whose units know nothing of each other: blocks that exchange nothing, a unit a thread or some."""
    for units, ring in ((32, 8), (16, 8), (16, 4)):
        plan = Plan(shape, is_backward, number, hidden, -(-hidden // units), units, tile, 1, 1, False, is_cluster=False, ring=ring)
        if plan.shared_bytes <= device.shared_bytes:
            yield plan
            return


def _products(shape: CellShape, is_backward: bool, blocks: int, units: int, is_reduce_scatter: bool) -> tuple[tuple[int, int], ...]:
    """``Plan.products``."""
    counts, padded = [len(gates) for gates in shape.products if gates], blocks * units
    if is_reduce_scatter:
        return tuple((padded, gates * units) for gates in counts)
    return tuple((units, gates * padded) if is_backward else (gates * units, padded) for gates in counts)


def _arrangements(
    shape: CellShape,
    is_backward: bool,
    number: Number,
    hidden: int,
    tile: int,
    blocks: int,
    units: int,
    is_cluster: bool,
    is_reduce_scatter: bool,
    device: DeviceProperties,
) -> Iterator[Plan]:
    """How warps can share a block's weights: those that fit its registers and shared memory."""
    products, gates = _products(shape, is_backward, blocks, units, is_reduce_scatter), shape.gates
    for warp_tiles, split, in_registers in product(range(1, 9), (1, 2, 4, 8, 16), (False, True)):
        if any(rows // 16 % warp_tiles or columns % (64 // number.size * split) for rows, columns in products):
            continue
        if not products and (warp_tiles, split) != (1, 1):  # nobody multiplies
            continue
        if is_reduce_scatter and (split > 1 or in_registers):  # a warp has whole parts, and sends them
            continue
        if in_registers and (split > 1 or len(shape.products) > 1 or shape.rows[is_backward] or (not is_backward and warp_tiles % gates)):
            continue
        plan = Plan(shape, is_backward, number, hidden, blocks, units, tile, warp_tiles, split, in_registers, is_cluster, is_reduce_scatter)
        items = -(-units * tile // plan.threads)
        if not 1 <= plan.warps <= 16 or items > _MAX_ITEMS:
            continue
        sums = warp_tiles * tile // 2 * (2 if warp_tiles * tile < 32 else 1)
        of_unit = 4 + 2 * max(0, shape.states - 2) + is_backward * len(shape.own) + shape.held[is_backward]
        if plan.weight_registers + sums + of_unit * items + _OTHER_REGISTERS > min(255, device.registers // plan.threads):
            continue
        if plan.shared_bytes <= device.shared_bytes:
            yield plan
